"""Planted patterns are identified, and no others."""

from absl.testing import absltest
import numpy as np

from rllc_jax.analysis import brackets
from rllc_jax.analysis import multigrams

TEXTS = [*'abcdefgh', '(', ')', '[', ']', '])', '<eos>']
IDS = {text: i for i, text in enumerate(TEXTS)}


def rows_of(*lines):
  """Words to tokens, each row after the special one."""
  return np.array(
    [[IDS['<eos>'], *(IDS[x] for x in line.split())] for line in lines]
  )


def places_of(tokens, pair_odds=None, **options):
  rule = brackets.of_text(TEXTS, IDS['<eos>'])
  depths = brackets.depths_of(tokens, rule)
  return multigrams.places_of(tokens, depths, pair_odds or {}, **options)


def affected_at(places):
  """Affected predictions at (row, place)."""
  rows, ends = np.array(places).T
  return multigrams.Affected(rows, ends, np.ones(len(ends)))


def attention_to(tokens, places, attended):
  """What each position attends to most: itself, but before some places."""
  most = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))
  for (row, place), source in zip(places, attended, strict=True):
    most[row, place - 1] = source
  return most


def identify(tokens, places, attended=None, pair_odds=None, **options):
  """Patterns of single predictions, by (row, place)."""
  asked = {x: options.pop(x) for x in ('common',) if x in options}
  attended = (
    [place - 1 for _, place in places] if attended is None else attended
  )
  patterns = multigrams.identify(
    places_of(tokens, pair_odds, **asked),
    affected_at(places),
    attention_to(tokens, places, attended),
    **options,
  )
  labels = [multigrams.PATTERNS[i] for i in patterns.labels]
  return labels, patterns


class AffectedTest(absltest.TestCase):
  def test_the_worst_come_first_and_gains_are_left_out(self):
    effects = np.array([[0.0, 3.0, -1.0], [2.0, 0.5, 9.0]])
    affected = multigrams.most_affected(effects, 10)
    np.testing.assert_array_equal(affected.rows, [1, 0, 1, 1])
    np.testing.assert_array_equal(affected.places, [3, 2, 1, 2])
    np.testing.assert_array_equal(affected.effects, [9, 3, 2, 0.5])
    self.assertLen(multigrams.most_affected(effects, 2).rows, 2)

  def test_a_small_rise_never_counts(self):
    effects = np.array([[0.09, 0.1, 0.11]])
    affected = multigrams.most_affected(effects, 10)
    np.testing.assert_array_equal(affected.places, [3, 2])
    affected = multigrams.most_affected(effects, 10, least=0.2)
    self.assertEmpty(affected.rows)


class InductionTest(absltest.TestCase):
  def test_a_repeated_pair_is_induction(self):
    tokens = rows_of('a b c d a b', 'a c b d a b')
    labels, patterns = identify(tokens, [(0, 6), (1, 6), (0, 2)])
    self.assertEqual(labels, ['induction', 'other', 'other'])
    self.assertEqual(patterns.counts.tolist(), [1, 0, 0, 0, 0, 2])

  def test_a_common_pair_is_no_induction(self):
    tokens = rows_of('a b c d a b')
    pair = {(IDS['a'], IDS['b']): 0.06}
    self.assertEqual(identify(tokens, [(0, 6)], pair_odds=pair)[0], ['other'])
    labels, _ = identify(tokens, [(0, 6)], pair_odds=pair, common=0.06)
    self.assertEqual(labels, ['induction'])

  def test_an_overlapping_pair_counts_as_repeated(self):
    """In a a a the second pair overlaps the first, and still repeats it."""
    labels, _ = identify(rows_of('b a a a'), [(0, 3), (0, 4)])
    self.assertEqual(labels, ['other', 'induction'])


class DyckTest(absltest.TestCase):
  def test_closing_the_innermost_bracket_is_dyck(self):
    tokens = rows_of('( a [ b ] c ) d )')
    places = [(0, 5), (0, 7), (0, 9), (0, 3)]
    labels, _ = identify(tokens, places)
    self.assertEqual(labels, ['dyck_nested', 'dyck', 'other', 'other'])

  def test_the_wrong_bracket_closes_nothing(self):
    self.assertEqual(identify(rows_of('( a ]'), [(0, 3)])[0], ['other'])

  def test_a_token_may_close_two_brackets(self):
    labels, _ = identify(rows_of('( a [ b ]) c )'), [(0, 5), (0, 7)])
    self.assertEqual(labels, ['dyck_nested', 'other'])


class MultigramTest(absltest.TestCase):
  def test_ngrams_need_support_in_different_rows(self):
    """a b c four times, in three rows; d b c in two."""
    tokens = rows_of(
      'a b c f a b c h',
      'e a b c g f h d',
      'f e h a b c g e',
      'd b c e f g h a',
      'h d b c e g f a',
    )
    places = [(0, 3), (0, 7), (1, 4), (2, 6), (3, 3), (4, 4)]
    labels, patterns = identify(tokens, places)
    self.assertEqual(
      labels, ['ngram', 'induction', 'ngram', 'ngram', 'other', 'other']
    )
    abc = tuple(IDS[x] for x in 'abc')
    self.assertEqual(patterns.ngrams, {abc: 3})
    self.assertEqual(patterns.num_memorized, 1)
    _, fewer = identify(tokens, places, support=2)
    self.assertLen(fewer.ngrams, 2)

  def test_the_longer_ngram_wins(self):
    tokens = rows_of(*['a b c d'] * 3)
    _, patterns = identify(tokens, [(i, 4) for i in range(3)])
    self.assertEqual(patterns.ngrams, {tuple(IDS[x] for x in 'abcd'): 3})

  def test_skip_ngrams_contain_the_attended_token(self):
    """a ... h then b, with anything between; attended to, or it is none."""
    tokens = rows_of('a c d h b e', 'c a f h b e', 'a g e h b d')
    places = [(0, 5), (1, 5), (2, 5)]
    labels, patterns = identify(tokens, places, attended=[1, 2, 1])
    self.assertEqual(labels, ['skip_ngram'] * 3)
    triple = tuple(IDS[x] for x in 'ahb')
    self.assertEqual(patterns.skip_ngrams, {triple: 3})
    labels, patterns = identify(tokens, places, attended=[2, 1, 3])
    self.assertEqual(labels, ['other'] * 3)
    self.assertEqual(patterns.num_memorized, 0)

  def test_an_ngram_counts_where_the_head_attends_to_one_of_its_tokens(self):
    tokens = rows_of(*['e f a b c d'] * 4)
    places = [(i, 6) for i in range(4)]
    # 3 is the first of the three tokens before place 6; 2 is outside.
    for attended, expected in (
      ([3, 4, 5, 2], ['ngram'] * 3 + ['other']),
      ([4, 4, 2, 2], ['other'] * 4),
    ):
      labels, patterns = identify(tokens, places, attended=attended)
      self.assertEqual(labels, expected)
      self.assertEqual(patterns.num_memorized, int('ngram' in expected))
    # b c d alone, if another token comes before.
    tokens = rows_of('e f a b c d', 'e f b b c d', 'e f h b c d')
    places = places[:3]
    labels, patterns = identify(tokens, places, attended=[4, 4, 5])
    self.assertEqual(patterns.ngrams, {tuple(IDS[x] for x in 'bcd'): 3})

  def test_nothing_affected_is_no_pattern(self):
    empty = multigrams.Affected(*(np.zeros(0, int) for _ in range(3)))
    tokens = rows_of('a b c d')
    most = attention_to(tokens, [], [])
    patterns = multigrams.identify(places_of(tokens), empty, most)
    self.assertEqual(patterns.counts.sum(), 0)
    self.assertEqual(patterns.num_memorized, 0)

  def test_the_special_token_is_no_source(self):
    tokens = rows_of('c h b', 'd h b', 'e h b')
    labels, _ = identify(tokens, [(i, 3) for i in range(3)], attended=[0, 0, 0])
    self.assertEqual(labels, ['other'] * 3)


class NullTest(absltest.TestCase):
  def test_a_word_in_every_row_is_in_the_null(self):
    """Each row has it, so any three rows that effects are moved to do."""
    tokens = rows_of(*['a b c d'] * 5)
    places = [(i, 4) for i in range(3)]
    null = multigrams.null_memorized(
      places_of(tokens),
      affected_at(places),
      attention_to(tokens, [], []),
      np.array([1, 2]),
    )
    self.assertEqual(null, 1)

  def test_a_word_where_the_effects_are_is_not_in_the_null(self):
    tokens = rows_of(*['a b c d'] * 3, *['e f g h', 'g a f e', 'h g e b'])
    places = [(i, 4) for i in range(3)]
    count = lambda shifts, most: multigrams.null_memorized(
      places_of(tokens), affected_at(places), most, np.array(shifts)
    )
    most = attention_to(tokens, [], [])
    self.assertEqual(count([3], most), 0)
    self.assertEqual(count([0, 3, 6], most), 2 / 3)  # 0 and 6 move nothing.
    # Attention is that of the rows that effects are moved to.
    most[:3] = 0
    self.assertEqual(count([0], most), 0)

  def test_without_shifts_there_is_no_null(self):
    tokens = rows_of('a b c d')
    most = attention_to(tokens, [], [])
    null = multigrams.null_memorized(
      places_of(tokens), affected_at([(0, 4)]), most, np.array([])
    )
    self.assertTrue(np.isnan(null))


if __name__ == '__main__':
  absltest.main()
