"""Classes of heads, from what they attend to alone.

Wang et al. (2410.02984) speak of previous-token, current-token, induction and
multigram heads, the last being those whose removal hurts memorized n-grams and
skip n-grams; no thresholds are known. Here a head belongs to the score that it
exceeds even attention by most, if by enough, and otherwise it is a multigram
head where it has memorized enough of them. Matching prefixes counts among
random tokens, or in text: there it is enough to exceed what lies beside by a
factor of two, if more of the tokens that the head matters for are induction
than anything else. Attention to a place counts where the head stands out of its
layer, too: most heads look at the current token when they find nothing else,
and all the more among random tokens.

These rules were settled on seeds 0 and 1 of the planted language, where it is
known what there is to be found.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

TYPES = {
  'previous_token': 'previous-token',
  'current_token': 'current-token',
  'prefix_matching': 'induction',
  'prefix_matching_text': 'induction',
}
MULTIGRAM, OTHER = 'multigram', 'other'
_PLACES = ('previous_token', 'current_token')


def classify(
  scores: Mapping[str, np.ndarray],
  even: Mapping[str, float | np.ndarray],
  num_memorized: np.ndarray | None = None,
  *,
  serves_induction: np.ndarray | None = None,
  factor: float = 4.0,
  text_factor: float = 2.0,
  apart: float = 2.0,
  least: int = 1,
) -> np.ndarray:
  """A class for every head.

  Args:
    scores: by keys of `TYPES`, [L, H] each; NaN where a score is not known.
    even: of each score, what even attention gets, one number or [L, H].
    num_memorized: [L, H], distinct multigrams of each head, from
      `multigrams.identify`; without it no head is known to be one.
    serves_induction: [L, H], whether induction is what most of a head's
      affected tokens are; without it, matching in text does not count.
    factor: by which a head must exceed even attention.
    text_factor: the same where prefixes are matched in text.
    apart: by which attention to a place must exceed the median of the other
      heads of the layer.
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
  names = [name for name in TYPES if name in scores]
  counts = {x: _stands_out(scores[x], apart) for x in _PLACES if x in scores}
  if serves_induction is None:
    serves_induction = np.zeros(np.shape(scores[names[0]]), bool)
  counts['prefix_matching_text'] = serves_induction * (factor / text_factor)
  ratios = np.stack(
    [np.asarray(scores[x]) / even[x] * counts.get(x, 1) for x in names]
  )
  ratios = np.nan_to_num(ratios)
  found = np.array([TYPES[x] for x in names], object)[ratios.argmax(axis=0)]
  memorized = np.zeros(found.shape) if num_memorized is None else num_memorized
  rest = np.where(np.asarray(memorized) >= least, MULTIGRAM, OTHER)
  return np.where(ratios.max(axis=0) >= factor, found, rest).astype(str)


def _stands_out(score: np.ndarray, apart: float) -> np.ndarray:
  """Whether each of [L, H] exceeds the others of its layer; one alone does."""
  score = np.asarray(score)
  found = np.ones(score.shape, bool)
  for layer, head in np.ndindex(score.shape):
    others = np.delete(score[layer], head)
    if others.size:
      found[layer, head] = score[layer, head] >= apart * np.median(others)
  return found


def of_readings(readings: xr.Dataset) -> dict[str, str]:
  """The class of every head 'LAYER:HEAD' at the last checkpoint.

  Args:
    readings: from `readings.read_heads`.
  """
  last = readings.sortby('checkpoint').isel(checkpoint=-1)
  found = classify(
    {name: last[name].values for name in TYPES},
    {str(x): float(last.even.sel(score=x)) for x in last.score.values}
    | {'prefix_matching_text': last.prefix_matching_text_beside.values},
    (last.num_ngrams + last.num_skip_ngrams).values,
    serves_induction=(last.patterns.idxmax('pattern') == 'induction').values,
  )
  return {
    f'{layer}:{head}': str(found[layer, head])
    for layer, head in np.ndindex(found.shape)
  }
