"""Classes of heads, from what they attend to alone.

Wang et al. (2410.02984) speak of previous-token, current-token, induction and
multigram heads, the last being those whose removal hurts memorized n-grams and
skip n-grams; no thresholds are known. Here a head belongs to the score that it
exceeds even attention by most, if by enough, and otherwise it is a multigram
head where it has memorized enough of them.
"""

from collections.abc import Mapping

import numpy as np

TYPES = {
  'previous_token': 'previous-token',
  'current_token': 'current-token',
  'prefix_matching': 'induction',
}
MULTIGRAM, OTHER = 'multigram', 'other'


def classify(
  scores: Mapping[str, np.ndarray],
  even: Mapping[str, float],
  num_memorized: np.ndarray | None = None,
  *,
  factor: float = 4.0,
  least: int = 1,
) -> np.ndarray:
  """A class for every head.

  Args:
    scores: by the keys of `TYPES`, [L, H] each.
    even: of each score, what even attention gets.
    num_memorized: [L, H], distinct multigrams of each head, from
      `multigrams.identify`; without it no head is known to be one.
    factor: by which a head must exceed even attention.
    least: multigrams from which a head is a multigram head.

  Returns:
    [L, H], values of `TYPES`, 'multigram' or 'other'.

  Examples:
    >>> scores = {
    ...   'previous_token': np.array([[0.9, 0.03]]),
    ...   'current_token': np.array([[0.05, 0.03]]),
    ...   'prefix_matching': np.array([[0.01, 0.01]]),
    ... }
    >>> even = {'previous_token': 0.03, 'current_token': 0.03,
    ...         'prefix_matching': 0.01}
    >>> print(classify(scores, even, np.array([[0, 7]])))
    [['previous-token' 'multigram']]
  """
  names = list(TYPES)
  ratios = np.stack([np.asarray(scores[x]) / even[x] for x in names])
  found = np.array([TYPES[x] for x in names], object)[ratios.argmax(axis=0)]
  memorized = np.zeros(found.shape) if num_memorized is None else num_memorized
  rest = np.where(np.asarray(memorized) >= least, MULTIGRAM, OTHER)
  return np.where(ratios.max(axis=0) >= factor, found, rest).astype(str)
