"""Tests whether the heads of a layer start alike and separate over training.

Estimates of heads differ because heads differ and because estimates have
errors. A layer's heads count as different where errors alone would rarely
explain it.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats
import xarray as xr

from rllc_jax.refinement import names

LEVEL = 0.01  # Probability that equal heads are called different.
_GROWTH = 2.0  # Least growth of the excess if heads differ from the start.


class Spread(NamedTuple):
  r"""The spread between the heads of a layer at one checkpoint.

  Attributes:
    step: the checkpoint.
    num_heads: H, heads with an estimate and a positive error.
    spread: standard deviation of the estimates between heads (H - 1).
    standard_error: root mean square of their standard errors: the expected
      spread of equal heads.
    chi_square: :math:`\sum_h ((\hat\lambda_h - \bar\lambda)/s_h)^2` around the
      mean weighted by :math:`1/s_h^2`.
    p_value: of that on H - 1 degrees of freedom.
    excess: the spread that errors do not explain,
      :math:`\sqrt{\max(0, spread^2 - error^2)}`.
  """

  step: int
  num_heads: int
  spread: float
  standard_error: float
  chi_square: float
  p_value: float
  excess: float


class Verdict(NamedTuple):
  """The verdict on the separation of a layer's heads.

  Attributes:
    layer: which.
    dataset: on what data.
    separated: None where it cannot be decided.
    first: the spread at the first checkpoint; None with fewer than two heads.
    last: the same at the last one.
    sentence: the verdict and its evidence in words.
  """

  layer: int
  dataset: str
  separated: bool | None
  first: Spread | None
  last: Spread | None
  sentence: str


def spread_of(llc: np.ndarray, standard_error: np.ndarray, step: int) -> Spread:
  """Compares a spread between heads with their errors.

  Errors are taken as independent. Heads that share minibatches have errors that
  rise and fall together, which leaves less of them between heads: the test then
  calls too few heads different, not too many.

  Args:
    llc: [H], NaN where missing.
    standard_error: [H]; a head whose error is not positive is left out.
    step: the checkpoint.

  Examples:
    >>> pair = spread_of(np.array([1.0, 3.0]), np.array([1.0, 1.0]), 0)
    >>> print(f'{pair.chi_square:.1f} {pair.p_value:.3f} {pair.excess:.1f}')
    2.0 0.157 1.0
  """
  # An error of 0 would have infinite weight.
  usable = np.isfinite(llc) & (np.nan_to_num(standard_error) > 0)
  x, s = llc[usable], standard_error[usable]
  if len(x) < 2:
    return Spread(step, len(x), *[np.nan] * 5)
  # The weighted mean minimizes chi-square, hence H - 1 degrees.
  mean = np.average(x, weights=s**-2)
  chi_square = float(np.sum(((x - mean) / s) ** 2))
  spread, error = float(x.std(ddof=1)), float(np.sqrt(np.mean(s**2)))
  return Spread(
    step,
    len(x),
    spread,
    error,
    chi_square,
    float(stats.chi2.sf(chi_square, len(x) - 1)),
    max(0.0, spread**2 - error**2) ** 0.5,
  )


def spreads(estimates: xr.Dataset) -> xr.Dataset:
  """Compares heads within each layer, at all checkpoints and data sets.

  Args:
    estimates: `llc`, `standard_error` (checkpoint, dataset, refinement).

  Returns:
    The fields of `Spread` over (checkpoint, dataset, layer), checkpoints
    ascending; NaN where fewer than two heads have estimates.
  """
  estimates = estimates.sortby('checkpoint')
  layers = names.heads_by_layer(estimates.refinement.values)
  shape = (estimates.sizes['checkpoint'], estimates.sizes['dataset'])
  fields = Spread._fields[1:]
  values = np.full((*shape, len(layers), len(fields)), np.nan)
  for k, d, place in np.ndindex(values.shape[:3]):
    heads = list(layers.values())[place]
    cell = estimates.isel(checkpoint=k, dataset=d).sel(refinement=heads)
    # Step 0 is a placeholder: the step is a coordinate of the result.
    spread = spread_of(cell.llc.values, cell.standard_error.values, 0)
    values[k, d, place] = spread[1:]
  dims = ('checkpoint', 'dataset', 'layer')
  return xr.Dataset(
    {name: (dims, values[..., i]) for i, name in enumerate(fields)},
    {
      'checkpoint': estimates.checkpoint.values,
      'dataset': estimates.dataset.values,
      'layer': np.array(list(layers), np.int64),
    },
  )


def verdicts(values: xr.Dataset) -> list[Verdict]:
  """Judges the separation of heads, for every data set and layer.

  They separated if they differ at the last checkpoint (`LEVEL`), and did not at
  the first, or by at most half of that. It cannot be decided where the errors
  at the first could hide all the excess of the last.

  Args:
    values: from `spreads`.
  """
  return [
    _verdict(values.sel(dataset=dataset, layer=layer))
    for dataset in values.dataset.values
    for layer in values.layer.values
  ]


def _verdict(layer: xr.Dataset) -> Verdict:
  first, last = _at(layer, 0), _at(layer, -1)
  separated, sentence = _judge(int(layer.layer), first, last)
  return Verdict(
    int(layer.layer),
    str(layer.dataset.values),
    separated,
    first,
    last,
    sentence,
  )


def _at(layer: xr.Dataset, place: int) -> Spread | None:
  cell = layer.isel(checkpoint=place)
  # `not >=` is True for NaN, too.
  if not cell.num_heads >= 2:
    return None
  values = [float(cell[name]) for name in Spread._fields[2:]]
  return Spread(int(cell.checkpoint), int(cell.num_heads), *values)


def _judge(
  layer: int, first: Spread | None, last: Spread | None
) -> tuple[bool | None, str]:
  heads = f'Heads of layer {layer}'
  if first is None or last is None or first.step == last.step:
    return None, (
      f'{heads}: whether they separate cannot be said, because it takes two '
      'heads with estimates at both the first and the last checkpoint.'
    )
  differ_first, differ_last = (s.p_value < LEVEL for s in (first, last))
  evidence = f'{_words(first)}. {_words(last)}.'
  if not differ_last:
    why = 'at the end they differ no more than their errors explain'
    return False, f'{heads} did not separate: {why}. {evidence}'
  # The errors at the start could hide the whole excess of the end.
  if not differ_first and last.excess <= first.standard_error:
    why = (
      'they differ at the end, by no more than the errors at the start, so '
      'whether they started alike'
    )
    return None, f'{heads}: {why} cannot be said. {evidence}'
  if not differ_first:
    why = 'alike at the start within their errors, different at the end'
    return True, f'{heads} start alike and separate: {why}. {evidence}'
  if last.excess >= _GROWTH * first.excess:
    why = 'different from the start, and spread further'
    return True, f'{heads} separate: {why}. {evidence}'
  why = (
    f'different from the start, and not {_GROWTH:g} times as much at the end'
  )
  return False, f'{heads} did not separate: {why}. {evidence}'


def _words(s: Spread) -> str:
  chance = (
    f'p\u00a0=\u00a0{s.p_value:.2g}'
    if s.p_value >= 1e-4
    else 'p\u00a0<\u00a00.0001'
  )
  chi_square = (
    f'{s.chi_square:.1f}' if s.chi_square < 100 else (f'{s.chi_square:,.0f}')
  )
  return (
    f'At step {s.step:,} the standard deviation between {s.num_heads} heads is '
    f'{s.spread:.3g}, where errors alone would give about '
    f'{s.standard_error:.2g}: an excess of {s.excess:.3g} (chi-square '
    f'{chi_square} on {_degrees(s.num_heads - 1)}, {chance})'
  )


def _degrees(number: int) -> str:
  return f'{number} degree{"s" if number > 1 else ""} of freedom'
