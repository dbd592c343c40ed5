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
  """What is known of one refinement at one checkpoint on one data set.

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
    """Whether there are draws for an error bar, of chains that lived."""
    chains, draws = self.kept['loss'].shape
    return chains > 0 and draws >= errors.MIN_DRAWS

  def paired(self) -> np.ndarray:
    """The loss less that at the checkpoint on the same minibatch, [C, D]."""
    return self.kept['loss'] - self.kept['center_loss']


def cells(
  traces: xr.Dataset, burn_in: int | None
) -> Iterator[tuple[tuple[int, ...], Cell]]:
  """Every cell of the traces: its place in `DIMS`, and what is known of it.

  Args:
    traces: with all of `TRACE_DIMS`, see `with_all_dims`.
    burn_in: steps left out; that of the run if None.

  Raises:
    ValueError: if traces are missing, or no cell can have enough draws for an
      error bar.
  """
  settings = traces.attrs
  missing = [name for name in _TRACES if name not in traces]
  if missing:
    raise ValueError(
      f'Traces must have {", ".join(_TRACES)}, because diagnostics are read '
      f'from them; got none of {", ".join(missing)}. A store of an earlier '
      'version must be sampled again.'
    )
  if burn_in is None:
    burn_in = default_burn_in(settings)
  steps = traces.draw.values
  errors.check_num_draws(int((steps >= burn_in).sum()), burn_in, len(steps))
  optional = (*diagnostics.OPTIONAL_TRACES, diagnostics.LOSS_CORRECTION)
  optional = [name for name in optional if name in traces]
  arrays = {
    name: traces[name].transpose(*TRACE_DIMS).values
    for name in (*_TRACES, *optional)
  }
  recorded = traces.recorded.transpose(*TRACE_DIMS[:4]).values
  # Of step numbers, so that traces may be a selection of draws.
  recorded = recorded * settings['num_steps_between_draws']
  baseline = np.zeros((*recorded.shape[:3], 0))
  if 'baseline_loss' in traces:
    baseline = traces.baseline_loss.transpose(*DIMS, ...).values
  sizes = np.atleast_1d(traces.num_coordinates.values)
  for where in np.ndindex(recorded.shape[:3]):
    longest = recorded[where].max()
    read = (recorded[where] == longest) & (longest > 0)
    there = steps < longest
    own = {name: x[where][read][:, there] for name, x in arrays.items()}
    size = int(sizes[where[2]])
    lost = diagnostics.failed_chains(
      own, size, settings['localization'], settings['step_size']
    )
    failed = np.zeros(len(read), bool)
    failed[read] = lost
    late = steps[there] >= burn_in
    kept = {name: x[~lost][:, late] for name, x in own.items()}
    kept['last_place'] = np.spacing(abs(kept['center_loss']))
    kept = {name: x.astype(np.float64) for name, x in kept.items()}
    draws = np.flatnonzero(there & (steps >= burn_in))
    count = int(there.sum())
    kinds = np.zeros(len(read), int)
    kinds[read] = diagnostics.failure_kinds(own, lost)
    yield (
      where,
      Cell(kept, read, failed, kinds, draws, count, size, baseline[where]),
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
