"""Whole trajectories: every refinement at every checkpoint on every data set.

The host goes over blocks of rows and segments of draws; one compiled program a
family does the rest. A segment is the unit of progress, of writing and of what
a kill can lose. None of that changes a number.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import xarray as xr

from rllc_jax import types
from rllc_jax.estimators import blocks
from rllc_jax.estimators import executors
from rllc_jax.estimators import loading
from rllc_jax.estimators import missing
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import settings
from rllc_jax.results import disk
from rllc_jax.results import memory
from rllc_jax.results import store as stores

Progress = executors.Progress


def estimate_trajectory(
  rng_key: types.Key,
  refinements: Sequence[types.Refinements] | types.Refinements,
  trajectory: types.Trajectory,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  sampling: settings.Sampling,
  *,
  layout: settings.Layout = settings.Layout(),
  store: stores.Store | None = None,
  provenance: Mapping[str, Any] | None = None,
  observe: types.Observe | None = None,
  progress: Progress | None = None,
  executor: futures.Executor | None = None,
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
    sampling: settings of the chains.
    layout: where and in which pieces; all local devices by default.
    store: see `open_store`. With one, a run that was killed goes on,
      and one that is done can be asked for more. In memory by default.
    provenance: what else makes the numbers what they are (the loss, the model),
      JSON; a store refuses to go on with another.
    observe: `observe(position, context) -> {name: array}`, recorded at draws.
    progress: `progress(done, total)` in draws of a chain: at first, after each
      segment, and, with the same `done`, when a block is ready and compiled:
      a clock for the time that is left should start anew there.
    executor: takes blocks as tasks: a pool of processes, or of `dask`
      `Client.get_executor(pure=False)`. Its workers must see the store.

  Returns:
    Traces for `llc_from_traces`, dims (checkpoint, dataset, refinement, chain,
    draw).

  Raises:
    ValueError: if a name is given twice, a checkpoint is not finite, a store is
      of another run, or the memory of a device does not suffice; what is stored
      stays.
  """
  spec = requests.Spec(
    rng_key,
    types.as_families(refinements),
    trajectory,
    datasets,
    minibatches,
    sampling,
    layout,
    provenance,
    observe,
  )
  request = requests.check(spec, with_losses=store is not None)
  store = memory.MemoryStore() if store is None else store
  nothing = lambda done, total: None
  return run(request, store, progress or nothing, executor)


def run(
  request: requests.Request,
  store: stores.Store,
  progress: Progress = lambda done, total: None,
  executor: futures.Executor | None = None,
) -> xr.Dataset:
  """Takes the draws that a store lacks and reads what was asked for."""
  fill(request, store, progress, executor)
  most = min(request.extent.num_draws, store.max_recorded_draws())
  traces = store.read(request.extent._replace(num_draws=most))
  if (target := request.job.sampling.target_error) is not None:
    traces.attrs['target_error'] = str(target)
  return traces


def fill(
  request: requests.Request,
  store: stores.Store,
  progress: Progress,
  executor: futures.Executor | None = None,
) -> None:
  """Takes the draws that a store lacks, and reads none of what it holds.

  Args:
    request: from `request.check`.
    store: as of `estimate_trajectory`; with several processes, each does its
      own share.
    progress: as of `estimate_trajectory`.
    executor: as of `estimate_trajectory`.

  Raises:
    ValueError: as `estimate_trajectory`.
  """
  if executor is not None and not isinstance(store, disk.DiskStore):
    raise ValueError(
      'store must be one of open_store with an executor, because its workers '
      f'write there; got {type(store).__name__}.'
    )
  store.begin(request.identity, request.extent, request.made_with)
  try:
    if executor is not None and isinstance(store, disk.DiskStore):
      executors.fill(request, store, executor, progress)
    else:
      _run(request, store, progress)
  finally:
    store.end()


def _run(
  request: requests.Request, store: stores.Store, progress: Progress
) -> None:
  """Does what a store lacks, and says how much of all is done."""
  job, trajectory = request.job, request.spec.trajectory
  rows = store.owned_rows(request.extent.rows())
  works, done = missing.plan(
    missing.Held(store.recorded, store.read),
    request.spec.refinements,
    job.sampling,
    rows,
    job.rows_per_block,
  )
  planned = [work.num_missing for work in works]
  progress(done, done + sum(planned))
  hashes = None if trajectory.fingerprint else request.identity['params']
  loaded = loading.loaded_ahead(trajectory, works, job.rows_per_block, hashes)
  begun = 0  # Draws of the blocks so far, done or missing.
  for i, (work, params) in enumerate(loaded):
    begin = done
    for taken in blocks.run_block(job, work, params, store):
      done += taken.draws
      of_block = done - begin + taken.missing
      # Pilots that are to come are taken to grow like those that were.
      growth = (begun + of_block) / sum(planned[: i + 1])
      progress(
        done, done + taken.missing + round(growth * sum(planned[i + 1 :]))
      )
    begun += done - begin
