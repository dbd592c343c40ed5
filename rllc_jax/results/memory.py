"""A store in memory: for one run without a directory."""

from typing import Any

import numpy as np

from rllc_jax.results import store as stores
from rllc_jax.results import traces as tables


class MemoryStore:
  """A `stores.Store` that is gone with its process."""

  def begin(self, identity, extent, made_with):
    self._identity: dict[str, Any] = tables.merge_identity({}, identity)[0]
    self._extent = extent
    recorded = np.zeros(tables.sizes(extent)[:4], np.int32)
    self._arrays: dict[str, np.ndarray] = {
      'recorded': recorded,
      'made_with': np.full(recorded.shape[:3], made_with),
    }

  def end(self):
    pass  # Nobody else can have it.

  def recorded(self, rows, columns):
    recorded = self._arrays['recorded']
    return np.array(
      [[recorded[self._cell(row, c)] for c in columns] for row in rows]
    )

  def states(self, rows, columns):
    raise tables.StoreError('Chains go on from a store on disk alone.')

  def own(self, rows):
    return list(rows)

  def write(self, rows, columns, first, traces, states, baseline):
    del states
    stop = first + next(iter(traces.values())).shape[2]
    for name, trace in traces.items():
      array = self._array(name, 5, trace.shape[3:], trace.dtype)
      for k, row in enumerate(rows):
        for n, column in enumerate(columns):
          array[self._cell(row, column)][first:stop] = trace[k, n]
          self._arrays['recorded'][self._cell(row, column)] = stop

    if baseline.shape[1]:
      array = self._array(
        'baseline_loss', 3, baseline.shape[1:], baseline.dtype
      )
      for row, values in zip(rows, baseline, strict=True):
        for column in columns:
          array[self._cell(row, column)[:3]] = values

  def complete(self, rows, columns):
    pass  # Every draw has its place at once.

  def read(self, extent=None):
    if extent is not None:
      tables.check_within(extent, self._extent)
    whole = tables.dataset_of(self._arrays, self._identity, self._extent)
    return whole if extent is None else tables.select(whole, extent)

  def _array(self, name, num_dims, extra, dtype):
    shape = (*tables.sizes(self._extent)[:num_dims], *extra)
    if name not in self._arrays:
      self._arrays[name] = np.full(shape, np.nan, dtype)
    return self._arrays[name]

  def _cell(self, row: stores.Row, column: stores.Column):
    """Where a row and a column meet: indices of the first four dims."""
    (checkpoint, dataset), (refinement, chain) = row, column
    return (
      self._extent.checkpoints.index(checkpoint),
      self._extent.datasets.index(dataset),
      self._extent.refinements.index(refinement),
      chain,
    )
