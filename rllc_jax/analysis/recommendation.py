r"""Recommendation of a step size from a sweep, with reasons.

A setting *qualifies* for a cell (a refinement, at a checkpoint, on a data set)
if the cell is healthy there (see `estimators.health`), its standard error is
under 3 % of the estimate, and the step size adds less than 5 % to the estimate:
as predicted (which is part of health) and as measured, by twice the change from
half the step size, since the bias is proportional to the step size. Recommended
is the largest step size that qualifies: of those that are small enough, it
explores the most in a given number of steps.
"""

import collections
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.analysis import calibration
from rllc_jax.estimators import faults

MAX_RELATIVE_ERROR = 0.03
MAX_RELATIVE_BIAS = 0.05
# Of step size times curvature: SGLD diverges at 4. At 1 the widest direction
# has a third too much variance; past 3 noise in the gradient may tip it over.
_STIFF, _NEAR_LIMIT = 1.0, 3.0


class Recommendation(NamedTuple):
  r"""The recommended setting, and the reasons for it.

  n beta and gamma say what is estimated. If yours are fixed, read
  `step_sizes` at them; `setting` is the best of the whole grid.

  Attributes:
    setting: where the step size is largest that qualifies for every cell (at
      several n beta and gamma: where errors are smallest); None if none does.
    step_sizes: over (nbeta, localization), the largest step size that qualifies
      for every cell; NaN where none does.
    each: over (nbeta, localization) and the dims of cells, the largest step
      size that qualifies for this cell; NaN where none does.
    why: sentences: what holds at `setting` and what stops a larger step; or
      what is most often missing, and what to change.
    warnings: sentences on steps that are large for the curvature.
  """

  setting: calibration.Setting | None
  step_sizes: xr.DataArray
  each: xr.DataArray
  why: str
  warnings: tuple[str, ...]


def recommend(sweep: xr.Dataset) -> Recommendation:
  """Recommends a setting from a sweep.

  For one cell, or one n beta, alone pass that selection of the sweep.

  Args:
    sweep: from `calibrate`; several of them may be joined along further dims,
      such as `checkpoint` or `dataset`.

  Raises:
    ValueError: if step sizes are not each twice the one before.
  """
  sweep = _with_all_dims(sweep)
  grid = calibration.check_grid(
    *(sweep[name].values.tolist() for name in calibration.GRID_DIMS)
  )
  met = criteria(sweep)
  qualifies = met.to_dataarray().all('variable')
  over_all = qualifies.all(_cell_dims(sweep))
  step_sizes = _largest(over_all)
  best = step_sizes == step_sizes.max()
  largest_errors = _relative_error(sweep).max(_cell_dims(sweep))
  if not best.any():
    setting, why = None, _why_none(sweep, met, qualifies)
  else:
    # Ties in step size: the one whose largest error is smallest.
    chosen = over_all & best & (largest_errors.step_size == step_sizes)
    place = largest_errors.where(chosen).argmin(calibration.GRID_DIMS)
    setting = calibration.Setting(
      *(grid[i][int(place[x])] for i, x in enumerate(calibration.GRID_DIMS))
    )
    why = _why(sweep, met, setting, int(best.sum()))
  return Recommendation(
    setting, step_sizes, _largest(qualifies), why, _warnings(sweep, setting)
  )


def criteria(sweep: xr.Dataset) -> xr.Dataset:
  """Evaluates the three criteria over the dims of a sweep.

  Returns:
    `healthy`: no diagnostic says otherwise. `precise`: the standard error is
    under 3 % of the estimate. `unbiased`: the step size adds less than 5 %, see
    `relative_bias`; false at the smallest, which has none below.
  """
  return xr.Dataset(
    {
      'healthy': sweep.healthy.astype(bool),
      'precise': _relative_error(sweep) < MAX_RELATIVE_ERROR,
      'unbiased': abs(relative_bias(sweep)) < MAX_RELATIVE_BIAS,
    }
  )


def relative_bias(sweep: xr.Dataset) -> xr.DataArray:
  """The bias of the step size, relative to the estimate without it.

  Measured: half the step size has half the bias, so the bias is twice the
  change. NaN at the smallest step size and where there is no estimate.
  """
  bias = 2 * (sweep.llc - sweep.llc.shift(step_size=1))
  return bias / abs(sweep.llc - bias)


def _with_all_dims(sweep: xr.Dataset) -> xr.Dataset:
  """Sorts a sweep, and restores dims that a selection of one value dropped."""
  dims = list(calibration.GRID_DIMS)
  dropped = [name for name in dims if name not in sweep.dims]
  sweep = sweep.expand_dims(dropped) if dropped else sweep
  return sweep.sortby(dims)


def _relative_error(sweep: xr.Dataset) -> xr.DataArray:
  return sweep.standard_error / abs(sweep.llc)


def _cell_dims(sweep: xr.Dataset) -> list[Hashable]:
  return [name for name in sweep.llc.dims if name not in calibration.GRID_DIMS]


def _largest(qualifies: xr.DataArray) -> xr.DataArray:
  largest = (qualifies * qualifies.step_size).max('step_size')
  return largest.where(largest > 0)


def _why(
  sweep: xr.Dataset, met: xr.Dataset, setting: calibration.Setting, ties: int
) -> str:
  at_setting = sweep.sel(setting._asdict())
  error = float(_relative_error(at_setting).max())
  biases = abs(relative_bias(sweep)).sel(setting._asdict())
  place = biases.argmax(...)
  bias_error = float(_bias_error(sweep).sel(setting._asdict())[place])
  bias = float(biases[place])
  among_ties = (
    f' At {ties} pairs of nbeta and localization this step size qualifies, and '
    'errors are smallest here.'
  )
  among_ties = among_ties if ties > 1 else ''
  all_cells = 'the cell is' if at_setting.llc.size == 1 else 'all cells are'
  return (
    f'{_named(setting)}: the largest step size at which {all_cells} healthy, '
    f'with standard errors of at most {_percent(error)} of the estimate and a '
    f'bias of at most {_percent(bias)} (± {_percent(bias_error)}), twice the '
    f'change from half the step size.{among_ties} '
    f'{_what_stops(sweep, met, setting)}'
  )


def _what_stops(
  sweep: xr.Dataset, met: xr.Dataset, setting: calibration.Setting
) -> str:
  place = list(sweep.step_size.values).index(setting.step_size) + 1
  if place == sweep.sizes['step_size']:
    return 'It is the largest that was tried.'
  fixed = {'nbeta': setting.nbeta, 'localization': setting.localization}
  next_larger = met.isel(step_size=place).sel(fixed)
  failing = [
    _failing(str(name), int((~next_larger[name]).sum()), next_larger[name].size)
    for name in met
    if not next_larger[name].all()
  ]
  return f'At {float(next_larger.step_size):.4g} {" and ".join(failing)}.'


def _failing(criterion: str, count: int, size: int) -> str:
  cells = 'the cell' if size == 1 else f'{count} of {size} cells'
  error, bias = map(_percent, (MAX_RELATIVE_ERROR, MAX_RELATIVE_BIAS))
  singular, plural = {
    'healthy': ('is not healthy', 'are not healthy'),
    'precise': (f'has an error over {error}', f'have an error over {error}'),
    'unbiased': (f'has a bias over {bias}', f'have a bias over {bias}'),
  }[criterion]
  return f'{cells} {singular if count == 1 else plural}'


def _why_none(
  sweep: xr.Dataset, met: xr.Dataset, qualifies: xr.DataArray
) -> str:
  """Sentence on the criterion missed most often."""
  # The smallest step size never counts as unbiased, so it is left out.
  tried = met.isel(step_size=slice(1, None))
  missing = {str(name): int((~tried[name]).sum()) for name in tried}
  most = max(missing, key=lambda name: missing[name])
  alone = qualifies.any(calibration.GRID_DIMS)
  cells = 'the cell' if alone.size == 1 else f'all {alone.size} cells'
  alone_text = (
    f'; {int(alone.sum())} would have one alone' if alone.any() else ''
  )
  criterion, knob = {
    'healthy': ('health', _knob_of_health),
    'precise': (
      f'a standard error under {_percent(MAX_RELATIVE_ERROR)}',
      _knob_of_error,
    ),
    'unbiased': (
      f"a step's bias under {_percent(MAX_RELATIVE_BIAS)}",
      _knob_of_bias,
    ),
  }[most]
  return (
    f'No setting qualifies for {cells}{alone_text}. Most often missing, in '
    f'{missing[most]} of {tried[most].size} cases, is {criterion}: '
    f'{knob(sweep, met)}.'
  )


def _knob_of_health(sweep: xr.Dataset, met: xr.Dataset) -> str:
  """Advice on the commonest fault, where it is worst."""
  arrays = {
    str(name): array.transpose(*sweep.llc.dims).values
    for name, array in sweep.data_vars.items()
    if set(array.dims) == set(sweep.llc.dims)
  }
  by_kind = collections.defaultdict(list)
  for where in np.argwhere(~met.healthy.transpose(*sweep.llc.dims).values):
    cell = {name: array[tuple(where)] for name, array in arrays.items()}
    for fault in faults.faults({**sweep.attrs, **cell}):
      by_kind[fault.kind].append(fault)
  if not by_kind:  # The caller changed `healthy`.
    return 'no diagnostic says what is wrong'
  commonest = max(by_kind.values(), key=len)
  return f'at the worst {max(commonest, key=lambda fault: fault.severity)}'


def _knob_of_error(sweep: xr.Dataset, met: xr.Dataset) -> str:
  """Advice on the number of draws, for the smallest error.

  Only settings that miss nothing else count, if there are any.
  """
  cells = _cell_dims(sweep)
  worst = _relative_error(sweep).max(cells, skipna=False)
  misses_nothing_else = (met.healthy & met.unbiased).all(cells)
  smallest = float(
    worst.where(misses_nothing_else).min()
    if misses_nothing_else.any()
    else worst.min()
  )
  if not smallest > MAX_RELATIVE_ERROR:
    return 'take more draws'
  # An error falls with the root of the number of draws.
  times = (smallest / MAX_RELATIVE_ERROR) ** 2
  return (
    f'take more draws, {times:.2g} times as many to bring the smallest, '
    f'{_percent(smallest)}, down to {_percent(MAX_RELATIVE_ERROR)}'
  )


def _knob_of_bias(sweep: xr.Dataset, met: xr.Dataset) -> str:
  del met
  smaller = float(sweep.step_size.min()) / 2
  return f'add smaller step sizes to the grid, {smaller:.4g} next'


def _bias_error(sweep: xr.Dataset) -> xr.DataArray:
  """Standard error of `relative_bias`, too large if minibatches are shared."""
  below = sweep[['llc', 'standard_error']].shift(step_size=1)
  joint = np.hypot(sweep.standard_error, below.standard_error)
  return 2 * joint / abs(2 * below.llc - sweep.llc)


def _warnings(
  sweep: xr.Dataset, setting: calibration.Setting | None
) -> tuple[str, ...]:
  """Warnings about step size times curvature, which must be under 4."""
  sampler = sweep.attrs.get('sampler', '').split('+')[0]
  # The limit is that of kernels without a velocity or a preconditioner.
  kernels = 'sgld', 'leimkuhler_matthews'
  if 'curvature' not in sweep or sampler not in kernels:
    return ()
  product = (sweep.step_size * sweep.curvature).max(_cell_dims(sweep))
  sentences = []
  if setting is not None:
    value = float(product.sel(setting._asdict()))
    if value > _STIFF and sampler == 'sgld':
      sentences.append(
        f'At {_named(setting)}, step size times the largest curvature is '
        f'{value:.2g}{_near(value)}: along that direction chains are too wide '
        f'by the factor 1 / (1 - {value:.2g} / 4).'
      )
  if count := int((product > _NEAR_LIMIT).sum()):
    smallest = float(product.step_size.where(product > _NEAR_LIMIT).min())
    sentences.append(
      f'Step size times the largest curvature is over {_NEAR_LIMIT:g}, near or '
      f'past the limit of 4 where chains diverge, at {count} of {product.size} '
      f'settings, the first at step size {smallest:.4g}.'
    )
  return tuple(sentences)


def _near(product: float) -> str:
  return ', near the limit of 4' if product > _NEAR_LIMIT else ''


def _named(setting: calibration.Setting) -> str:
  values = [f'{name} {value:.4g}' for name, value in setting._asdict().items()]
  return ', '.join(values).replace('_', ' ')


def _percent(share: float) -> str:
  return f'{100 * share:.2g} %'
