"""Expected counts and surprisals of a planted language, in closed form.

The floor of a kind of symbol is an entropy where the odds are stated, and 0
where the text before determines the symbol.
"""

from collections.abc import Callable
from collections.abc import Mapping
import math
from typing import NamedTuple

import numpy as np

from rllc_jax.data import synthetic


class Law(NamedTuple):
  """Expected count and least loss of a kind of symbol.

  Attributes:
    count: expected in a segment of the language, over all structures.
    floor: expected surprisal of one, nats: the least loss that is possible.
  """

  count: float
  floor: float


def laws(language: synthetic.Language) -> dict[str, Law]:
  """Expected counts and floors of every kind of symbol, in closed form.

  Returns:
    By kind: 'start', of any segment; 'bigram'; 'ngram_choice', which word, and
    whether one; 'ngram', its last two symbols; 'skip_filler'; 'skip', the
    target; 'bracket_open'; 'bracket_nested', closing within another;
    'bracket_last', closing the outermost; 'repeat_new'; 'repeat', the second
    half; 'quote_open', 'quote_inside' and 'quote_close'. Kinds that do not
    occur are left out.
  """
  synthetic.check(language)
  shares = dict(zip(synthetic.STRUCTURES, language.shares, strict=True))
  counts: dict[str, float] = {'start': 1.0}
  nats: dict[str, float] = {'start': _entropy(np.array(language.shares))}
  for structure, share in shares.items():
    for kind, (count, surprisal) in _LAWS[structure](language).items():
      counts[kind] = counts.get(kind, 0.0) + share * count
      nats[kind] = nats.get(kind, 0.0) + share * surprisal
  counts['start'] = 1.0
  return {
    kind: Law(count, nats[kind] / count)
    for kind, count in counts.items()
    if count > 0
  }


def floor(language: synthetic.Language) -> float:
  """The least loss on a long text, nats per symbol."""
  kinds = laws(language).values()
  return sum(x.count * x.floor for x in kinds) / sum(x.count for x in kinds)


# Kind -> (expected count, expected sum of surprisals) in one segment of a
# structure. The first symbol of a segment has the kind 'start'.
_Sums = dict[str, tuple[float, float]]


def _bigram_law(language: synthetic.Language) -> _Sums:
  stop = language.bigram_stop
  # Lengths are geometric: 1 / stop symbols follow the first.
  each = _entropy(np.append(stop, (1 - stop) * synthetic.SUCCESSOR_ODDS))
  return {
    'start': (0, math.log(language.num_bigrams)),
    'bigram': (1 / stop, each / stop),
  }


def _ngram_law(language: synthetic.Language) -> _Sums:
  stop, words = language.ngram_stop, 1 / language.ngram_stop
  tables = synthetic.tables(language)
  first = _entropy(tables.first_odds)
  second = _entropy(tables.odds) - first
  # The first word is certain; its first symbol counts as 'start'.
  ends = words * _entropy(np.array([stop, 1 - stop]))
  return {
    'start': (0, first),
    'ngram_choice': (2 * words, ends + (words - 1) * first + words * second),
    'ngram': (2 * words, 0.0),
  }


def _skip_law(language: synthetic.Language) -> _Sums:
  stop, fillers = language.skip_stop, language.num_fillers
  odds = np.append(stop, np.full(fillers, (1 - stop) / fillers))
  return {
    'start': (0, math.log(language.num_skips)),
    'skip_filler': (1 / stop, _entropy(odds) / stop),
    'skip': (1, 0.0),
  }


def _bracket_law(language: synthetic.Language) -> _Sums:
  """Solves a linear system for the expected visits of each depth."""
  depth, opens, quote = (
    language.max_depth,
    language.bracket_open,
    language.quote,
  )
  free = np.append(np.full(depth - 1, opens), 0.0)  # At depth 1, 2, ...
  closes = 1 - free - quote
  # After a quote the depth is what it was.
  moves = (
    np.diag(free[:-1], 1)
    + np.diag(closes[1:], -1)
    + np.diag(np.full(depth, quote))
  )
  visits = np.linalg.solve(np.eye(depth) - moves.T, np.eye(depth)[0])
  opened, closed = visits * free, visits * closes
  # Odds of 0 are never drawn, so their surprisal counts as 0.
  surprisal = lambda odds: -np.log(np.where(odds > 0, odds, 1.0))
  openings = opened @ (surprisal(free) + math.log(len(synthetic.BRACKETS)))
  closings = closed * surprisal(closes)
  return {
    'start': (0, math.log(len(synthetic.BRACKETS))),
    'bracket_open': (opened.sum(), openings),
    'bracket_nested': (closed[1:].sum(), closings[1:].sum()),
    'bracket_last': (closed[0], closings[0]),
    **_quote_law(language, visits.sum() * quote),
  }


def _quote_law(language: synthetic.Language, quotes: float) -> _Sums:
  """Counts and surprisals of a stated number of quotes in a segment."""
  if not quotes:
    return {}
  stop = language.quote_stop
  marks = math.log(len(synthetic.QUOTES)) - math.log(language.quote)
  symbols = quotes / stop  # Lengths are geometric, from 1 on.
  nats = symbols * math.log(language.num_quoted)
  if stop < 1:
    nats -= (symbols - quotes) * math.log1p(-stop)
  return {
    'quote_open': (quotes, quotes * marks),
    'quote_inside': (symbols, nats),
    'quote_close': (quotes, quotes * -math.log(stop)),
  }


def _repeat_law(language: synthetic.Language) -> _Sums:
  stop, max_length = language.repeat_stop, language.max_repeat
  places = np.arange(max_length)
  reached = (1 - stop) ** places  # Odds of a symbol at each place.
  length = reached.sum()
  # A string may end before every symbol but the first.
  ends = reached[:-1].sum() * _entropy(np.array([stop, 1 - stop]))
  new = reached @ np.log(language.num_repeats - places)
  return {
    'start': (0, 0.0),
    'repeat_new': (length + 1, ends + new),
    'repeat': (length + 1, 0.0),
  }


_LAWS: Mapping[str, Callable[[synthetic.Language], _Sums]] = {
  'bigram': _bigram_law,
  'ngram': _ngram_law,
  'skip': _skip_law,
  'bracket': _bracket_law,
  'repeat': _repeat_law,
}


def _entropy(odds: np.ndarray) -> float:
  positive = odds[odds > 0]
  return float(-np.sum(positive * np.log(positive)))
