"""Tables of the report: estimates of heads, diagnostics of all cells."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

# Beyond these a diagnostic is marked. They are habits, not theorems.
RHAT_LIMIT = 1.05
ESS_LIMIT = 100.0
RATIO_LIMIT = 0.05  # From 1, and beyond two standard errors.
MISSING = '–'


class Cell(NamedTuple):
  """An entry of a table.

  Attributes:
    text: what it says.
    marked: whether a reader should look twice.
  """

  text: str
  marked: bool = False


class Table(NamedTuple):
  """Rows under a header; the first column names the row.

  Attributes:
    header: a word a column.
    rows: as wide as the header.
  """

  header: tuple[str, ...]
  rows: list[tuple[Cell, ...]]


def with_error(value: float, error: float) -> str:
  """A value and its error, both to two digits of the error.

  Examples:
    >>> print(with_error(12.3456, 0.0789), with_error(1234.5, 67.8))
    12.346 ± 0.079 1234 ± 68
    >>> print(with_error(float('nan'), 1.0))
    –
  """
  if not np.isfinite(value):
    return MISSING
  if not np.isfinite(error) or error <= 0:
    return f'{value:.4g}'
  decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 8))
  return f'{value:.{decimals}f} ± {error:.{decimals}f}'


def refinements_table(estimates: xr.Dataset, dataset: str) -> Table:
  """Estimates and diagnostics at the last checkpoint, a row a refinement.

  The change is from the first checkpoint; its error adds both in quadrature,
  too much where minibatches are shared.

  Args:
    estimates: from `llc_from_traces`.
    dataset: which.
  """
  chosen = estimates.sel(dataset=dataset).sortby('checkpoint')
  first, last = chosen.isel(checkpoint=0), chosen.isel(checkpoint=-1)
  rows = []
  for name in map(str, chosen.refinement.values):
    before, after = first.sel(refinement=name), last.sel(refinement=name)
    rows.append((Cell(name), *_row(before, after)))
  since = f'change since step {int(first.checkpoint):,}'
  header = ('part', 'wrLLC', '95 % interval', since, 'equilibrium ratio')
  return Table((*header, 'R-hat', 'ESS', 'failed chains'), rows)


def _row(before: xr.Dataset, after: xr.Dataset) -> tuple[Cell, ...]:
  value = lambda name: float(after[name])
  change = value('llc') - float(before.llc)
  error = np.hypot(value('standard_error'), float(before.standard_error))
  interval = MISSING
  if np.isfinite(value('low')) and np.isfinite(value('high')):
    interval = f'{value("low"):.4g} to {value("high"):.4g}'
  ratio, ratio_error = value('equilibrium_ratio'), 0.0
  if 'equilibrium_ratio_error' in after:
    ratio_error = value('equilibrium_ratio_error')
  failed = int(np.nan_to_num(value('num_failed')))
  return (
    Cell(with_error(value('llc'), value('standard_error'))),
    Cell(interval),
    Cell(with_error(change, error)),
    Cell(with_error(ratio, ratio_error), _off_balance(ratio, ratio_error)),
    Cell(_number(value('rhat'), '.3f'), value('rhat') > RHAT_LIMIT),
    Cell(_number(value('ess'), ',.0f'), value('ess') < ESS_LIMIT),
    Cell(str(failed), failed > 0),
  )


def _number(value: float, form: str) -> str:
  return format(value, form) if np.isfinite(value) else MISSING


def _off_balance(ratio, error):
  distance = np.abs(ratio - 1)
  return (distance > RATIO_LIMIT) & (distance > 2 * np.nan_to_num(error))


def diagnostics_table(estimates: xr.Dataset) -> Table:
  """The diagnostics over all cells: middle, worst, where, and how many marked.

  Args:
    estimates: from `llc_from_traces`.
  """
  too_high, too_low = (lambda x: x > RHAT_LIMIT), (lambda x: x < ESS_LIMIT)
  error = estimates.get('equilibrium_ratio_error', xr.DataArray(0.0))
  off = lambda x: _off_balance(x, error)
  rows = [
    _summary(estimates, 'equilibrium_ratio', 'equilibrium ratio', '.3f',
             lambda x: np.abs(x - 1), off),
    _summary(estimates, 'rhat', 'R-hat, loss difference', '.3f',
             lambda x: x, too_high),
    _summary(estimates, 'rhat_distance', 'R-hat, squared distance', '.3f',
             lambda x: x, too_high),
    _summary(estimates, 'ess', 'ESS, loss difference', ',.0f',
             lambda x: -x, too_low),
    _summary(estimates, 'ess_distance', 'ESS, squared distance', ',.0f',
             lambda x: -x, too_low),
  ]
  header = ('diagnostic', 'median', 'worst', 'where', 'marked')
  return Table(header, [row for row in rows if row])


def _summary(
  estimates: xr.Dataset,
  name: str,
  words: str,
  form: str,
  badness: Callable[[xr.DataArray], xr.DataArray],
  is_marked: Callable[[xr.DataArray], xr.DataArray],
) -> tuple[Cell, ...]:
  """A row for one diagnostic; none if there is no value of it."""
  if name not in estimates or not bool(estimates[name].notnull().any()):
    return ()
  values = estimates[name]
  where = badness(values).argmax(dim=values.dims)
  worst = values.isel(where)
  marked = int((is_marked(values) & values.notnull()).sum())
  place = (
    f'{worst.refinement.item()} at step {worst.checkpoint.item():,}, '
    f'{worst.dataset.item()}'
  )
  return (
    Cell(words),
    Cell(format(float(values.median()), form)),
    Cell(format(float(worst), form), marked > 0),
    Cell(place),
    Cell(f'{marked} of {int(values.notnull().sum())}', marked > 0),
  )


def missing_cells(estimates: xr.Dataset) -> list[str]:
  """Names the cells without an estimate, a line a checkpoint and data set.

  Args:
    estimates: from `llc_from_traces`.
  """
  lines = []
  absent = estimates.llc.isnull().sortby('checkpoint')
  for step in absent.checkpoint.values:
    for dataset in absent.dataset.values:
      row = absent.sel(checkpoint=step, dataset=dataset)
      parts = [str(name) for name in row.refinement.values[row.values]]
      if parts:
        what = 'everything' if len(parts) == row.size else ', '.join(parts)
        lines.append(f'step {int(step):,}, {dataset}: {what}')
  return lines
