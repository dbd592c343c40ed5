"""Patterns that a head serves, from the tokens that it matters most for.

Wang et al. (2410.02984, appendix B) ablate a head, rank tokens in context by
the rise of their loss, and sort the first of them into induction, Dyck, n-gram
and skip n-gram patterns. Their thresholds and grammars are not published; the
definitions here are ours. An affected token gets the first label that fits:

  induction  the token and the one before it stood together earlier in the row,
             and are no common pair of the corpus
  dyck       it closes the innermost open delimiter of the row; dyck_nested if
             another one is open around it
  ngram      the two or three tokens before it precede the same token in other
             rows where the head matters, too, and the head attends to one of
             them most each time
  skip_ngram the most attended token, at a distance, and the token just before
             do so together
  other      none of them

An n-gram or skip n-gram counts once, however often it occurs: the number of
distinct ones is the number that a head has memorized, above that of a null. In
the null the effects are those of other rows: frequent words are met then, too.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

PATTERNS = ('induction', 'dyck_nested', 'dyck', 'ngram', 'skip_ngram', 'other')
_GRAMS = (3, 2)  # Tokens before the target; the longer first.


class Affected(NamedTuple):
  """Predictions that suffer from an ablation, the worst first.

  Attributes:
    rows: [N], of the text.
    places: [N], of the token that is predicted, 1 or more.
    effects: [N], by how much its loss rises, nats.
  """

  rows: np.ndarray
  places: np.ndarray
  effects: np.ndarray


class Places(NamedTuple):
  """The patterns that each token of a text could belong to, for any head.

  Attributes:
    tokens: [B, T], the text.
    is_induction: [B, T], True for tokens whose pair is repeated and uncommon.
    depths: [B, T], delimiters open before a token that closes one, else 0.
    grams: by tokens before the target, [B, T]: the number of the n-gram that
      ends there; -1 where it would reach the first token of the row.
  """

  tokens: np.ndarray
  is_induction: np.ndarray
  depths: np.ndarray
  grams: Mapping[int, np.ndarray]


class Patterns(NamedTuple):
  """The patterns of a head's affected tokens.

  Attributes:
    labels: [N], places in `PATTERNS`.
    counts: [len(PATTERNS)], affected tokens.
    ngrams: distinct (tokens before, target) with enough support, which is the
      value.
    skip_ngrams: distinct (source, token before, target), likewise.
  """

  labels: np.ndarray
  counts: np.ndarray
  ngrams: dict[tuple[int, ...], int]
  skip_ngrams: dict[tuple[int, ...], int]

  @property
  def num_memorized(self) -> int:
    """The number of distinct multigrams: n-grams and skip n-grams."""
    return len(self.ngrams) + len(self.skip_ngrams)


def most_affected(
  effects: np.ndarray, count: int, least: float = 0.1
) -> Affected:
  """The predictions whose loss rises most.

  Args:
    effects: [B, T - 1], losses without the head less losses with it, nats.
    count: how many, at most.
    least: nats; a smaller rise never counts.
  """
  flat = effects.ravel()
  candidates = np.flatnonzero(flat >= least)
  # Stable: ties keep the order of the text.
  order = candidates[np.argsort(-flat[candidates], kind='stable')[:count]]
  rows, places = np.unravel_index(order, effects.shape)
  return Affected(rows, places + 1, flat[order])


def places_of(
  tokens: np.ndarray,
  depths: np.ndarray,
  pair_odds: Mapping[tuple[int, int], float],
  *,
  common: float = 0.05,
) -> Places:
  """Looks up all patterns of a text once, for all heads and checkpoints.

  Args:
    tokens: [B, T], the text; the first token of a row is special.
    depths: [B, T], from `brackets.depths_of`.
    pair_odds: {(token, next): odds of the next after the token}, in the corpus;
      a pair that is not there has none.
    common: odds from which a pair is a bigram and no induction.
  """
  is_induction = np.zeros(tokens.shape, bool)
  for row, place in np.ndindex(tokens.shape):
    if place:
      is_induction[row, place] = _is_induction(
        tokens[row], place, pair_odds, common
      )
  grams = {length: _gram_numbers(tokens, length) for length in _GRAMS}
  return Places(tokens, is_induction, depths, grams)


def _is_induction(row, place, pair_odds, common):
  pair = int(row[place - 1]), int(row[place])
  before = row[: place - 1]  # The pair itself ends at `place`.
  repeats = (before == pair[0]) & (row[1:place] == pair[1])
  return bool(repeats.any()) and pair_odds.get(pair, 0.0) <= common


def _gram_numbers(tokens, length):
  """Numbers the n-grams that end at each place, [B, T]; -1 for none."""
  numbers = np.full(tokens.shape, -1)
  first = length + 1  # Place 0 is the special token, in no n-gram.
  if tokens.shape[1] > first:
    windows = np.lib.stride_tricks.sliding_window_view(
      tokens[:, 1:], length + 1, axis=1
    )
    _, inverse = np.unique(
      windows.reshape(-1, length + 1), axis=0, return_inverse=True
    )
    numbers[:, first:] = inverse.reshape(len(tokens), -1)
  return numbers


def identify(
  places: Places, affected: Affected, attended: np.ndarray, *, support: int = 3
) -> Patterns:
  """Sorts affected tokens into patterns.

  Args:
    places: of the text.
    affected: N predictions in it.
    attended: [B, T], the position that the head attends to most from each.
    support: rows in which a multigram must be met, among the affected.
  """
  rows, ends = affected.rows, affected.places
  source = attended[rows, ends - 1]
  supports: dict[int | str, np.ndarray] = {}
  for length in _GRAMS:
    numbers = places.grams[length][rows, ends]
    is_inside = source >= ends - length
    supports[length] = _supports(np.where(is_inside, numbers, -1), rows)
  skips = _skip_numbers(places.tokens, rows, ends, source)
  supports['skip'] = _supports(skips, rows)
  depths = places.depths[rows, ends]
  conditions = {
    'induction': places.is_induction[rows, ends],
    'dyck_nested': depths > 1,
    'dyck': depths == 1,
    'ngram': np.maximum(*(supports[n] for n in _GRAMS)) >= support,
    'skip_ngram': supports['skip'] >= support,
  }
  # The first that fits: the order of `PATTERNS`.
  labels = np.select(
    [conditions[x] for x in PATTERNS[:-1]],
    list(range(len(conditions))),
    default=len(conditions),
  )
  return Patterns(
    labels,
    np.bincount(labels, minlength=len(PATTERNS)),
    _distinct_ngrams(places.tokens, affected, labels, supports, support),
    _distinct_skips(places.tokens, affected, source, labels, supports),
  )


def _skip_numbers(tokens, rows, ends, source):
  """A number for each (source, token before, target); -1 if source is near."""
  size = int(tokens.max()) + 1
  wide = tokens.astype(np.int64)  # size^3 overflows narrower integers.
  triple = wide[rows, source], wide[rows, ends - 1], wide[rows, ends]
  numbers = (triple[0] * size + triple[1]) * size + triple[2]
  # Nothing lies between, or the source is the special token.
  return np.where((source >= ends - 1) | (source == 0), -1, numbers)


def _supports(numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Distinct rows in which the number of each occurs, [N]; 0 where it is -1."""
  pairs = np.unique(np.stack([numbers, rows]), axis=1)[0]
  distinct, counts = np.unique(pairs, return_counts=True)
  found = counts[np.searchsorted(distinct, numbers)]
  return np.where(numbers < 0, 0, found)


def _distinct_ngrams(tokens, affected, labels, supports, support):
  ngrams = {}
  for i in np.flatnonzero(labels == PATTERNS.index('ngram')):
    row, end = affected.rows[i], affected.places[i]
    length = next(n for n in _GRAMS if supports[n][i] >= support)
    gram = tokens[row, end - length : end + 1]
    ngrams[tuple(gram.tolist())] = int(supports[length][i])
  return ngrams


def _distinct_skips(tokens, affected, source, labels, supports):
  skips = {}
  for i in np.flatnonzero(labels == PATTERNS.index('skip_ngram')):
    row, end = affected.rows[i], affected.places[i]
    triple = tokens[row, [source[i], end - 1, end]]
    skips[tuple(triple.tolist())] = int(supports['skip'][i])
  return skips


def null_memorized(
  places: Places,
  affected: Affected,
  attended: np.ndarray,
  shifts: np.ndarray,
  *,
  support: int = 3,
) -> float:
  """Mean number of multigrams if effects belonged to other rows.

  Frequent words are met among any tokens; a head has memorized those beyond.

  Args:
    places: of the text.
    affected: N predictions in it.
    attended: [B, T], the position that the head attends to most from each.
    shifts: by how many rows, cyclically, effects are moved.
    support: as of `identify`.

  Returns:
    NaN without shifts, as of a text of one row.
  """
  counts = [
    identify(places, moved, attended, support=support).num_memorized
    for moved in _moved(affected, len(places.tokens), shifts)
  ]
  return float(np.mean(counts)) if counts else np.nan


def _moved(affected, num_rows, shifts) -> Iterator[Affected]:
  for shift in shifts:
    yield affected._replace(rows=(affected.rows + int(shift)) % num_rows)


def pair_odds(tokens: np.ndarray) -> dict[tuple[int, int], float]:
  """Frequencies of a next token after each token of a corpus, [N, T] integers.

  Examples:
    >>> pair_odds(np.array([[0, 1, 0, 2]]))
    {(0, 1): 0.5, (0, 2): 0.5, (1, 0): 1.0}
  """
  size = int(tokens.max()) + 1
  wide = tokens.astype(np.int64)  # size^2 overflows narrower integers.
  pairs, counts = np.unique(
    wide[:, :-1] * size + wide[:, 1:], return_counts=True
  )
  first, second = np.divmod(pairs, size)
  totals = np.bincount(first, weights=counts, minlength=size)
  odds = counts / totals[first]
  keys = zip(first.tolist(), second.tolist(), strict=True)
  return dict(zip(keys, odds.tolist(), strict=True))
