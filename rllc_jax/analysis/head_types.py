"""Classes of heads, from what they attend to alone.

Wang et al. (2410.02984) distinguish previous-token, current-token, induction
and multigram heads. The last are heads whose removal hurts memorized n-grams
and skip n-grams; no thresholds are published. The rules here:

- A head's class is the score with the largest ratio to even attention, if that
  ratio is large enough. Otherwise it is a multigram head if it has memorized
  more multigrams than its null has, by three standard deviations of a count.
- Where the words of the language are known, those that a head serves are
  counted instead, and the null is none.
- Prefix matching counts among random tokens, or in text. In text a factor of
  two over the neighboring positions is enough, if induction is the commonest
  pattern of the tokens that the head matters for.
- Attention to a place counts only if the head also stands out of its layer:
  most heads attend to the current token by default, above all among random
  tokens.

The rules were settled on seeds 0 and 1 of the planted language, whose patterns
are known.
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
  null: np.ndarray | float = 0.0,
  *,
  serves_induction: np.ndarray | None = None,
  factor: float = 4.0,
  text_factor: float = 2.0,  # At 4 an evident induction head was missed.
  apart: float = 2.0,
  least: int = 1,
) -> np.ndarray:
  """Assigns a class to every head.

  Args:
    scores: by keys of `TYPES`, [L, H] each; NaN where a score is missing.
    even: by the same keys, the score of even attention, one number or [L, H].
    num_memorized: [L, H], distinct multigrams of each head, from
      `multigrams.identify`; without it no head is a multigram head.
    null: [L, H] or one number, the count that a head would have by chance.
    serves_induction: [L, H], True where induction is the commonest pattern of a
      head's affected tokens; without it, matching in text does not count.
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
  # Scaled, so that one threshold `factor` serves random tokens and text.
  counts['prefix_matching_text'] = serves_induction * (factor / text_factor)
  ratios = np.stack(
    [np.asarray(scores[x]) / even[x] * counts.get(x, 1) for x in names]
  )
  # A missing score is the least.
  ratios = np.nan_to_num(ratios)
  top_types = np.array([TYPES[x] for x in names], object)[ratios.argmax(axis=0)]
  counted = np.zeros(top_types.shape)
  if num_memorized is not None:
    counted = np.asarray(num_memorized, float)
  # A count's deviation is its root; a null of less than 1 is too few to tell.
  by_chance = null + 3 * np.sqrt(np.maximum(null, 1))
  memorizes = (counted >= least) & (counted > by_chance)
  fallback = np.where(memorizes, MULTIGRAM, OTHER)
  return np.where(ratios.max(axis=0) >= factor, top_types, fallback).astype(str)


def _stands_out(score: np.ndarray, apart: float) -> np.ndarray:
  """True for heads that exceed the rest of their layer, if any, [L, H]."""
  score = np.asarray(score)
  is_apart = np.ones(score.shape, bool)
  for layer, head in np.ndindex(score.shape):
    layer_rest = np.delete(score[layer], head)
    if layer_rest.size:
      is_apart[layer, head] = score[layer, head] >= apart * np.median(
        layer_rest
      )
  return is_apart


def of_readings(readings: xr.Dataset) -> dict[str, str]:
  """The class of every head 'LAYER:HEAD' at the last checkpoint.

  Args:
    readings: from `readings.read_heads`; `true_words` and `true_pairs` of
      `planted.true_multigrams` decide where they are there.

  Raises:
    ValueError: if the readings have no null of their multigrams.
  """
  last = readings.sortby('checkpoint').isel(checkpoint=-1)
  counts, null = _memorized(last)
  classes = classify(
    {name: last[name].values for name in TYPES},
    {str(x): float(last.even.sel(score=x)) for x in last.score.values}
    | {'prefix_matching_text': last.prefix_matching_text_beside.values},
    counts.values,
    null,
    serves_induction=(last.patterns.idxmax('pattern') == 'induction').values,
  )
  return {
    f'{layer}:{head}': str(classes[layer, head])
    for layer, head in np.ndindex(classes.shape)
  }


def _memorized(last: xr.Dataset) -> tuple[xr.DataArray, np.ndarray | float]:
  """Multigrams of each head, [L, H], and as many as chance would give."""
  if 'true_words' in last:
    return last.true_words + last.true_pairs, 0.0
  if 'null_multigrams' not in last:
    raise ValueError(
      'The readings must have null_multigrams, because heads of an untrained '
      f'model have multigrams, too; got {", ".join(map(str, last))}. Run '
      'experiments.analyze again.'
    )
  return last.num_ngrams + last.num_skip_ngrams, last.null_multigrams.values
