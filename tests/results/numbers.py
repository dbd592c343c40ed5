"""Fills a store as a trajectory does, with numbers from NumPy, without a model.

Like `trajectory.fill`, it plans the missing draws, block by block and segment
by segment. A draw's numbers depend on its address, so traces of two runs are
the same if and only if every draw is in its place.
"""

import types
import zlib

import numpy as np

from rllc_jax.estimators import missing
from rllc_jax.results import memory
from rllc_jax.results import store as store_types
from tests.estimators import toy

_TRACES = ('loss', 'center_loss', 'squared_distance', 'virial')
_NUM_BASELINE_BATCHES = 4


def run(
  store=None,
  *,
  trajectory=None,
  datasets=toy.DATASETS,
  refinements=None,
  num_chains=2,
  num_draws=24,
  burn_in=6,
  step_size=1e-3,
  rows_per_block=2,
  segment=12,
  progress=lambda done, total: None,
):
  """Fills a store and reads it, with the options of `toy.run`."""
  store = memory.MemoryStore() if store is None else store
  families = refinements or [toy.family(0, 1, 2)]
  steps = (trajectory or toy.trajectory()).steps
  extent = store_types.Extent(
    tuple(steps),
    tuple(datasets),
    tuple(name for family in families for name in family.names),
    num_chains,
    burn_in + num_draws,
  )
  store.begin(_identity(extent, step_size), extent, 'NumPy')
  try:
    _fill(store, families, extent, rows_per_block, segment, progress)
  finally:
    store.end()
  return store.read(extent)


def assert_same(actual, expected):
  """Compares every variable, bit for bit."""
  for name in expected.variables:
    np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def _identity(extent, step_size):
  return {
    'nbeta': 30.0,
    'localization': 50.0,
    'step_size': step_size,
    'burn_in': 6,
    'num_steps_between_draws': 1,
    'params': {str(step): 'x' for step in extent.checkpoints},
    'windows': {name: [0, 1] for name in extent.datasets},
    'num_coordinates': dict.fromkeys(extent.refinements, 12),
  }


def _fill(store, families, extent, rows_per_block, segment, progress):
  rows = store.owned_rows(extent.rows())
  held = missing.Held(store.recorded, store.read)
  sampling = types.SimpleNamespace(
    num_chains=extent.num_chains, num_recorded=extent.num_draws, stop_rule=None
  )
  works, done = missing.plan(held, families, sampling, rows, rows_per_block)
  total = done + sum(work.num_missing for work in works)
  progress(done, total)
  for work in works:
    first = work.first
    if first:  # The store must return the chains after these draws.
      [states] = store.states(work.rows, work.columns, first)
      np.testing.assert_array_equal(states, _states(work, first))
    progress(done, total)
    while first < extent.num_draws:
      count = min(segment, extent.num_draws - first)
      _write(store, work, first, count)
      first += count
      done += work.num_chains * count
      progress(done, total)
    store.complete(work.rows, work.columns)


def _write(store, work, first, count):
  draws = {name: _draws(work, name, first, count) for name in _TRACES}
  baseline = np.array(
    [_numbers(row, _NUM_BASELINE_BATCHES) for row in work.rows]
  )
  store.write(
    work.rows,
    work.columns,
    first,
    draws,
    [_states(work, first + count)],
    baseline if not first else baseline[:, :0],
  )


def _draws(work, name, first, count):
  """Draws [K, N, count]; columns share the loss at the center alone."""
  shared = name == 'center_loss'
  cells = [
    [
      _numbers((name, row, () if shared else column), first + count)[first:]
      for column in work.columns
    ]
    for row in work.rows
  ]
  return np.array(cells)


def _states(work, first):
  cells = [
    [_numbers(('state', row, column, first), 5) for column in work.columns]
    for row in work.rows
  ]
  return np.array(cells)


def _numbers(name, count):
  """The first `count` random numbers of a name."""
  rng = np.random.default_rng(zlib.crc32(repr(name).encode()))
  return rng.uniform(1, 2, count).astype(np.float32)
