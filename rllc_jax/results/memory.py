"""A store in memory: for one run without a directory."""

from typing import Any

import numpy as np

from rllc_jax import identities
from rllc_jax.results import store
from rllc_jax.results import traces as xr_traces

_FIRST_CAPACITY = 1024  # Draws.


class MemoryStore:
  """A `store.Store` that ends with its process."""

  def begin(self, identity, extent, made_with):
    self._identity: dict[str, Any] = identities.merge({}, identity)[0]
    self._extent = extent
    self._capacity = min(extent.num_draws, _FIRST_CAPACITY)
    recorded = np.zeros(xr_traces.sizes(extent)[:4], np.int32)
    self._arrays: dict[str, np.ndarray] = {
      'recorded': recorded,
      'made_with': np.full(recorded.shape[:3], made_with),
    }

  def end(self):
    pass  # No lock to release: no other process sees it.

  def recorded(self, rows, columns):
    recorded = self._arrays['recorded']
    return np.array(
      [[recorded[self._cell(row, c)] for c in columns] for row in rows]
    )

  def states(self, rows, columns, stop):
    raise xr_traces.StoreError('Chains go on from a store on disk alone.')

  def owned_rows(self, rows):
    return list(rows)

  def write(self, rows, columns, first, traces, states, baseline):
    del states
    stop = first + next(iter(traces.values())).shape[2]
    self._make_room(stop)
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
    pass  # `write` has put every draw in its place.

  def max_recorded_draws(self):
    return int(self._arrays['recorded'].max())

  def read(self, extent=None):
    if extent is not None:
      xr_traces.check_within(extent, self._extent)
    capacity = self._extent._replace(num_draws=self._capacity)
    everything = xr_traces.dataset_of(self._arrays, self._identity, capacity)
    return (
      everything if extent is None else xr_traces.select(everything, extent)
    )

  def _make_room(self, num_draws):
    """Lengthens traces: a target may take far fewer draws than it may."""
    if num_draws <= self._capacity:
      return
    longer = min(self._extent.num_draws, max(num_draws, 2 * self._capacity))
    missing = longer - self._capacity
    for name, array in self._arrays.items():
      if array.ndim >= 5:
        widths = [(0, 0)] * array.ndim
        widths[4] = 0, missing
        self._arrays[name] = np.pad(array, widths, constant_values=np.nan)
    self._capacity = longer

  def _array(self, name, num_dims, extra, dtype):
    sizes = *xr_traces.sizes(self._extent)[:4], self._capacity
    shape = (*sizes[:num_dims], *extra)
    if name not in self._arrays:
      self._arrays[name] = np.full(shape, np.nan, dtype)
    return self._arrays[name]

  def _cell(self, row: store.Row, column: store.Column):
    """Indices of the first four dims, of a row and a column."""
    (checkpoint, dataset), (refinement, chain) = row, column
    return (
      self._extent.checkpoints.index(checkpoint),
      self._extent.datasets.index(dataset),
      self._extent.refinements.index(refinement),
      chain,
    )
