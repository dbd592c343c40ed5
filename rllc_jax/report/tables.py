"""Tables of the report: estimates of heads, diagnostics of all cells."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

# Beyond these a diagnostic is marked. They are habits, not theorems.
RHAT_LIMIT = 1.05
ESS_LIMIT = 100.0
RATIO_LIMIT = 0.05  # From 1, and beyond two standard errors.
MISSING = '–'
_DIAGNOSTICS = {
  'equilibrium_ratio': 'equilibrium ratio',
  'rhat': 'R-hat, loss difference',
  'rhat_distance': 'R-hat, squared distance',
  'ess': 'ESS, loss difference',
  'ess_distance': 'ESS, squared distance',
}


class Cell(NamedTuple):
  """An entry of a table.

  Attributes:
    text: what it says.
    marked: whether a reader should look twice.
  """

  text: str
  marked: bool = False


class Table(NamedTuple):
  """Rows under a header.

  Attributes:
    header: a word a column.
    rows: as wide as the header.
    num_words: how many columns, from the left, are words and not numbers.
  """

  header: tuple[str, ...]
  rows: Sequence[tuple[Cell, ...]]
  num_words: int = 1


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
  decimals = _decimals(error)
  return f'{value:.{decimals}f} ± {error:.{decimals}f}'


def _decimals(error: float) -> int:
  """Digits after the point that show two digits of an error."""
  if not np.isfinite(error) or error <= 0:
    return 2
  return int(np.clip(1 - np.floor(np.log10(error)), 0, 8))


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
  header = ('refinement', 'wrLLC', '95 % interval', since, 'equilibrium ratio')
  return Table((*header, 'R-hat', 'ESS', 'failed chains'), rows)


def _row(before: xr.Dataset, after: xr.Dataset) -> tuple[Cell, ...]:
  value = lambda name: float(after[name])
  change = value('llc') - float(before.llc)
  error = np.hypot(value('standard_error'), float(before.standard_error))
  interval = MISSING
  if np.isfinite(value('low')) and np.isfinite(value('high')):
    decimals = _decimals(value('standard_error'))
    interval = f'{value("low"):.{decimals}f} to {value("high"):.{decimals}f}'
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


def marks(estimates: xr.Dataset) -> dict[str, xr.DataArray]:
  """Which cells a reader should look at twice, by diagnostic.

  Args:
    estimates: from `llc_from_traces`; diagnostics that it lacks are left out.

  Returns:
    Name of the diagnostic -> booleans over (checkpoint, dataset, refinement).
    What is NaN is not marked.
  """
  error = estimates.get('equilibrium_ratio_error', xr.DataArray(0.0))
  found = {}
  for name in _DIAGNOSTICS:
    if name in estimates:
      x = estimates[name]
      if name == 'equilibrium_ratio':
        found[name] = _off_balance(x, error)
      else:
        found[name] = x < ESS_LIMIT if 'ess' in name else x > RHAT_LIMIT
  return {**found, 'num_failed': estimates.num_failed > 0}


def num_marked(estimates: xr.Dataset) -> int:
  """How many cells with an estimate have a mark that concerns it.

  Squared distances relax more slowly than losses; what they say of a chain is
  in the table, and not counted against the estimate.
  """
  counted = [x for name, x in marks(estimates).items() if 'dist' not in name]
  marked = xr.concat(counted, 'diagnostic')
  return int((marked.any('diagnostic') & estimates.llc.notnull()).sum())


def diagnostics_table(estimates: xr.Dataset) -> Table:
  """The diagnostics over all cells: middle, worst, where, and how many marked.

  Args:
    estimates: from `llc_from_traces`.
  """
  marked = marks(estimates)
  rows = [
    _summary(estimates[name], words, marked[name])
    for name, words in _DIAGNOSTICS.items()
    if name in estimates and bool(estimates[name].notnull().any())
  ]
  header = ('diagnostic', 'where the worst is', 'median', 'worst', 'marked')
  return Table(header, rows, num_words=2)


def _summary(
  values: xr.DataArray, words: str, marked: xr.DataArray
) -> tuple[Cell, ...]:
  """A row for one diagnostic."""
  name, form = str(values.name), '.3f'
  badness = abs(values - 1)
  if 'ess' in name:
    badness, form = -values, ',.0f'
  elif 'rhat' in name:
    badness = values
  worst = values.isel(badness.argmax(dim=values.dims))
  place = (
    f'{worst.refinement.item()} at step {worst.checkpoint.item():,}, '
    f'{worst.dataset.item()}'
  )
  count = int(marked.sum())
  return (
    Cell(words),
    Cell(place),
    Cell(format(float(values.median()), form)),
    Cell(format(float(worst), form), count > 0),
    Cell(f'{count} of {int(values.notnull().sum())}', count > 0),
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
