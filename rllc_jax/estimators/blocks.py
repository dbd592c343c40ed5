"""Blocks of rows and columns, in segments of draws: the host's side of a run.

All blocks of a family have one shape (padded), hence one compiled program. A
segment that does not fit in the memory of a device is taken again, in smaller
chunks, from where the last one ended.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import chunks as chunking
from rllc_jax.estimators import compilation
from rllc_jax.estimators import door
from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid
from rllc_jax.estimators import missing
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.results import store as stores

_SEGMENT_SECONDS = 10.0
_FIRST_SEGMENT = 4  # Draws, to learn how long one takes.
_TARGET_BUFFER = 1024  # Draws; few cells take more.


class Job(NamedTuple):
  """The part of a run that all of its blocks share.

  Attributes:
    rng_key: of the run.
    datasets: windows by name.
    minibatches: what they look into, on every device.
    sampling: settings of the chains.
    mesh: axes 'row' and 'column'.
    rows_per_block: rows of every call, padding included.
    segment: draws a call, or None for about ten seconds' worth.
    chunks: columns of a device in parallel.
    max_draws: most draws of a call that its programs have room for.
    observe: what is recorded at draws.
  """

  rng_key: types.Key
  datasets: Mapping[str, types.PyTree]
  minibatches: types.Minibatches
  sampling: settings.Sampling
  mesh: jax.sharding.Mesh
  rows_per_block: int
  segment: int | None
  chunks: chunking.Chunks
  max_draws: int
  observe: types.Observe | None

  @property
  def swept(self) -> programs.Settings:
    """Arguments of the compiled programs: settings that are swept."""
    return programs.make_settings(
      self.sampling.posterior, self.sampling.step_size
    )


class Taken(NamedTuple):
  """The progress of a block, in draws of chains.

  Attributes:
    draws: stored since the last time; 0 once all is compiled.
    missing: what is still to be taken, as far as is known.
  """

  draws: int
  missing: int


class Block(NamedTuple):
  """A block that is ready to run.

  Attributes:
    work: its coordinates.
    program: that of its family.
    rows: padded.
    columns: padded.
    data: the resident arrays.
  """

  work: missing.Work
  program: programs.BlockProgram
  rows: programs.Rows
  columns: programs.Columns
  data: types.PyTree


class Segment(NamedTuple):
  """Results of one call on the host, without padding.

  Attributes:
    count: draws.
    traces: {name: [K, N, count, ...]}.
    states: of the chains after them, leaves [K, N, ...].
    seconds: from the call to the last number.
  """

  count: int
  traces: dict[str, np.ndarray]
  states: list[np.ndarray]
  seconds: float


def make_job(
  rng_key: types.Key,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  sampling: settings.Sampling,
  layout: settings.Layout,
  *,
  mesh: jax.sharding.Mesh,
  rows_per_block: int,
  observe: types.Observe | None = None,
) -> Job:
  """A job with its data on every device; the arguments are its attributes."""
  data = compilation.replicated(minibatches.data, mesh)
  return Job(
    rng_key,
    datasets,
    minibatches._replace(data=data),
    sampling,
    mesh,
    rows_per_block,
    layout.segment,
    chunking.Chunks(mesh, layout.chunk_size),
    grid.buffer_length(_most_at_once(sampling)),
    observe,
  )


def _most_at_once(sampling: settings.Sampling) -> int:
  """Draws of a call: all, or, of a target's many, about a thousand."""
  most = sampling.num_recorded
  return most if sampling.target_error is None else min(most, _TARGET_BUFFER)


def run_block(
  job: Job, work: missing.Work, params: types.Params, store: stores.Store
) -> Iterator[Taken]:
  """Runs and stores a block, segment by segment.

  Args:
    job: what all blocks have in common.
    work: the block.
    params: its checkpoints, leaves [K, ...], padded.
    store: has the chains of a block that goes on, and gets what is new.

  Yields:
    What was taken since the last time.

  Raises:
    ValueError: if the memory of a device does not suffice; see `Chunks`.
  """
  rows = make_rows(job, work, params)
  first, wanted = work.first, work.stops
  saved = store.states(work.rows, work.columns, first) if first else None
  measure = lambda: footprint_of(job, work, rows)
  columns = num_columns(job, work)
  while (first < wanted).any():
    chunk = job.chunks.size(work.family, columns, measure)
    block = make_block(job, work, rows, chunk)
    try:
      states, baseline = start(block, saved)
      compiled(job, block, states)
      yield Taken(0, _missing(wanted, first))
      draw_seconds = None
      while (live := first < wanted).any():
        count = _next_length(job, wanted[live].min() - first, draw_seconds)
        states, segment = take(job, block, states, live, first, count)
        if not first:
          check_first_draw(job, work, segment)
        write(store, work, live, first, segment, baseline)
        first, saved = first + segment.count, segment.states
        draw_seconds = segment.seconds / segment.count
        wanted = missing.grown_stops(
          work, job.sampling, store.read, wanted, first
        )
        yield Taken(int(live.sum()) * count, _missing(wanted, first))
    except jax.errors.JaxRuntimeError as error:
      job.chunks.shrink(error, work.family, columns, measure)
  store.complete(work.rows, work.columns)


def _missing(wanted: np.ndarray, first: int) -> int:
  """Draws of all chains that are missing from a draw on."""
  return int(np.maximum(wanted - first, 0).sum())


def num_columns(job: Job, work: missing.Work) -> int:
  """Columns of every block of a family: those that are missing fill it up."""
  return len(work.family.names) * job.sampling.num_chains


def make_rows(
  job: Job, work: missing.Work, params: types.Params
) -> programs.Rows:
  """The rows of a block, padded to those of every call."""
  names = grid.padded(work.rows, job.rows_per_block)
  windows = [job.datasets[name] for _, name in names]
  return programs.make_rows(job.rng_key, params, names, windows)


def make_block(
  job: Job, work: missing.Work, rows: programs.Rows, chunk_size: int
) -> Block:
  """A block with its program, which is compiled when it is first called."""
  pairs = [(work.family.names.index(name), c) for name, c in work.columns]
  # As many as the family has, so that no other program is compiled.
  pairs += pairs[-1:] * (num_columns(job, work) - len(pairs))
  pairs = grid.padded(pairs, chunk_size * job.mesh.shape['column'])
  sampling = job.sampling
  program = programs.block_program(
    work.family.lens,
    work.family.loss,
    sampling.kernel,
    job.minibatches.draw,
    mesh=job.mesh,
    chunk_size=chunk_size,
    max_draws=job.max_draws,
    num_steps_between_draws=sampling.num_steps_between_draws,
    num_baseline_batches=sampling.num_baseline_batches,
    share_batches=sampling.share_batches,
    observe=job.observe,
    matmul_precision=sampling.matmul_precision,
  )
  columns = programs.make_columns(work.family, pairs)
  return Block(work, program, rows, columns, job.minibatches.data)


def start(
  block: Block, saved: list[np.ndarray] | None
) -> tuple[types.PyTree, np.ndarray]:
  """Chains at their checkpoints, or where they were, and the losses there.

  Args:
    block: ready to run.
    saved: leaves [K, N, ...] of chains that go on.

  Returns:
    (states, losses at the checkpoint [K, M]), the former padded.
  """
  states, baseline = block.program.init(block.rows, block.columns, block.data)
  if saved is not None:
    states = _like_states(saved, states)
  return states, np.asarray(baseline)[: len(block.work.rows)]


def segment_lengths(job: Job, num_draws: int, draw_seconds: float) -> list[int]:
  """Lengths of the segments that so many draws are taken in."""
  lengths = [_next_length(job, num_draws, None)]
  while num_draws := num_draws - lengths[-1]:
    lengths.append(_next_length(job, num_draws, draw_seconds))
  return lengths


def _next_length(job: Job, num_draws: int, draw_seconds: float | None) -> int:
  """Draws of the next segment out of so many; the first has no time yet."""
  length = job.segment or _FIRST_SEGMENT
  if draw_seconds and not job.segment:
    length = max(1, int(_SEGMENT_SECONDS / draw_seconds))
  return int(min(length, num_draws, job.max_draws))


def take(
  job: Job,
  block: Block,
  states: types.PyTree,
  live: np.ndarray,
  first: int,
  count: int,
) -> tuple[types.PyTree, Segment]:
  """Takes draws first, ..., first + count - 1; the states are used up.

  Args:
    job: what all blocks have in common.
    block: ready to run.
    states: of the chains.
    live: [K, N], those that shall move.
    first: the first draw.
    count: draws.
  """
  run = compiled(job, block, states)
  began = time.perf_counter()
  states, reports = run(*_arguments(job, block, states, live, first, count))
  K, N = len(block.work.rows), len(block.work.columns)
  traces = programs.traces_by_column(reports, N, count)
  without_padding = {name: trace[:K] for name, trace in traces.items()}
  leaves = [np.asarray(leaf)[:K, :N] for leaf in jax.tree.leaves(states)]
  seconds = time.perf_counter() - began
  return states, Segment(count, without_padding, leaves, seconds)


def compiled(job: Job, block: Block, states: types.PyTree) -> Any:
  """The compiled program of a block, a `jax.stages.Compiled`."""
  none = np.zeros((len(block.work.rows), len(block.work.columns)), bool)
  arguments = _arguments(job, block, states, none, 0, 0)
  return block.program.run.compiled(*arguments)


def _arguments(job, block, states, live, first, count):
  """The arguments of a block's program, on their devices.

  Rows and columns that only fill up are not live.
  """
  K, N = len(block.rows.batch_key), len(block.columns.chain)
  live = np.pad(live, ((0, K - len(live)), (0, N - live.shape[1])))
  span = jnp.int32(first), jnp.int32(count)
  return block.program.run.place(
    block.rows, block.columns, states, live, *span, job.swept, block.data
  )


def check_first_draw(job: Job, work: missing.Work, segment: Segment) -> None:
  """Raises unless chains start at the loss of their checkpoints."""
  door.check_first_draw(
    [name for name, _ in work.columns],
    segment.traces,
    job.sampling.posterior,
    job.sampling.matmul_precision,
  )


def write(
  store: stores.Store,
  work: missing.Work,
  live: np.ndarray,
  first: int,
  segment: Segment,
  baseline: np.ndarray,
) -> None:
  """Stores a segment, and the losses at the checkpoints with the first one.

  Rows of which the same columns are live go together.
  """
  for pattern in np.unique(live, axis=0):
    rows = np.flatnonzero((live == pattern).all(axis=1))
    columns = np.flatnonzero(pattern)
    if not len(columns):
      continue
    cells = np.ix_(rows, columns)
    store.write(
      [work.rows[k] for k in rows],
      [work.columns[n] for n in columns],
      first,
      {name: trace[cells] for name, trace in segment.traces.items()},
      [leaf[cells] for leaf in segment.states],
      baseline[rows] if not first else baseline[rows, :0],
    )


def footprint_of(
  job: Job, work: missing.Work, rows: programs.Rows
) -> footprint.Footprint:
  """Memory of a block on a device; it compiles."""
  return footprint.measured(
    work.family,
    rows,
    job.minibatches,
    job.sampling.kernel,
    num_columns(job, work),
    job.mesh,
    share_batches=job.sampling.share_batches,
    matmul_precision=job.sampling.matmul_precision,
  )


def _like_states(saved: list[np.ndarray], states: types.PyTree) -> types.PyTree:
  """Saved leaves [K, N, ...] in the structure and the padded size of states."""
  leaves, structure = jax.tree.flatten(states)

  def pad(leaf, like):
    missing = [(0, b - a) for a, b in zip(leaf.shape, like.shape, strict=True)]
    return np.pad(leaf, missing, mode='edge')

  return structure.unflatten(map(pad, saved, leaves))
