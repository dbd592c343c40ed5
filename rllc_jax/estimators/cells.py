"""Cells: what traces hold of one refinement, checkpoint and data set.

A cell is read from the chains that have as many draws as any of its own, so
what is done stays readable while a store grows.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors

DIMS = ('checkpoint', 'dataset', 'refinement')
TRACE_DIMS = (*DIMS, 'chain', 'draw')
_TRACES = (
  'loss',
  'center_loss',
  'squared_distance',
  'virial',
  'squared_gradient',
)


class Cell(NamedTuple):
  """One refinement at one checkpoint on one data set.

  Attributes:
    kept: {name: [C, D]}, draws after the burn-in of the chains that lived.
    read: [all chains], those that have as many draws as any.
    failed: [all chains], those of them that diverged.
    failure_kinds: [all chains], why; see `diagnostics.failure_kinds`.
    draws: which draws were kept.
    num_draws: how many draws each chain read has, the burn-in included.
    num_coordinates: d.
    baseline: [M], losses at the checkpoint on minibatches of their own.
  """

  kept: dict[str, np.ndarray]
  read: np.ndarray
  failed: np.ndarray
  failure_kinds: np.ndarray
  draws: np.ndarray
  num_draws: int
  num_coordinates: int
  baseline: np.ndarray

  def has_enough(self) -> bool:
    """True if chains that lived have draws enough for an error bar."""
    chains, draws = self.kept['loss'].shape
    return chains > 0 and draws >= errors.MIN_DRAWS

  def paired(self) -> np.ndarray:
    """The loss less that at the checkpoint on the same minibatch, [C, D]."""
    return self.kept['loss'] - self.kept['center_loss']


def cells(
  traces: xr.Dataset, burn_in: int | None
) -> Iterator[tuple[tuple[int, ...], Cell]]:
  """Yields every cell with its place in `DIMS`.

  Args:
    traces: with all of `TRACE_DIMS`, see `with_all_dims`.
    burn_in: steps left out; that of the run if None.

  Raises:
    ValueError: if traces are missing, or no cell can have enough draws for an
      error bar.
  """
  if burn_in is None:
    burn_in = default_burn_in(traces.attrs)
  arrays = _arrays(traces)
  steps = traces.draw.values
  errors.check_num_draws(int((steps >= burn_in).sum()), burn_in, len(steps))
  recorded = traces.recorded.transpose(*TRACE_DIMS[:4]).values
  # In steps and not in draws, so that traces may be a selection of draws.
  recorded = recorded * traces.attrs['num_steps_between_draws']
  baseline = np.zeros((*recorded.shape[:3], 0))
  if 'baseline_loss' in traces:
    baseline = traces.baseline_loss.transpose(*DIMS, ...).values
  sizes = np.atleast_1d(traces.num_coordinates.values)
  for where in np.ndindex(recorded.shape[:3]):
    chains = {name: array[where] for name, array in arrays.items()}
    extent = _Extent(steps, recorded[where], burn_in)
    size = int(sizes[where[2]])
    yield where, _cell(chains, extent, traces.attrs, size, baseline[where])


class _Extent(NamedTuple):
  """Steps of a cell's draws.

  Attributes:
    steps: [D], of every draw of the traces.
    recorded: [C], steps that each chain has.
    burn_in: steps left out.
  """

  steps: np.ndarray
  recorded: np.ndarray
  burn_in: int


def _arrays(traces: xr.Dataset) -> dict[str, np.ndarray]:
  """Required and optional traces as arrays over `TRACE_DIMS`."""
  missing = [name for name in _TRACES if name not in traces]
  if missing:
    raise ValueError(
      f'Traces must have {", ".join(_TRACES)}, because diagnostics are read '
      f'from them; got none of {", ".join(missing)}. A store of an earlier '
      'version must be sampled again.'
    )
  optional = (*diagnostics.OPTIONAL_TRACES, *diagnostics.BIAS_TRACES)
  return {
    name: traces[name].transpose(*TRACE_DIMS).values
    for name in (*_TRACES, *optional)
    if name in traces
  }


def _cell(
  chains: Mapping[str, np.ndarray],
  extent: _Extent,
  settings: Mapping[str, Any],
  num_coordinates: int,
  baseline: np.ndarray,
) -> Cell:
  """Splits the chains of a cell, [C, D] each, into failed ones and the rest."""
  num_steps = extent.recorded.max()
  is_read = (extent.recorded == num_steps) & (num_steps > 0)
  is_recorded = extent.steps < num_steps
  is_late = extent.steps >= extent.burn_in
  whole = {name: x[is_read][:, is_recorded] for name, x in chains.items()}
  diverged = diagnostics.failed_chains(
    whole, num_coordinates, settings['localization'], settings['step_size']
  )
  draws = {
    name: x[~diverged][:, is_late[is_recorded]] for name, x in whole.items()
  }
  # Before the cast: the last place is that of the recorded precision.
  draws['last_place'] = np.spacing(abs(draws['center_loss']))
  failed = np.zeros(len(is_read), bool)
  failed[is_read] = diverged
  failure_kinds = np.zeros(len(is_read), int)
  failure_kinds[is_read] = diagnostics.failure_kinds(whole, diverged)
  return Cell(
    kept={name: x.astype(np.float64) for name, x in draws.items()},
    read=is_read,
    failed=failed,
    failure_kinds=failure_kinds,
    draws=np.flatnonzero(is_recorded & is_late),
    num_draws=int(is_recorded.sum()),
    num_coordinates=num_coordinates,
    baseline=baseline,
  )


def default_burn_in(settings: Mapping[str, Any]) -> int:
  """The burn-in that a run was asked for, or what its settings make of it."""
  if 'burn_in' in settings:
    return int(settings['burn_in'])
  return errors.default_burn_in(settings['step_size'], settings['localization'])


def with_all_dims(traces: xr.Dataset) -> xr.Dataset:
  """Puts back dims that a selection of one coordinate dropped."""
  dropped = [name for name in DIMS if name not in traces.dims]
  return traces.expand_dims(dropped) if dropped else traces
