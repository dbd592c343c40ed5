"""Plans of runs: steps, memory and time before anything is sampled.

Counted where it can be counted, and timed where it cannot: of each family of
refinements a block is compiled and a segment of it run and thrown away. What a
store holds already is not planned again, and nothing is written to it.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
import tempfile
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import blocks
from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid
from rllc_jax.estimators import missing
from rllc_jax.estimators import multiply_adds
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import settings
from rllc_jax.results import disk
from rllc_jax.results import memory
from rllc_jax.results import store as stores

_TIMED_SECONDS = 3.0


class Counts(NamedTuple):
  """Exact counts of the work that is missing.

  Attributes:
    cells: (checkpoint, data set, refinement) of which draws are missing.
    chain_steps: steps of chains; a draw is `num_steps_between_draws` of them.
    row_steps: minibatches whose context is computed, baseline and all.
    entries: numbers in all minibatches that chains step on; tokens, if a
      minibatch is sequences of tokens.
    multiply_adds: of matrix products, in losses, gradients and contexts.
  """

  cells: int
  chain_steps: int
  row_steps: int
  entries: int
  multiply_adds: int


class Costs(NamedTuple):
  """Measured costs of one block on this machine.

  Attributes:
    bytes_per_device: at its peak, by XLA's account: data, weights, chains and
      all that is temporary.
    chunk_size: columns of a device in parallel.
    compile_seconds: to compile its programs; less if they are found in JAX's
      compilation cache.
    start_seconds: to prepare it, to measure the losses at its checkpoints, and
      to put it away when it is done.
    segment_seconds: to call its program, to fetch what it gives and to store
      it, however few draws that is.
    draw_seconds: for a draw of all its chains.
  """

  bytes_per_device: int
  chunk_size: int
  compile_seconds: float
  start_seconds: float
  segment_seconds: float
  draw_seconds: float


class FamilyPlan(NamedTuple):
  """The part of a plan that is one family's.

  Attributes:
    names: its refinements.
    counts: what is left to do.
    costs: of its largest block.
    num_blocks: calls to start.
    compile_seconds: for all shapes of its blocks.
    run_seconds: for all its blocks, without compilation.
  """

  names: tuple[str, ...]
  counts: Counts
  costs: Costs
  num_blocks: int
  compile_seconds: float
  run_seconds: float


class Plan(NamedTuple):
  """Steps, memory and time of a run.

  Attributes:
    families: those of which something is left to do.
    num_devices: of the mesh.
    check_seconds: to check what is asked for and to hash the checkpoints.
  """

  families: tuple[FamilyPlan, ...]
  num_devices: int
  check_seconds: float

  @property
  def counts(self) -> Counts:
    """Counts of all families together."""
    if not self.families:
      return Counts(0, 0, 0, 0, 0)
    columns = zip(*(family.counts for family in self.families), strict=True)
    return Counts(*(sum(column) for column in columns))

  @property
  def compile_seconds(self) -> float:
    """To compile everything."""
    return sum(family.compile_seconds for family in self.families)

  @property
  def seconds(self) -> float:
    """From the call to the last segment on disk."""
    running = sum(family.run_seconds for family in self.families)
    return self.check_seconds + self.compile_seconds + running

  @property
  def bytes_per_device(self) -> int:
    """At the peak."""
    sizes = [family.costs.bytes_per_device for family in self.families]
    return max(sizes, default=0)


def plan(
  rng_key: types.Key,
  refinements: Sequence[types.Refinements] | types.Refinements,
  trajectory: types.Trajectory,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  sampling: settings.Sampling,
  *,
  layout: settings.Layout = settings.Layout(),
  store: disk.DiskStore | None = None,
  provenance: Mapping[str, Any] | None = None,
  observe: types.Observe | None = None,
) -> Plan:
  """Plans `estimate_trajectory` with the same arguments.

  Times are those of this machine as busy as it is now.

  Args:
    rng_key: as all others, of `estimate_trajectory`.
    refinements: families, or one.
    trajectory: the checkpoints.
    datasets: windows by name.
    minibatches: what the windows look into.
    sampling: settings of the chains.
    layout: where and in which pieces.
    store: of the run; it is read only.
    provenance: what else makes the numbers what they are.
    observe: what is recorded at draws.

  Raises:
    ValueError: if `estimate_trajectory` would: a setting is out of range, the
      store is of another run, or the memory of a device does not suffice.
  """
  refinements = types.as_families(refinements)
  spec = requests.Spec(
    rng_key,
    refinements,
    trajectory,
    datasets,
    minibatches,
    sampling,
    layout,
    provenance,
    observe,
  )
  return plan_of(spec, store)


def plan_of(spec: requests.Spec, store: disk.DiskStore | None) -> Plan:
  """The same of a specification."""
  began = time.perf_counter()
  request, held = check(spec, store)
  check_seconds = time.perf_counter() - began
  job, extent = request.job, request.extent
  families = []
  for family in spec.refinements:
    works, _ = missing.plan(
      held, [family], job.sampling, extent.rows(), job.rows_per_block
    )
    if works:
      families.append(_plan_family(request, works, store))
  return Plan(tuple(families), job.mesh.devices.size, check_seconds)


def check(
  spec: requests.Spec, store: disk.DiskStore | None
) -> tuple[requests.Request, missing.Held]:
  """Checks a run, and reads how much of it a store holds.

  Raises:
    ValueError: as `plan`.
  """
  request = requests.check(spec, with_losses=store is not None)
  return request, _held(store, request.identity)


def _held(
  store: disk.DiskStore | None, identity: dict[str, Any]
) -> missing.Held:
  """The draws of a store, read without beginning a run."""
  if store is None:
    none = lambda rows, columns: np.zeros((len(rows), len(columns)), int)
    return missing.Held(none, memory.MemoryStore().read)
  store.check_identity(identity)
  return missing.Held(
    store.recorded, lambda extent: store.peek(extent, identity)
  )


def _plan_family(
  request: requests.Request,
  works: list[missing.Work],
  store: disk.DiskStore | None,
) -> FamilyPlan:
  job = request.job
  largest = max(works, key=lambda work: work.num_chains)
  rows = grid.padded(largest.rows, job.rows_per_block)
  params = request.spec.trajectory.load([step for step, _ in rows])
  with _scratch(request, on_disk=store is not None) as scratch:
    costs = _measure(job, largest, params, scratch)
  per_device = lambda work: -(-len(work.columns) // job.mesh.shape['column'])
  sizes = [-(-per_device(work) // costs.chunk_size) for work in works]
  whole = -(-per_device(largest) // costs.chunk_size)
  seconds = sum(
    _block_seconds(job, work, costs, size / whole)
    for work, size in zip(works, sizes, strict=True)
  )
  return FamilyPlan(
    largest.family.names,
    _counts(job, works, blocks.make_rows(job, largest, params)),
    costs,
    len(works),
    costs.compile_seconds,
    seconds,
  )


def _counts(job, works, rows) -> Counts:
  """Counts of the blocks of one family, without padding."""
  step = footprint.step_of(works[0].family, rows, job.minibatches)
  batch = jax.eval_shape(step.batch, step.row, step.data)
  spacing = job.sampling.num_steps_between_draws
  chain_steps = sum(work.num_missing for work in works) * spacing
  row_steps = sum(len(work.rows) * _num_draws(work) for work in works) * spacing
  if not job.sampling.share_batches:
    row_steps = chain_steps
  fresh = sum(len(work.rows) for work in works if not work.first)
  row_steps += fresh * job.sampling.num_baseline_batches
  count = multiply_adds.multiply_adds
  return Counts(
    len(
      {(row, name) for w in works for row in w.rows for name, _ in w.columns}
    ),
    chain_steps,
    row_steps,
    chain_steps * sum(leaf.size for leaf in jax.tree.leaves(batch)),
    chain_steps * count(step.column, *step.arguments)
    + row_steps * count(step.context, step.row, step.data),
  )


def _block_seconds(job, work, costs: Costs, size: float) -> float:
  """Seconds for a block whose columns are `size` times those measured."""
  draw_seconds = costs.draw_seconds * size
  num_draws = _num_draws(work)
  lengths = blocks.segment_lengths(job, num_draws, draw_seconds)
  return (
    costs.start_seconds
    + num_draws * draw_seconds
    + len(lengths) * costs.segment_seconds * size
  )


def _num_draws(work: missing.Work) -> int:
  """Draws of the longest chains of a block that are missing."""
  return int(work.stops.max()) - work.first


def _measure(job, work, params, store) -> Costs:
  """Runs a segment of a block for its time, in chunks that fit."""
  rows = blocks.make_rows(job, work, params)
  measure = lambda: blocks.footprint_of(job, work, rows)
  while True:
    chunk = job.chunks.size(work.family, len(work.columns), measure)
    try:
      return _measure_chunk(job, work, params, store, chunk)
    except jax.errors.JaxRuntimeError as error:
      job.chunks.shrink(error, work.family, len(work.columns), measure)


def _measure_chunk(job, work, params, store, chunk) -> Costs:
  clock = time.perf_counter
  began = clock()
  _start(job, work, params, chunk)
  cold, began = clock() - began, clock()
  block, states, baseline = _start(job, work, params, chunk)
  start_seconds = clock() - began
  began = clock()
  compiled = blocks.compiled(job, block, states)
  compile_seconds = max(0.0, cold - start_seconds) + clock() - began
  live = np.ones((len(work.rows), len(work.columns)), bool)
  states, first = blocks.take(job, block, states, live, 0, 1)
  blocks.write(store, work, live, 0, first, baseline)
  call_seconds, draw_seconds, segment = _time_draws(job, block, states, live)
  began = clock()
  blocks.write(store, work, live, 1, segment, baseline)
  write_seconds, began = clock() - began, clock()
  store.complete(work.rows, work.columns)
  return Costs(
    _peak_bytes(compiled),
    chunk,
    compile_seconds,
    start_seconds + clock() - began,
    call_seconds + write_seconds,
    draw_seconds,
  )


def _time_draws(
  job, block, states, live
) -> tuple[float, float, blocks.Segment]:
  """Seconds of a call, seconds of a draw in it, and the longest that was taken.

  Ever more draws are taken, all from draw 1 on: how many fit in the time is not
  known before, because one draw takes little more than the call.
  """
  most = max(1, min(job.max_draws, int(block.work.stops.max())) - 1)
  states, short = blocks.take(job, block, states, live, 1, 1)
  long = short
  while long.seconds < _TIMED_SECONDS / 2 and long.count < most:
    count = int(_TIMED_SECONDS / long.seconds * long.count)
    states, long = blocks.take(job, block, states, live, 1, min(count, most))
  # seconds = call + count * draw, of both.
  more = (long.seconds - short.seconds) / max(1, long.count - 1)
  draw = more if 0 < more < short.seconds else long.seconds / long.count
  return max(0.0, short.seconds - draw), draw, long


def _start(job, work, params, chunk):
  rows = blocks.make_rows(job, work, params)
  block = blocks.make_block(job, work, rows, chunk)
  return block, *blocks.start(block, None)


def _peak_bytes(compiled: Any) -> int:
  """Memory of a program on a device at its peak."""
  sizes = compiled.memory_analysis()
  inputs = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
  # Aliased outputs, the donated states, lie where inputs were.
  return inputs + sizes.output_size_in_bytes - sizes.alias_size_in_bytes


@contextlib.contextmanager
def _scratch(
  request: requests.Request, *, on_disk: bool
) -> Iterator[stores.Store]:
  """A store to be thrown away, like that of the run."""
  with tempfile.TemporaryDirectory() as directory:
    store: stores.Store = memory.MemoryStore()
    if on_disk:
      store = disk.open_store(pathlib.Path(directory) / 'store')
    store.begin(request.identity, request.extent, request.made_with)
    try:
      yield store
    finally:
      store.end()
