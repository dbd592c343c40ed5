"""Patterns that a head serves, from the tokens that it matters most for.

Wang et al. (2410.02984, appendix B) ablate a head, rank tokens in context by
the rise of their loss, and sort the first of them into induction, Dyck, n-gram
and skip n-gram patterns. Their thresholds and grammars are not published; the
definitions here are ours. An affected token gets the first label that fits:

  induction  the token and the one before it stood together earlier in the row,
             and are no common pair of the corpus
  dyck       it closes the innermost open bracket of the row; dyck_nested if
             another one is open around it
  ngram      the two or three tokens before it precede the same token in other
             rows where the head matters, too
  skip_ngram the most attended token, at a distance, and the token just before
             do so together
  other      none of them

An n-gram or skip n-gram counts once, however often it occurs: the number of
distinct ones is the number that a head has memorized.
"""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

PATTERNS = ('induction', 'dyck_nested', 'dyck', 'ngram', 'skip_ngram', 'other')
BRACKETS = {')': '(', ']': '[', '}': '{', '>': '<'}
_GRAMS = (3, 2)  # Tokens before the target; the longer first.


class Affected(NamedTuple):
  """Predictions that suffer from an ablation, the worst first.

  Attributes:
    rows: [N], of the minibatch.
    places: [N], of the token that is predicted, 1 or more.
    effects: [N], by how much its loss rises, nats.
  """

  rows: np.ndarray
  places: np.ndarray
  effects: np.ndarray


class Patterns(NamedTuple):
  """The patterns of a head's affected tokens.

  Attributes:
    labels: [N], places in `PATTERNS`.
    counts: affected tokens by pattern.
    ngrams: distinct (tokens before, target) with enough support, which is the
      value.
    skip_ngrams: distinct (source, token before, target), likewise.
  """

  labels: np.ndarray
  counts: dict[str, int]
  ngrams: dict[tuple[int, ...], int]
  skip_ngrams: dict[tuple[int, ...], int]

  @property
  def num_memorized(self) -> int:
    """The number of distinct multigrams: n-grams and skip n-grams."""
    return len(self.ngrams) + len(self.skip_ngrams)


def most_affected(effects: np.ndarray, count: int) -> Affected:
  """The predictions whose loss rises most.

  Args:
    effects: [B, T - 1], losses without the head less losses with it.
    count: how many, at most; those whose loss falls are never among them.
  """
  flat = effects.ravel()
  # Stable: ties keep the order of the text.
  order = np.argsort(-flat, kind='stable')[:count]
  order = order[flat[order] > 0]
  rows, places = np.unravel_index(order, effects.shape)
  return Affected(rows, places + 1, flat[order])


def identify(
  tokens: np.ndarray,
  affected: Affected,
  attended: np.ndarray,
  closings: Sequence[Mapping[int, int]],
  pair_odds: Mapping[tuple[int, int], float],
  *,
  support: int = 3,
  common: float = 0.05,
) -> Patterns:
  """Sorts affected tokens into patterns.

  Args:
    tokens: [B, T], the minibatch.
    affected: N predictions in it.
    attended: [N], the position that the head attends to most from the token
      before each.
    closings: [B], of each row, from `closing`.
    pair_odds: {(token, next): odds of the next after the token}, in the corpus;
      a pair that is not there has none.
    support: rows in which a multigram must be met, among the affected.
    common: odds from which a pair is a bigram and no induction.
  """
  places = list(zip(affected.rows, affected.places, strict=True))
  grams = [
    {n: _gram(tokens, row, place, n) for n in _GRAMS} for row, place in places
  ]
  skips = [
    _skip(tokens, row, place, source)
    for (row, place), source in zip(places, attended, strict=True)
  ]
  rows_of = _supports(affected.rows, grams, skips)
  labels, ngrams, skip_ngrams = [], {}, {}
  # The order of these tests is the order of the labels above.
  for (row, place), gram, skip in zip(places, grams, skips, strict=True):
    supported = [x for x in gram.values() if len(rows_of[x]) >= support]
    if _is_induction(tokens[row], place, pair_odds, common):
      labels.append('induction')
    elif place in closings[row]:
      labels.append('dyck_nested' if closings[row][place] > 1 else 'dyck')
    elif supported:
      labels.append('ngram')
      ngrams[supported[0]] = len(rows_of[supported[0]])
    elif skip is not None and len(rows_of[skip]) >= support:
      labels.append('skip_ngram')
      skip_ngrams[skip[1:]] = len(rows_of[skip])
    else:
      labels.append('other')
  counts = collections.Counter(labels)
  return Patterns(
    np.array([PATTERNS.index(label) for label in labels], int),
    {pattern: counts[pattern] for pattern in PATTERNS},
    ngrams,
    skip_ngrams,
  )


def closing(row: np.ndarray, spellings: Sequence[str]) -> dict[int, int]:
  """Finds tokens that close a bracket, {place: brackets open before it}.

  Only the innermost open bracket counts. A token with several brackets closes
  if its first one does.

  Args:
    row: [T], tokens.
    spellings: of each token id.
  """
  stack: list[str] = []
  depths = {}
  for place, token in enumerate(row):
    for i, mark in enumerate(_marks(spellings[token])):
      if mark in BRACKETS.values():
        stack.append(mark)
      elif stack and stack[-1] == BRACKETS[mark]:
        if i == 0:
          depths[place] = len(stack)
        stack.pop()
  return depths


def _gram(tokens, row, place, length):
  """The tokens before a place and its own; () at the row's start."""
  start = place - length  # 0 is the special token, in no n-gram.
  return tuple(tokens[row, start : place + 1].tolist()) if start > 0 else ()


def _skip(tokens, row, place, source):
  """(None, source, token before, target), or None if nothing lies between."""
  if source >= place - 1 or source == 0:
    return None
  triple = tokens[row, [source, place - 1, place]].tolist()
  return None, *triple  # None tells it from an n-gram of three.


def _supports(rows, grams, skips):
  """Sets of rows in which each multigram occurs."""
  rows_of: dict[tuple, set[int]] = collections.defaultdict(set)
  for row, gram, skip in zip(rows, grams, skips, strict=True):
    for name in (*gram.values(), skip):
      if name:
        rows_of[name].add(row)
  return rows_of


def _is_induction(row, place, pair_odds, common):
  pair = int(row[place - 1]), int(row[place])
  before = row[: place - 1]  # The pair itself ends at `place`.
  repeats = (before == pair[0]) & (row[1:place] == pair[1])
  return bool(repeats.any()) and pair_odds.get(pair, 0.0) <= common


def _marks(text: str) -> str:
  return ''.join(x for x in text if x in BRACKETS or x in BRACKETS.values())


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
