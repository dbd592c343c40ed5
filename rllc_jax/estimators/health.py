"""Verdicts on estimates, and lines that sum them up.

The rules are in `estimators.faults`. Nothing here needs JAX, so that saved
results can be judged anywhere.
"""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.estimators import cells
from rllc_jax.estimators import faults

_MOST_STEPS_NAMED = 6


class NotHealthyWarning(UserWarning):
  """Warns of an estimate that is not healthy; its verdict gives the reason."""


def check(estimates: xr.Dataset) -> xr.Dataset:
  """Judges every cell.

  Args:
    estimates: from `llc_from_traces`.

  Returns:
    The estimates with `healthy`, a boolean, and `verdict`, words, over cells:
    'healthy', or each fault with its number and which knob to turn.
  """
  dims = estimates.llc.dims
  healthy = np.zeros(estimates.llc.shape, bool)
  verdict = np.full(estimates.llc.shape, '', object)
  for where, cell in _cells(estimates, dims):
    wrong = faults.faults(cell)
    healthy[where] = not wrong
    verdict[where] = '; '.join(map(str, wrong)) or 'healthy'
    if not wrong:
      verdict[where] += _reservations(cell)
  return estimates.assign(
    healthy=(dims, healthy), verdict=(dims, verdict.astype(str))
  )


def leave_out(
  estimates: xr.Dataset, rows: Collection[tuple[int, str]]
) -> xr.Dataset:
  """Marks rows that a run does not ask for, so that nobody misses them.

  Args:
    estimates: from `llc_from_traces`.
    rows: (checkpoint, data set); cells that have draws all the same count.

  Returns:
    The estimates with `left_out`, a boolean over cells.
  """
  marked = xr.zeros_like(estimates.llc, bool)
  for step, dataset in rows:
    if step in estimates.checkpoint and dataset in estimates.dataset:
      marked.loc[{'checkpoint': step, 'dataset': dataset}] = True
  return estimates.assign(left_out=marked & (estimates.num_draws == 0))


def absences(estimates: xr.Dataset) -> xr.DataArray:
  """True for cells that were asked for and have no estimate."""
  absent = estimates.llc.isnull()
  return absent & ~estimates.left_out if 'left_out' in estimates else absent


def _reservations(cell: faults.Cell) -> str:
  """Reservations about a cell that is healthy, as a clause."""
  words = []
  if faults.num_alive(cell) == 1:
    words.append('one chain cannot disagree with others')
  if faults.is_uncertain(cell):
    words.append(
      f'the equilibrium ratio, {faults.ratio_with_error(cell)}, is too '
      'uncertain to tell'
    )
  if faults.is_bias_visible(cell):
    share = faults.percent(cell['step_bias_share'])
    words.append(f'step bias {share} is larger than the interval')
  if faults.is_over_target(cell):
    words.append(
      f'the standard error, {cell["standard_error"]:.2g}, is over the target, '
      f'{faults.target_error(cell):.2g}'
    )
  return f', though {" and ".join(words)}' if words else ''


def summary(estimates: xr.Dataset) -> dict[str, str]:
  """Sums up each refinement over checkpoints and data sets in one line.

  Args:
    estimates: from `llc_from_traces`.

  Returns:
    {refinement: a line of plain words}: healthy everywhere, or what is wrong at
    which steps, with the worst number of each kind and which knob to turn.
  """
  estimates = cells.with_all_dims(estimates)
  steps, datasets, names = (estimates[name].values for name in cells.DIMS)
  by_name: dict[str, list[_Place]] = {str(name): [] for name in names}
  for (k, s, r), cell in _cells(estimates, cells.DIMS):
    if cell.get('left_out', False):
      continue
    dataset = str(datasets[s]) if len(datasets) > 1 else ''
    place = _Place(int(steps[k]), dataset, cell, faults.faults(cell))
    by_name[str(names[r])].append(place)
  return {name: _line(places) for name, places in by_name.items() if places}


def failures(estimates: xr.Dataset) -> list[str]:
  """Names the chains that failed, a line a cell.

  Args:
    estimates: from `llc_from_traces`.
  """
  estimates = cells.with_all_dims(estimates)
  failed = estimates.failed.transpose(*cells.DIMS, 'chain')
  lines = []
  for k, s, r in np.argwhere(failed.any('chain').values):
    cell = failed[k, s, r]
    chains = cell.chain.values[cell.values]
    step, dataset, name = (cell[dim].item() for dim in cells.DIMS)
    lines.append(
      f'{name} at step {step} on {dataset}: '
      f'{"chain" if len(chains) == 1 else "chains"} {_listed(chains)} failed'
    )
  return lines


class _Place(NamedTuple):
  """A cell of one refinement; `dataset` is '' if there is only one."""

  step: int
  dataset: str
  cell: faults.Cell
  faults: list[faults.Fault]


def _cells(
  estimates: xr.Dataset, dims: tuple[Any, ...]
) -> Iterator[tuple[tuple[int, ...], faults.Cell]]:
  """Yields every cell with its place."""
  arrays = {
    str(name): array.transpose(*dims).values
    for name, array in estimates.data_vars.items()
    if set(array.dims) == set(dims)
  }
  attributes = {
    name: estimates.attrs.get(name)
    for name in ('baseline', 'step_size', 'target_error')
  }
  for where in np.ndindex(arrays['llc'].shape):
    cell = {name: array[where] for name, array in arrays.items()}
    yield where, {**attributes, **cell}


def _line(places: list[_Place]) -> str:
  """All cells of one refinement in a line."""
  noun = 'cells' if places[0].dataset else 'checkpoints'
  sick = [place for place in places if place.faults]
  if not sick:
    everywhere = f'healthy at all {len(places)} {noun}'
    return (everywhere if len(places) > 1 else 'healthy') + _doubt(places)
  by_kind: dict[str, list[tuple[faults.Fault, _Place]]] = {}
  for place in sick:
    for fault in place.faults:
      by_kind.setdefault(fault.kind, []).append((fault, place))
  advice: dict[str, list[str]] = {}
  for same in by_kind.values():
    worst, _ = max(same, key=lambda pair: pair[0].severity)
    advice.setdefault(worst.remedy, []).append(_worst(same))
  parts = (f'{", ".join(what)}: {remedy}' for remedy, what in advice.items())
  where = f' at {len(sick)} of {len(places)} {noun}' if len(places) > 1 else ''
  return f'not healthy{where}: {"; ".join(parts)}'


def _doubt(places: list[_Place]) -> str:
  """Reservations about healthy cells, as clauses."""
  return (
    _doubt_of_ratio(places) + _doubt_of_bias(places) + _doubt_of_target(places)
  )


def _doubt_of_target(places: list[_Place]) -> str:
  over = [place for place in places if faults.is_over_target(place.cell)]
  if not over:
    return ''
  excess = lambda x: x.cell['standard_error'] / faults.target_error(x.cell)
  worst = max(over, key=excess)
  return (
    f', though the standard error, {excess(worst):.2g} times the target at '
    f'{_where([worst])}, is over it in {len(over)} of {len(places)}'
  )


def _doubt_of_bias(places: list[_Place]) -> str:
  biased = [place for place in places if faults.is_bias_visible(place.cell)]
  if not biased:
    return ''
  worst = max(biased, key=lambda x: x.cell['step_bias_share'])
  share = faults.percent(worst.cell['step_bias_share'])
  return (
    f', though the step bias, {share} at {_where([worst])}, is larger '
    f'than the interval in {len(biased)} of {len(places)}'
  )


def _doubt_of_ratio(places: list[_Place]) -> str:
  unsure = [place for place in places if faults.is_uncertain(place.cell)]
  if not unsure:
    return ''
  worst = max(unsure, key=lambda x: x.cell['equilibrium_ratio_error'])
  return (
    f', though the equilibrium ratio, {faults.ratio_with_error(worst.cell)} at '
    f'{_where([worst])}, is too uncertain to tell in {len(unsure)} of '
    f'{len(places)}'
  )


def _worst(same: list[tuple[faults.Fault, _Place]]) -> str:
  """One kind of fault: its worst, and all places that have it."""
  fault, _ = max(same, key=lambda pair: pair[0].severity)
  where = _where([place for _, place in same])
  return f'{fault.finding} ({"worst of " if len(same) > 1 else ""}{where})'


def _where(places: list[_Place]) -> str:
  """Steps, by data set where there are several.

  Examples:
    >>> cells = [_Place(s, d, {}, []) for d in ('a', 'b') for s in (1, 2)]
    >>> _where(cells[:3])
    'steps 1 and 2 on a and step 1 on b'
  """
  parts = []
  for dataset in dict.fromkeys(place.dataset for place in places):
    steps = sorted(place.step for place in places if place.dataset == dataset)
    words = f'step{"s" if len(steps) > 1 else ""} {_listed(steps)}'
    if len(steps) > _MOST_STEPS_NAMED:
      words = f'{len(steps)} steps from {steps[0]} to {steps[-1]}'
    parts.append(f'{words} on {dataset}' if dataset else words)
  return ' and '.join(parts)


def _listed(numbers: Sequence[Any]) -> str:
  *most, last = map(str, numbers)
  return f'{", ".join(most)} and {last}' if most else last
