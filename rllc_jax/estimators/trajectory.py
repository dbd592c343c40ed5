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
import xarray as xr

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import blocks
from rllc_jax.estimators import grid
from rllc_jax.estimators import missing
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import settings
from rllc_jax.results import memory
from rllc_jax.results import store as stores

Progress = Callable[[int, int], None]  # progress(done, total).


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
  return run(request, store, progress or (lambda done, total: None))


def run(
  request: requests.Request,
  store: stores.Store,
  progress: Progress = lambda done, total: None,
) -> xr.Dataset:
  """Takes the draws that a store lacks and reads what was asked for."""
  fill(request, store, progress)
  most = min(request.extent.num_draws, store.max_recorded_draws())
  traces = store.read(request.extent._replace(num_draws=most))
  if (target := request.job.sampling.target_error) is not None:
    traces.attrs['target_error'] = str(target)
  return traces


def fill(
  request: requests.Request, store: stores.Store, progress: Progress
) -> None:
  """Takes the draws that a store lacks, and reads none of what it holds.

  Args:
    request: from `request.check`.
    store: as of `estimate_trajectory`; with several processes, each does its
      own share.
    progress: as of `estimate_trajectory`.

  Raises:
    ValueError: as `estimate_trajectory`.
  """
  store.begin(request.identity, request.extent, request.made_with)
  try:
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
  loaded = _loaded_ahead(trajectory, works, job.rows_per_block, hashes)
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


def _loaded_ahead(
  trajectory: types.Trajectory,
  works: list[missing.Work],
  rows_per_block: int,
  hashes: Mapping[str, str] | None,
) -> Iterator[tuple[missing.Work, types.Params]]:
  """Blocks with their checkpoints; the next loads while one is worked on.

  Raises:
    ValueError: if weights are others than those with these hashes.
  """

  def load(work):
    rows = grid.padded(work.rows, rows_per_block)
    steps = [step for step, _ in rows]
    # What a caller hands out may be memory that its next call writes to.
    params = trees.copied(trajectory.load(steps))
    if hashes is not None:
      _check_hashes(params, steps, hashes)
    return params

  with futures.ThreadPoolExecutor(max_workers=1) as loader:
    ahead = [loader.submit(load, work) for work in works[:1]]
    for i, work in enumerate(works):
      params = ahead.pop().result()
      ahead = [loader.submit(load, after) for after in works[i + 1 : i + 2]]
      yield work, params


def _check_hashes(
  params: types.Params, steps: Sequence[int], hashes: Mapping[str, str]
) -> None:
  """Raises unless the weights to be sampled are those that were checked."""
  for place, step in enumerate(steps):
    weights = jax.tree.map(lambda leaf, i=place: leaf[i], params)
    if trees.content_hash(weights) != hashes[str(step)]:
      raise ValueError(
        'load(steps) must give the same weights whenever it is asked for a '
        'step, because results are kept under its number; got others for step '
        f'{step} than before.'
      )
