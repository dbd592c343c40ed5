"""Whole trajectories: every refinement at every checkpoint on every data set.

The host goes over blocks of rows and segments of draws; one compiled program a
family does the rest. A segment is the unit of progress, of writing and of what
a kill can lose. None of that changes a number.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import blocks
from rllc_jax.estimators import errors
from rllc_jax.estimators import layout
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.refinement import weights
from rllc_jax.results import memory
from rllc_jax.results import store as stores
from rllc_jax.samplers import sgld


def estimate_trajectory(
  rng_key: types.Key,
  refinements: Sequence[types.Refinements] | types.Refinements,
  trajectory: types.Trajectory,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  *,
  posterior: types.Posterior,
  step_size: float,
  num_chains: int = 4,
  num_draws: int = 200,
  burn_in: int | None = None,
  num_steps_between_draws: int = 1,
  sampler: types.Sampler | None = None,
  share_batches: bool = True,
  num_baseline_batches: int = 64,
  chunk_size: int | None = None,
  rows_per_block: int | None = None,
  segment: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  store: stores.Store | None = None,
  provenance: Mapping[str, Any] | None = None,
  observe: types.Observe | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
  """Samples the refined posteriors of a whole training run.

  Args:
    rng_key: typed threefry key. Random numbers are addressed by training step,
      data set, refinement, chain and step: whatever else is asked for, the same
      cell repeats the same minibatches and noise.
    refinements: families, or one; see `refinement.weights.families`.
    trajectory: the checkpoints.
    datasets: windows by name.
    minibatches: what the windows look into, and how minibatches are drawn.
    posterior: n beta and gamma.
    step_size: epsilon, in weight^2.
    num_chains: chains a refinement.
    num_draws: draws after the burn-in.
    burn_in: steps before them, recorded too; 10 / (step_size localization) by
      default.
    num_steps_between_draws: steps from one recorded step to the next.
    sampler: SGLD by default.
    share_batches: whether refinements and chains see the same minibatches.
    num_baseline_batches: minibatches for the corpus baseline; 0 for none.
    chunk_size: columns of a device in parallel; from its memory by default.
    rows_per_block: rows a call; one a device row of the mesh by default.
    segment: draws a call; by default what takes about ten seconds.
    mesh: see `layout.make_mesh`; all local devices by default.
    store: see `open_store`. With one, a run that was killed goes on,
      and one that is done can be asked for more. In memory by default.
    provenance: what else makes the numbers what they are (the loss, the model),
      JSON; a store refuses to go on with another.
    observe: `observe(position, context) -> {name: array}`, recorded at draws.
    progress: `progress(done, total)` at first and after each segment, in draws
      of a chain.

  Returns:
    Traces for `llc_from_traces`, dims (checkpoint, dataset, refinement, chain,
    draw).

  Raises:
    ValueError: if a setting is out of range, a name is given twice, a
      checkpoint is not finite, or a store is of another run.
  """
  if isinstance(refinements, types.Refinements):
    refinements = [refinements]
  settings.check(
    rng_key, posterior, step_size, num_chains, num_steps_between_draws, 1.0
  )
  errors.check_num_draws(num_draws)
  left_out = settings.burn_in_draws(
    burn_in, step_size, posterior, num_steps_between_draws
  )
  extent = stores.Extent(
    checkpoints=tuple(int(step) for step in trajectory.steps),
    datasets=tuple(datasets),
    refinements=tuple(name for family in refinements for name in family.names),
    num_chains=num_chains,
    num_draws=left_out + num_draws,
  )
  num_rows = len(extent.checkpoints) * len(extent.datasets)
  stores.check_extent(extent)
  mesh = layout.default_mesh(num_rows) if mesh is None else mesh
  rows_per_block = rows_per_block or mesh.shape['row']
  layout.check_rows_per_block(rows_per_block, mesh)
  for name, window in datasets.items():
    settings.check_window(name, window, minibatches)
  hashes = {
    str(step): trees.content_hash(_checkpoint(trajectory, step))
    for step in extent.checkpoints
  }
  params = _checkpoint(trajectory, extent.checkpoints[0])
  window = next(iter(datasets.values()))
  for family in refinements:
    settings.check_family(family, params, window, minibatches)
  sampler = sampler or sgld.sgld()
  settings.warn_of_bias(sampler)
  identity = {}
  if store is not None:
    identity = _identity_of_refinements(
      refinements, params, datasets, minibatches
    )
  store = memory.MemoryStore() if store is None else store
  store.begin(
    {
      'provenance': dict(provenance or {}),
      'sampler': sampler.name,
      'nbeta': float(posterior.nbeta),
      'localization': float(posterior.localization),
      'step_size': float(step_size),
      'num_steps_between_draws': int(num_steps_between_draws),
      'share_batches': bool(share_batches),
      'num_baseline_batches': int(num_baseline_batches),
      'params': hashes,
      'num_coordinates': {
        name: programs.num_coordinates(family, params)
        for family in refinements
        for name in family.names
      },
      **_identity_of_data(minibatches, datasets),
      **_identity_of_numbers(rng_key),
      **identity,
    },
    extent,
    _made_with(mesh),
  )
  run_block = blocks.block_runner(
    rng_key,
    datasets,
    minibatches,
    programs.make_settings(posterior, step_size),
    sampler,
    mesh=mesh,
    rows_per_block=rows_per_block,
    num_draws=extent.num_draws,
    segment=segment,
    chunk_size=chunk_size,
    num_steps_between_draws=num_steps_between_draws,
    num_baseline_batches=num_baseline_batches,
    share_batches=share_batches,
    observe=observe,
  )
  progress = progress or (lambda done, total: None)
  try:
    works = blocks.plan(store, refinements, extent, rows_per_block)
    left = sum(_size(work, extent.num_draws - work.first) for work in works)
    cells = num_rows * len(extent.refinements) * num_chains
    total = cells * extent.num_draws
    done = total - left
    progress(done, total)
    for work, stacked in _loaded_ahead(trajectory, works, rows_per_block):
      for count in run_block(work, stacked, store):
        done += _size(work, count)
        progress(done, total)
  finally:
    store.end()
  return store.read(extent)


def _size(work: blocks.Work, count: int) -> int:
  return len(work.rows) * len(work.columns) * count


def _loaded_ahead(
  trajectory: types.Trajectory, works: list[blocks.Work], rows_per_block: int
) -> Iterator[tuple[blocks.Work, types.Params]]:
  """Blocks with their checkpoints; the next loads while one is worked on."""

  def load(work):
    rows = layout.padded(work.rows, rows_per_block)
    return trajectory.load([step for step, _ in rows])

  with futures.ThreadPoolExecutor(max_workers=1) as loader:
    ahead = [loader.submit(load, work) for work in works[:1]]
    for i, work in enumerate(works):
      params = ahead.pop().result()
      ahead = [loader.submit(load, after) for after in works[i + 1 : i + 2]]
      yield work, params


def _checkpoint(trajectory: types.Trajectory, step: int) -> types.Params:
  """One checkpoint; raises if `load` does not stack or it is not finite."""
  stacked = trajectory.load([step])
  for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
    name = jax.tree_util.keystr(path)
    if np.shape(leaf)[:1] != (1,):
      raise ValueError(
        'load(steps) must give leaves with a leading axis, one entry a step; '
        f'got shape {list(np.shape(leaf))} for {name} of load([{step}]).'
      )
    count = np.size(leaf) - np.isfinite(np.asarray(leaf, float)).sum()
    if count:
      raise ValueError(
        'A checkpoint must be finite, because chains start from it; got '
        f'{count} values that are not in {name} at step {step}.'
      )
  return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked)


def _identity_of_refinements(
  refinements, params, datasets, minibatches
) -> dict[str, Any]:
  """Which numbers move, and what the loss does: names do not tell either.

  On one data set: what differs between data sets is in the windows.
  """
  moving, losses = {}, {}
  dataset = min(datasets)
  for family in refinements:
    for i, name in enumerate(family.names):
      index = jax.tree.map(lambda leaf, i=i: leaf[i], family.indices)
      mask = weights.mask_of(family.lens, index, params)
      moving[name] = trees.content_hash(mask)
    values = settings.probe(family, params, datasets[dataset], minibatches)
    for name, value in zip(family.names, values, strict=True):
      losses[f'{dataset}/{name}'] = float(value)
  return {'moving': moving, 'losses': losses}


def _identity_of_data(minibatches, datasets) -> dict[str, Any]:
  window = next(iter(datasets.values()))
  key = jax.random.key(0)
  batch = jax.eval_shape(minibatches.draw, key, 0, minibatches.data, window)
  return {
    'data': trees.content_hash(minibatches.data),
    'batch': str([f'{x.dtype}{list(x.shape)}' for x in jax.tree.leaves(batch)]),
    'windows': {
      name: [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(window)]
      for name, window in datasets.items()
    },
  }


def _made_with(mesh) -> str:
  devices = mesh.devices.flatten()
  kind = devices[0].device_kind
  return f'jax {jax.__version__}, {devices.size} x {kind}'


def _identity_of_numbers(rng_key) -> dict[str, Any]:
  config: Any = jax.config  # Its values are made at run time.
  return {
    'rng_key': np.asarray(jax.random.key_data(rng_key)).tolist(),
    'threefry_partitionable': config.jax_threefry_partitionable,
    'enable_x64': config.jax_enable_x64,
    'matmul_precision': config.jax_default_matmul_precision or 'default',
  }
