r"""A synthetic language with planted structure and exact entropies.

A text is a sequence of segments. Each is drawn from one of five structures with
stated shares. No two structures share a symbol, so the current symbol shows the
structure:

  bigram   a3 a7 a1 a.              each a has four successors of stated odds
  ngram    b2 b9 b4 b4 b0 ... b.    words of four; two symbols fix the rest
  skip     s4 f1 f6 f0 ? t4         the source before the fillers fixes t
  bracket  ( [ ] { } )              closed in the order of a stack
  repeat   << r5 r1 r9 == r5 r1 r9 >>   the second half repeats the first

In the second version words are more and of unlike frequency, brackets may hold
quotes, ( " q3 q1 " [ ] ), which begin and end alike, and the marks of a
repeated string are no brackets.

An optimal reader knows the odds of every next symbol. Its mean loss over the
symbols of a kind is that kind's floor. `synthetic_laws` has floors and expected
counts in closed form; `segments` gives the surprisal of each symbol.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import math
from typing import NamedTuple

import numpy as np

from rllc_jax.data import documents

STRUCTURES = ('bigram', 'ngram', 'skip', 'bracket', 'repeat')
KINDS = (
  'start',
  'bigram',
  'ngram_choice',
  'ngram',
  'skip_filler',
  'skip',
  'bracket_open',
  'bracket_nested',
  'bracket_last',
  'repeat_new',
  'repeat',
  'quote_open',
  'quote_inside',
  'quote_close',
)
SUCCESSOR_ODDS = np.array([0.5, 0.25, 0.125, 0.125])
BRACKETS = ('()', '[]', '{}', '<>')
QUOTES = ('"', "'")


class Language(NamedTuple):
  """Settings of a planted language.

  Attributes:
    shares: of the segments, by structure, in the order of `STRUCTURES`; they
      add up to 1, and 0 leaves a structure out.
    seed: of successors and words.
    ending_seed: of the last two symbols of every word, besides.
    num_bigrams: symbols a, each with four successors.
    bigram_stop: odds that a bigram segment ends after a symbol.
    num_ngrams: symbols b.
    num_starts: of these, how many begin a word.
    num_seconds: words that share a first symbol; their second symbols differ.
    ngram_stop: odds that a segment ends after a word.
    num_skips: sources and targets.
    num_fillers: symbols between a source and its target.
    skip_stop: odds that no more fillers come.
    bracket_open: odds that a bracket opens and not closes, where both can.
    max_depth: brackets open at once, at most.
    num_repeats: symbols that repeated strings are made of, each once a string.
    repeat_stop: odds that a string ends after a symbol, the first excepted.
    max_repeat: its longest.
    zipf: words have odds of 1 / rank^zipf; at 0 they are all alike.
    quote: odds that a quote begins where a bracket could close.
    quote_stop: odds that it ends after a symbol q, the first excepted.
    num_quoted: symbols q.
    marks: before, between and after the halves of a repeated string.
  """

  shares: tuple[float, ...] = (0.15, 0.25, 0.2, 0.2, 0.2)
  seed: int = 0
  ending_seed: int = 0
  num_bigrams: int = 16
  bigram_stop: float = 0.125
  num_ngrams: int = 16
  num_starts: int = 8
  num_seconds: int = 4
  ngram_stop: float = 0.25
  num_skips: int = 8
  num_fillers: int = 8
  skip_stop: float = 0.4
  bracket_open: float = 0.5
  max_depth: int = 4
  num_repeats: int = 24
  repeat_stop: float = 0.2
  max_repeat: int = 8
  zipf: float = 0.0
  quote: float = 0.0
  quote_stop: float = 0.4
  num_quoted: int = 8
  marks: tuple[str, str, str] = ('<<', '==', '>>')


class Segment(NamedTuple):
  """One instance of a structure.

  Attributes:
    symbols: its text.
    kinds: of each, what it depends on; one of `KINDS`.
    surprisals: of each, -ln of its odds given all before it, nats.
    sources: of each, the place of an earlier symbol that determines it, the one
      just before it excepted. For an n-gram that is the symbol two before, for
      a skip n-gram its source, for a closing bracket or quote its opening one,
      for the second half of a string the symbol that it repeats; -1 for other
      kinds.
  """

  symbols: list[str]
  kinds: list[str]
  surprisals: list[float]
  sources: list[int]


class Tables(NamedTuple):
  """Successors and words, which the seed determines.

  Attributes:
    successors: [num_bigrams, 4], of each symbol a.
    words: [num_starts * num_seconds, 4], symbols b; those that share a first
      symbol stand together.
    odds: [num_starts, num_seconds], of the words, in that order.
  """

  successors: np.ndarray
  words: np.ndarray
  odds: np.ndarray

  @property
  def first_odds(self) -> np.ndarray:
    """Odds of the first symbol of a word, [num_starts]."""
    return self.odds.sum(axis=1)


def tables(language: Language) -> Tables:
  """The successors and words of a language."""
  rng = np.random.default_rng(language.seed)
  count, places = language.num_bigrams, len(SUCCESSOR_ODDS)
  successors = [rng.permutation(count)[:places] for _ in range(count)]
  firsts = rng.permutation(language.num_ngrams)[: language.num_starts]
  starts = [
    (first, second)
    for first in firsts
    for second in rng.permutation(language.num_ngrams)[: language.num_seconds]
  ]
  # A separate generator, so that languages can differ in endings alone.
  ending_rng = np.random.default_rng((language.seed, language.ending_seed))
  endings = ending_rng.integers(language.num_ngrams, size=(len(starts), 2))
  words = np.concatenate([np.array(starts), endings], axis=1)
  ranks = 1.0 + ending_rng.permutation(len(words))
  odds = ranks**-language.zipf
  shape = language.num_starts, language.num_seconds
  return Tables(np.array(successors), words, (odds / odds.sum()).reshape(shape))


def symbols(language: Language) -> list[str]:
  """Lists every symbol of a language, whatever its shares."""
  numbered = {
    'a': language.num_bigrams,
    'b': language.num_ngrams,
    's': language.num_skips,
    't': language.num_skips,
    'f': language.num_fillers,
    'r': language.num_repeats,
  }
  names = [f'{x}{i}' for x, count in numbered.items() for i in range(count)]
  quoted = (
    [f'q{i}' for i in range(language.num_quoted)] if language.quote else []
  )
  quotes = [*QUOTES, *quoted] if language.quote else []
  return [*names, 'a.', 'b.', '?', *''.join(BRACKETS), *quotes, *language.marks]


def segments(language: Language, rng: np.random.Generator) -> Iterator[Segment]:
  """Draws segments without end, from the generator as they are consumed."""
  check(language)
  draw = _Drawing(language, tables(language), rng)
  while True:
    which = rng.choice(len(STRUCTURES), p=language.shares)
    written = Segment([], [], [], [])
    _SEGMENTS[STRUCTURES[which]](draw, written)
    # Its first symbol reveals the structure, so it carries that surprisal, too.
    written.kinds[0] = 'start'
    written.surprisals[0] -= math.log(language.shares[which])
    yield written


def check(language: Language) -> None:
  """Raises ValueError unless the settings define a language."""
  shares = np.array(language.shares, float)
  if len(shares) != len(STRUCTURES) or (shares < 0).any():
    raise ValueError(
      f'shares must be one a structure, {", ".join(STRUCTURES)}, and none '
      f'negative, because segments are drawn by them; got {language.shares}.'
    )
  if abs(shares.sum() - 1) > 1e-9:
    raise ValueError(
      f'shares must add up to 1, because a segment has one structure; got '
      f'{shares.sum():g}.'
    )
  stops = 'bigram_stop', 'ngram_stop', 'skip_stop', 'repeat_stop', 'quote_stop'
  for name in stops:
    if not 0 < getattr(language, name) <= 1:
      raise ValueError(
        f'{name} must lie in (0, 1], because a segment must end; got '
        f'{getattr(language, name)}.'
      )
  if not 0 <= language.quote < 1 - language.bracket_open:
    raise ValueError(
      'quote must lie in [0, 1 - bracket_open), because a bracket must close '
      f'at some time; got {language.quote}.'
    )
  limits = {
    'num_starts': language.num_ngrams,
    'num_seconds': language.num_ngrams,
    'max_repeat': language.num_repeats,
  }
  for name, most in limits.items():
    if not 1 <= getattr(language, name) <= most:
      raise ValueError(
        f'{name} must be 1 to {most}, as many symbols as there are; got '
        f'{getattr(language, name)}.'
      )


# Texts.

_SEGMENTS_A_DOCUMENT = 64
_DOCUMENTS = 1_000_000  # Only a bound: the cap of a corpus ends the reading.

# The language, and three that differ from it in one structure each: no nested
# brackets, other endings of words, more segments that are repeated strings.
# The second version has more to memorize and fewer repetitions, as text has.
_SECOND = Language(
  shares=(0.12, 0.4, 0.2, 0.2, 0.08),
  seed=2,
  num_ngrams=64,
  num_starts=32,
  num_seconds=16,
  num_skips=64,
  zipf=1.0,
  bracket_open=0.4,
  quote=0.2,
  marks=('first', 'again', 'done'),
)


def _with_repeats(share: float) -> Language:
  """The second version with another share of repeated strings."""
  *others, own = _SECOND.shares
  kept = [(1 - share) / (1 - own) * x for x in others]
  return _SECOND._replace(shares=(*kept, share))


LANGUAGES: Mapping[str, Language] = {
  'planted': Language(),
  'planted_flat': Language(max_depth=1),
  'planted_words': Language(ending_seed=1),
  'planted_repeats': Language(shares=(0.075, 0.125, 0.1, 0.1, 0.6)),
  'planted2': _SECOND,
  'planted2_repeats': _SECOND._replace(shares=(0.06, 0.2, 0.1, 0.1, 0.54)),
  # Other shares of repeats, and fewer words: see experiments.paper.repeats.
  'planted2_repeats_2': _with_repeats(0.02),
  'planted2_repeats_20': _with_repeats(0.2),
  'planted2_repeats_40': _with_repeats(0.4),
  'planted2_words_32': _SECOND._replace(num_starts=8, num_seconds=4),
  'planted2_words_128': _SECOND._replace(num_starts=16, num_seconds=8),
}


def source(name: str) -> documents.Source:
  """Builds a source of documents in a language, symbols joined by spaces."""

  def read() -> Iterator[str]:
    # The name is part of the seed: no two languages share a document.
    rng = np.random.default_rng([*name.encode()])
    drawn = segments(LANGUAGES[name], rng)
    for _ in range(_DOCUMENTS):
      document = itertools.islice(drawn, _SEGMENTS_A_DOCUMENT)
      yield ' '.join(x for segment in document for x in segment.symbols)

  return documents.Source(name, 'Apache-2.0, made here', None, read)


class Rows(NamedTuple):
  """Packed text with kind, surprisal and source of every token.

  Attributes:
    tokens: [N, T], the special token first.
    kinds: [N, T], of each token, a place in `KINDS`; -1 for special ones.
    surprisals: [N, T], nats; 0 for special ones.
    sources: [N, T], the column of the token that determines each; -1 where
      none in the row does.
  """

  tokens: np.ndarray
  kinds: np.ndarray
  surprisals: np.ndarray
  sources: np.ndarray


def rows(
  language: Language,
  ids: Mapping[str, int],
  eos_id: int,
  rng: np.random.Generator,
  *,
  num_rows: int,
  length: int,
) -> Rows:
  """Draws rows as a corpus has them, each begun anywhere in a document.

  The source of a symbol may lie before its row, so losses near the start of a
  row are above the floor for any reader.

  Args:
    language: of the text.
    ids: of the symbols.
    eos_id: the special token.
    rng: draws the text; used up.
    num_rows: N.
    length: T.
  """
  count = num_rows * (length - 1)
  tokens, kinds, surprisals, sources = [], [], [], []
  drawn = segments(language, rng)
  while len(tokens) < count:
    segment = next(drawn)
    start = len(tokens)
    sources += [x if x < 0 else start + x for x in segment.sources]
    tokens += [ids[symbol] for symbol in segment.symbols]
    kinds += [KINDS.index(kind) for kind in segment.kinds]
    surprisals += segment.surprisals
  fold = lambda values, first: np.concatenate(
    [
      np.full((num_rows, 1), first),
      np.reshape(values[:count], (num_rows, length - 1)),
    ],
    axis=1,
  )
  # A place in the stream as a column; column 0 holds the special token.
  begins = np.arange(num_rows)[:, None] * (length - 1)
  columns = fold(sources, -1) - begins + 1
  in_row = (columns >= 1) & (fold(sources, -1) >= 0)
  return Rows(
    fold(tokens, eos_id),
    fold(kinds, -1),
    fold(surprisals, 0.0),
    np.where(in_row, columns, -1),
  )


# Segments.


class _Drawing(NamedTuple):
  """A language, its tables, and the generator that draws from them."""

  language: Language
  tables: Tables
  rng: np.random.Generator


def _write(
  segment: Segment, symbol: str, kind: str, odds: float, source: int = -1
) -> None:
  """Appends one symbol to a segment."""
  segment.symbols.append(symbol)
  segment.kinds.append(kind)
  segment.surprisals.append(-math.log(odds))
  segment.sources.append(source)


def _bigram(draw: _Drawing, out: Segment) -> None:
  language, rng = draw.language, draw.rng
  stop, count = language.bigram_stop, language.num_bigrams
  current = rng.integers(count)
  _write(out, f'a{current}', 'start', 1 / count)
  while rng.random() >= stop:
    place = rng.choice(len(SUCCESSOR_ODDS), p=SUCCESSOR_ODDS)
    current = draw.tables.successors[current, place]
    odds = (1 - stop) * SUCCESSOR_ODDS[place]
    _write(out, f'a{current}', 'bigram', odds)
  _write(out, 'a.', 'bigram', stop)


def _ngram(draw: _Drawing, out: Segment) -> None:
  language, rng = draw.language, draw.rng
  stop, going = language.ngram_stop, 1.0  # The first word is certain to come.
  words, odds = draw.tables.words, draw.tables.odds
  while True:
    which = (
      rng.choice(len(words), p=odds.ravel())
      if language.zipf
      else rng.integers(len(words))  # As the first version's texts were drawn.
    )
    first, second, *rest = (f'b{i}' for i in words[which])
    start = which // language.num_seconds
    first_odds = draw.tables.first_odds[start]
    _write(out, first, 'ngram_choice', going * first_odds)
    _write(out, second, 'ngram_choice', odds.flat[which] / first_odds)
    for symbol in rest:  # Determined, hence of odds 1.
      _write(out, symbol, 'ngram', 1.0, len(out.symbols) - 2)
    going = 1 - stop
    if rng.random() < stop:
      return _write(out, 'b.', 'ngram_choice', stop)


def _skip(draw: _Drawing, out: Segment) -> None:
  language, rng = draw.language, draw.rng
  stop, source = language.skip_stop, rng.integers(language.num_skips)
  _write(out, f's{source}', 'start', 1 / language.num_skips)
  while rng.random() >= stop:
    filler = rng.integers(language.num_fillers)
    odds = (1 - stop) / language.num_fillers
    _write(out, f'f{filler}', 'skip_filler', odds)
  _write(out, '?', 'skip_filler', stop)
  _write(out, f't{source}', 'skip', 1.0, 0)


def _bracket(draw: _Drawing, out: Segment) -> None:
  language, rng = draw.language, draw.rng
  count = len(BRACKETS)
  stack = [(BRACKETS[rng.integers(count)], 0)]  # Open pairs and their places.
  _write(out, stack[0][0][0], 'start', 1 / count)
  while stack:
    if language.quote and rng.random() < language.quote:
      _quote(draw, out)
      continue
    free, closes = _free_odds(language, len(stack))
    if rng.random() * (free + closes) < free:
      stack.append((BRACKETS[rng.integers(count)], len(out.symbols)))
      _write(out, stack[-1][0][0], 'bracket_open', free / count)
    else:
      kind = 'bracket_nested' if len(stack) > 1 else 'bracket_last'
      pair, place = stack.pop()
      _write(out, pair[1], kind, closes, place)


def _free_odds(language: Language, depth: int) -> tuple[float, float]:
  """Odds that a bracket opens, and that one closes, at a depth of 1 or more."""
  opens = language.bracket_open if depth < language.max_depth else 0.0
  return opens, 1 - opens - language.quote


def _quote(draw: _Drawing, out: Segment) -> None:
  """A quote within brackets: its mark, symbols q, and the same mark."""
  language, rng = draw.language, draw.rng
  place, mark = len(out.symbols), QUOTES[rng.integers(len(QUOTES))]
  _write(out, mark, 'quote_open', language.quote / len(QUOTES))
  going = 1.0  # At least one symbol is quoted.
  while True:
    odds = going / language.num_quoted
    _write(out, f'q{rng.integers(language.num_quoted)}', 'quote_inside', odds)
    going = 1 - language.quote_stop
    if rng.random() < language.quote_stop:
      return _write(out, mark, 'quote_close', language.quote_stop, place)


def _repeat(draw: _Drawing, out: Segment) -> None:
  language, rng = draw.language, draw.rng
  string = rng.permutation(language.num_repeats)[: language.max_repeat]
  begins, again, ends = language.marks
  _write(out, begins, 'start', 1.0)
  length = 0
  for i, symbol in enumerate(string):
    stop = language.repeat_stop if i else 0.0
    if rng.random() < stop:
      break
    odds = (1 - stop) / (language.num_repeats - i)
    _write(out, f'r{symbol}', 'repeat_new', odds)
    length += 1
  full = length == language.max_repeat  # Then `again` is the only choice.
  _write(out, again, 'repeat_new', 1.0 if full else language.repeat_stop)
  for place, symbol in enumerate(string[:length], 1):
    _write(out, f'r{symbol}', 'repeat', 1.0, place)
  _write(out, ends, 'repeat', 1.0, length + 1)  # Ends as the first half did.


_SEGMENTS: Mapping[str, Callable[[_Drawing, Segment], None]] = {
  'bigram': _bigram,
  'ngram': _ngram,
  'skip': _skip,
  'bracket': _bracket,
  'repeat': _repeat,
}
