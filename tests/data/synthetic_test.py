"""The planted language follows its closed forms."""

import collections
import functools
import itertools
import math

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws

NUM_SEGMENTS = 8_000
LANGUAGES = {
  'default': synthetic.Language(),
  'one structure': synthetic.Language(shares=(0, 0, 0, 1, 0), max_depth=3),
  'flat brackets': synthetic.Language(max_depth=1),
  'others': synthetic.Language(
    shares=(0.3, 0.1, 0.1, 0.2, 0.3),
    bigram_stop=0.5,
    ngram_stop=1.0,
    skip_stop=0.1,
    bracket_open=0.3,
    max_depth=6,
    num_repeats=5,
    max_repeat=5,
    repeat_stop=0.05,
  ),
  'second version': synthetic.LANGUAGES['planted2'],
  'quotes without nesting': synthetic.Language(
    shares=(0, 0, 0, 1, 0), max_depth=1, quote=0.3, quote_stop=1.0
  ),
}


@functools.cache
def drawn(language, count=NUM_SEGMENTS, seed=1):
  rng = np.random.default_rng(seed)
  return list(itertools.islice(synthetic.segments(language, rng), count))


@pytest.mark.sampled(2)
@pytest.mark.parametrize('name', LANGUAGES)
def test_counts_and_floors_agree_with_the_closed_forms(name):
  """Means over segments, within 5 standard errors of the closed forms."""
  drawn_segments, laws = (
    drawn(LANGUAGES[name]),
    synthetic_laws.laws(LANGUAGES[name]),
  )
  sums = {kind: np.zeros((2, len(drawn_segments))) for kind in laws}
  for i, segment in enumerate(drawn_segments):
    for kind, nats in zip(segment.kinds, segment.surprisals, strict=True):
      sums[kind][:, i] += 1, nats
  for kind, law in laws.items():
    assert sums[kind][0].any(), kind
    expected = law.count, law.count * law.floor
    error = sums[kind].std(axis=1) / math.sqrt(len(drawn_segments)) + 1e-12
    away = abs(sums[kind].mean(axis=1) - expected)
    assert (away < 5 * error).all(), kind


class LawTest(absltest.TestCase):
  def test_the_mean_surprisal_of_a_text_is_the_floor(self):
    drawn_segments = drawn(LANGUAGES['default'])
    nats = [sum(segment.surprisals) for segment in drawn_segments]
    lengths = [len(segment.symbols) for segment in drawn_segments]
    mean = sum(nats) / sum(lengths)
    self.assertLess(
      abs(mean - synthetic_laws.floor(LANGUAGES['default'])), 0.01
    )

  def test_determined_kinds_have_floor_0(self):
    laws = synthetic_laws.laws(LANGUAGES['default'])
    for kind in ('ngram', 'skip', 'repeat'):
      self.assertEqual(laws[kind].floor, 0)


class SurprisalTest(absltest.TestCase):
  """Surprisals agree with frequencies counted in drawn text."""

  def test_surprisals_are_the_frequencies_of_bigrams(self):
    language = synthetic.Language(shares=(1, 0, 0, 0, 0))
    follows, stated = collections.Counter(), {}
    for segment in drawn(language, 4_000):
      for i, symbol in enumerate(segment.symbols[1:], 1):
        pair = segment.symbols[i - 1], symbol
        follows[pair] += 1
        stated[pair] = segment.surprisals[i]
    totals = collections.Counter()
    for (first, _), count in follows.items():
      totals[first] += count
    for pair, surprisal in stated.items():
      odds, total = math.exp(-surprisal), totals[pair[0]]
      error = math.sqrt(odds * (1 - odds) / total)
      self.assertLess(abs(follows[pair] / total - odds), 5 * error)

  def test_surprisals_are_the_frequencies_of_brackets_by_depth(self):
    """Counts what follows a stack of each depth in bracket segments."""
    language = synthetic.Language(shares=(0, 0, 0, 1, 0), bracket_open=0.3)
    outcomes = collections.defaultdict(collections.Counter)
    stated = {}
    for segment in drawn(language):
      depth = 1
      for symbol, surprisal in zip(
        segment.symbols[1:], segment.surprisals[1:], strict=True
      ):
        opens = symbol in '([{<'
        outcomes[depth][symbol if opens else 'close'] += 1
        stated[depth, symbol if opens else 'close'] = surprisal
        depth += 1 if opens else -1
    self.assertEqual(max(outcomes), language.max_depth)
    for (depth, symbol), surprisal in stated.items():
      odds, total = math.exp(-surprisal), outcomes[depth].total()
      error = math.sqrt(odds * (1 - odds) / total) + 1e-12
      frequency = outcomes[depth][symbol] / total
      self.assertLess(abs(frequency - odds), 5 * error)


class StructureTest(absltest.TestCase):
  def segments_of(self, structure):
    shares = tuple(float(name == structure) for name in synthetic.STRUCTURES)
    return drawn(synthetic.Language(shares=shares), 500)

  def test_brackets_close_in_order(self):
    pairs = dict(zip(')]}>', '([{<', strict=True))
    for segment in self.segments_of('bracket'):
      stack = []
      for symbol in segment.symbols:
        if symbol in pairs:
          self.assertEqual(stack.pop(), pairs[symbol])
        else:
          stack.append(symbol)
      self.assertEmpty(stack)

  def test_the_second_half_repeats_the_first(self):
    for segment in self.segments_of('repeat'):
      text = ' '.join(segment.symbols)
      first, second = text.removeprefix('<<').removesuffix('>>').split('==')
      self.assertEqual(first, second)
      self.assertLen(set(first.split()), len(first.split()))

  def test_two_symbols_determine_a_word(self):
    words = synthetic.tables(synthetic.Language()).words
    self.assertLen({(a, b) for a, b, *_ in words.tolist()}, len(words))
    ended = {}
    for segment in self.segments_of('ngram'):
      for i in range(0, len(segment.symbols) - 1, 4):
        start, end = segment.symbols[i : i + 2], segment.symbols[i + 2 : i + 4]
        self.assertEqual(ended.setdefault(tuple(start), end), end)

  def test_sources_point_to_the_determining_symbol(self):
    """The same symbol, its opening bracket, its source, or two before."""
    opening = dict(zip(')]}>', '([{<', strict=True))
    for name in ('ngram', 'skip', 'bracket', 'repeat'):
      for segment in self.segments_of(name):
        for place, (symbol, source) in enumerate(
          zip(segment.symbols, segment.sources, strict=True)
        ):
          origin = segment.symbols[source] if source >= 0 else None
          kind = segment.kinds[place]
          if kind == 'repeat' and symbol != '>>':
            self.assertEqual(origin, symbol)
          elif kind == 'repeat':
            self.assertEqual(origin, '==')
          elif kind == 'skip':
            self.assertEqual(origin, 's' + symbol[1:])
          elif kind == 'ngram':
            self.assertEqual(source, place - 2)
          elif symbol in opening:
            self.assertEqual(origin, opening[symbol])
            between = segment.symbols[source + 1 : place]
            self.assertEqual(len(between) % 2, 0)  # All of it closed.
          else:
            self.assertIsNone(origin)

  def test_the_target_of_a_skip_matches_its_source(self):
    for segment in self.segments_of('skip'):
      self.assertEqual(segment.symbols[-1], 't' + segment.symbols[0][1:])

  def test_structures_share_no_symbol(self):
    used = [
      {symbol for segment in self.segments_of(name) for symbol in segment[0]}
      for name in synthetic.STRUCTURES
    ]
    self.assertEqual(sum(map(len, used)), len(set().union(*used)))
    self.assertContainsSubset(
      set().union(*used), synthetic.symbols(synthetic.Language())
    )

  def test_quotes_end_as_they_began_and_close_no_bracket(self):
    language = synthetic.LANGUAGES['planted2']._replace(shares=(0, 0, 0, 1, 0))
    marks, quotes = ('"', "'"), 0
    for segment in drawn(language, 500):
      inside = None
      for place, symbol in enumerate(segment.symbols):
        if symbol in marks:
          inside, quotes = None if inside else symbol, quotes + 1
          if segment.kinds[place] == 'quote_close':
            source = segment.sources[place]
            self.assertEqual(segment.symbols[source], symbol)
            between = segment.symbols[source + 1 : place]
            self.assertTrue(between and all(x[0] == 'q' for x in between))
        else:
          self.assertEqual(inside is not None, symbol[0] == 'q')
    self.assertGreater(quotes, 100)

  def test_words_of_the_second_version_have_zipf_s_odds(self):
    language = synthetic.LANGUAGES['planted2']
    odds = np.sort(synthetic.tables(language).odds.ravel())[::-1]
    self.assertLen(odds, 512)
    np.testing.assert_allclose(odds * np.arange(1, 513), odds[0])
    drawn_words = collections.Counter(
      tuple(segment.symbols[i : i + 4])
      for segment in drawn(language._replace(shares=(0, 1, 0, 0, 0)), 4_000)
      for i in range(0, len(segment.symbols) - 1, 4)
    )
    commonest = drawn_words.most_common(1)[0][1] / drawn_words.total()
    self.assertAlmostEqual(commonest, odds[0], delta=0.02)

  def test_the_seed_determines_the_text(self):
    language = synthetic.Language()
    self.assertEqual(drawn(language, 50), drawn(language, 50))
    self.assertNotEqual(drawn(language, 50), drawn(language, 50, seed=2))


class TextTest(absltest.TestCase):
  def test_documents_are_reproducible_and_differ_by_language(self):
    """Every word is a symbol; a language's text depends on its name alone."""
    texts = {}
    for name, language in synthetic.LANGUAGES.items():
      alphabet = set(synthetic.symbols(language))
      read = synthetic.source(name).read
      texts[name] = list(itertools.islice(read(), 5))
      self.assertEqual(texts[name], list(itertools.islice(read(), 5)))
      self.assertContainsSubset(' '.join(texts[name]).split(), alphabet)
    drawn_texts = [text for group in texts.values() for text in group]
    self.assertLen(set(drawn_texts), len(drawn_texts))

  def test_variants_differ_in_one_structure(self):
    languages = list(synthetic.LANGUAGES.values())[:4]
    plain, flat, other, repeats = map(synthetic_laws.laws, languages)
    self.assertEqual(plain, other)
    self.assertEqual(repeats['repeat'].floor, 0)
    # Three times the share, so three times as many a segment.
    ratio = repeats['repeat'].count / plain['repeat'].count
    self.assertAlmostEqual(ratio, 3)
    same = {kind for kind in flat if flat[kind] == plain[kind]}
    self.assertEqual(
      set(plain) - same, {'bracket_open', 'bracket_nested', 'bracket_last'}
    )
    words = [synthetic.tables(language).words for language in languages]
    np.testing.assert_array_equal(words[0], words[1])
    np.testing.assert_array_equal(words[0][:, :2], words[2][:, :2])
    self.assertGreater((words[0][:, 2:] != words[2][:, 2:]).mean(), 0.8)

  def test_rows_hold_the_drawn_text_kinds_and_sources(self):
    language = synthetic.Language()
    ids = {x: i for i, x in enumerate(synthetic.symbols(language))}
    rows = synthetic.rows(
      language, ids, 99, np.random.default_rng(0), num_rows=50, length=33
    )
    (special,) = set(rows.tokens[:, 0])
    self.assertEqual((special, set(rows.kinds[:, 0])), (99, {-1}))
    stream = rows.tokens[:, 1:].ravel()
    text = drawn(language, 400, seed=0)
    expected = [ids[x] for segment in text for x in segment.symbols]
    np.testing.assert_array_equal(stream, expected[: stream.size])
    kinds = [synthetic.KINDS[i] for i in rows.kinds[:, 1:].ravel()]
    names = [kind for segment in text for kind in segment.kinds]
    self.assertEqual(kinds, names[: stream.size])
    places = np.argwhere(rows.sources >= 0)
    self.assertGreater(len(places), 200)
    repeats = synthetic.KINDS.index('repeat')
    for row, place in places:
      source = rows.sources[row, place]
      self.assertTrue(1 <= source < place)
      token, origin = rows.tokens[row, place], rows.tokens[row, source]
      if rows.kinds[row, place] == repeats and token != ids['>>']:
        self.assertEqual(token, origin)
    self.assertAlmostEqual(
      rows.surprisals[:, 1:].mean(), synthetic_laws.floor(language), delta=0.1
    )

  def test_kinds_are_those_of_the_laws(self):
    laws = synthetic_laws.laws(synthetic.LANGUAGES['planted2'])
    self.assertEqual(set(laws), set(synthetic.KINDS))
    first = set(synthetic_laws.laws(synthetic.Language()))
    quotes = {'quote_open', 'quote_inside', 'quote_close'}
    self.assertEqual(set(laws) - first, quotes)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(shares=(1.0,)), 'one a structure'),
    (dict(shares=(0.5, 0.5, 0.5, 0, 0)), 'add up to 1'),
    (dict(bigram_stop=0), 'must end'),
    (dict(max_repeat=25), 'max_repeat must be 1 to 24'),
    (dict(num_starts=17), 'num_starts must be 1 to 16'),
  )
  def test_invalid_languages_are_refused(self, changes, message):
    with self.assertRaisesRegex(ValueError, message):
      synthetic_laws.laws(synthetic.Language(**changes))


if __name__ == '__main__':
  absltest.main()
