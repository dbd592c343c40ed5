r"""Which step size to take, of those that a sweep tried, and why.

A setting *qualifies* for a cell (a refinement, at a checkpoint, on a data set)
if the cell is healthy there (see `estimators.health`), its standard error is
under 3 % of the estimate, and the step size adds less than 5 % to the estimate:
as predicted (which is part of health) and as measured, by twice the change from
half the step size, since what a step adds is proportional to it. Recommended is
the largest step size that qualifies: of those that are small enough, it
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
  r"""What a sweep recommends.

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
  """Reads a recommendation out of a sweep.

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
  worst = _relative_error(sweep).max(_cell_dims(sweep))
  if not best.any():
    setting, why = None, _why_none(sweep, met, qualifies)
  else:
    chosen = over_all & best & (worst.step_size == step_sizes)
    place = worst.where(chosen).argmin(calibration.GRID_DIMS)
    setting = calibration.Setting(
      *(grid[i][int(place[x])] for i, x in enumerate(calibration.GRID_DIMS))
    )
    why = _why(sweep, met, setting, int(best.sum()))
  return Recommendation(
    setting, step_sizes, _largest(qualifies), why, _warnings(sweep, setting)
  )


def criteria(sweep: xr.Dataset) -> xr.Dataset:
  """What holds where, over the dims of a sweep.

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
  """The share that the step size adds to an estimate, relative to the rest.

  Measured: half the step size has half the bias, so the bias is twice the
  change. NaN at the smallest step size and where there is no estimate.
  """
  bias = 2 * (sweep.llc - sweep.llc.shift(step_size=1))
  return bias / abs(sweep.llc - bias)


def _with_all_dims(sweep: xr.Dataset) -> xr.Dataset:
  """Ascending, with the dims back that a selection of one value dropped."""
  dims = list(calibration.GRID_DIMS)
  dropped = [name for name in dims if name not in sweep.dims]
  sweep = sweep.expand_dims(dropped) if dropped else sweep
  return sweep.sortby(dims)


def _relative_error(sweep: xr.Dataset) -> xr.DataArray:
  return sweep.standard_error / abs(sweep.llc)


def _cell_dims(sweep: xr.Dataset) -> list[Hashable]:
  return [name for name in sweep.llc.dims if name not in calibration.GRID_DIMS]


def _largest(qualifies: xr.DataArray) -> xr.DataArray:
  found = (qualifies * qualifies.step_size).max('step_size')
  return found.where(found > 0)


def _why(
  sweep: xr.Dataset, met: xr.Dataset, setting: calibration.Setting, ties: int
) -> str:
  here = sweep.sel(setting._asdict())
  error = float(_relative_error(here).max())
  biases = abs(relative_bias(sweep)).sel(setting._asdict())
  place = biases.argmax(...)
  own = float(_bias_error(sweep).sel(setting._asdict())[place])
  bias = float(biases[place])
  beside = (
    f' At {ties} pairs of nbeta and localization this step size qualifies, and '
    'errors are smallest here.'
  )
  beside = beside if ties > 1 else ''
  all_cells = 'the cell is' if here.llc.size == 1 else 'all cells are'
  return (
    f'{_named(setting)}: the largest step size at which {all_cells} healthy, '
    f'with standard errors of at most {_percent(error)} of the estimate and a '
    f'bias of at most {_percent(bias)} (± {_percent(own)}), twice the change '
    f'from half the step size.{beside} {_what_stops(sweep, met, setting)}'
  )


def _what_stops(
  sweep: xr.Dataset, met: xr.Dataset, setting: calibration.Setting
) -> str:
  place = list(sweep.step_size.values).index(setting.step_size) + 1
  if place == sweep.sizes['step_size']:
    return 'It is the largest that was tried.'
  fixed = {'nbeta': setting.nbeta, 'localization': setting.localization}
  there = met.isel(step_size=place).sel(fixed)
  failing = [
    _failing(str(name), int((~there[name]).sum()), there[name].size)
    for name in met
    if not there[name].all()
  ]
  return f'At {float(there.step_size):.4g} {" and ".join(failing)}.'


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
  """What is missing most often, of settings that have a half step size."""
  tried = met.isel(step_size=slice(1, None))
  missing = {str(name): int((~tried[name]).sum()) for name in tried}
  most = max(missing, key=lambda name: missing[name])
  alone = qualifies.any(calibration.GRID_DIMS)
  who = 'the cell' if alone.size == 1 else f'all {alone.size} cells'
  some = f'; {int(alone.sum())} would have one alone' if alone.any() else ''
  wanted, knob = {
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
    f'No setting qualifies for {who}{some}. Most often missing, in '
    f'{missing[most]} of {tried[most].size} cases, is {wanted}: '
    f'{knob(sweep, met)}.'
  )


def _knob_of_health(sweep: xr.Dataset, met: xr.Dataset) -> str:
  """The commonest fault, where it is worst."""
  arrays = {
    str(name): array.transpose(*sweep.llc.dims).values
    for name, array in sweep.data_vars.items()
    if set(array.dims) == set(sweep.llc.dims)
  }
  found = collections.defaultdict(list)
  for where in np.argwhere(~met.healthy.transpose(*sweep.llc.dims).values):
    cell = {name: array[tuple(where)] for name, array in arrays.items()}
    for fault in faults.faults({**sweep.attrs, **cell}):
      found[fault.kind].append(fault)
  if not found:  # The caller has judged otherwise.
    return 'no diagnostic says what is wrong'
  commonest = max(found.values(), key=len)
  return f'at the worst {max(commonest, key=lambda fault: fault.severity)}'


def _knob_of_error(sweep: xr.Dataset, met: xr.Dataset) -> str:
  """By how much, where nothing else is missing, if there is such a setting."""
  cells = _cell_dims(sweep)
  worst = _relative_error(sweep).max(cells, skipna=False)
  others = (met.healthy & met.unbiased).all(cells)
  smallest = float(worst.where(others).min() if others.any() else worst.min())
  if not smallest > MAX_RELATIVE_ERROR:
    return 'take more draws'
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
  """The error of `relative_bias` if minibatches were not shared: too large."""
  below = sweep[['llc', 'standard_error']].shift(step_size=1)
  both = np.hypot(sweep.standard_error, below.standard_error)
  return 2 * both / abs(2 * below.llc - sweep.llc)


def _warnings(
  sweep: xr.Dataset, setting: calibration.Setting | None
) -> tuple[str, ...]:
  """Of step size times curvature, whose limit is known for plain SGLD."""
  sampler = sweep.attrs.get('sampler', '').split('+')[0]
  if 'curvature' not in sweep or sampler != 'sgld':
    return ()
  product = (sweep.step_size * sweep.curvature).max(_cell_dims(sweep))
  found = []
  if setting is not None:
    here = float(product.sel(setting._asdict()))
    if here > _STIFF:
      found.append(
        f'At {_named(setting)}, step size times the largest curvature is '
        f'{here:.2g}{_near(here)}: along that direction chains are too wide '
        f'by the factor 1 / (1 - {here:.2g} / 4).'
      )
  if count := int((product > _NEAR_LIMIT).sum()):
    smallest = float(product.step_size.where(product > _NEAR_LIMIT).min())
    found.append(
      f'Step size times the largest curvature is over {_NEAR_LIMIT:g}, near or '
      f'past the limit of 4 where SGLD diverges, at {count} of {product.size} '
      f'settings, the first at step size {smallest:.4g}.'
    )
  return tuple(found)


def _near(product: float) -> str:
  return ', near the limit of 4' if product > _NEAR_LIMIT else ''


def _named(setting: calibration.Setting) -> str:
  values = [f'{name} {value:.4g}' for name, value in setting._asdict().items()]
  return ', '.join(values).replace('_', ' ')


def _percent(share: float) -> str:
  return f'{100 * share:.2g} %'
