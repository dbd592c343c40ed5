"""Blocks of rows and columns, in segments of draws: the host's side of a run.

All blocks of a family have one shape (padded), hence one compiled program,
which is compiled ahead of time and is the only thing called.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import layout
from rllc_jax.estimators import program as programs
from rllc_jax.results import store as stores

_SEGMENT_SECONDS = 10.0
_FIRST_SEGMENT = 4  # Draws, to learn how long one takes.


class Work(NamedTuple):
  """A block by its coordinates: cells that miss the draws from `first` on."""

  family: types.Refinements
  rows: list[stores.Row]
  columns: list[stores.Column]
  first: int


# run_block(work, params [K, ...], store): stores a segment, yields its draws.
RunBlock = Callable[[Work, types.Params, stores.Store], Iterator[int]]


def plan(
  store: stores.Store,
  refinements: Sequence[types.Refinements],
  extent: stores.Extent,
  rows_per_block: int,
) -> list[Work]:
  """What a store lacks of an extent, family by family."""
  rows = [(k, s) for k in extent.checkpoints for s in extent.datasets]
  works = []
  for family in refinements:
    chains = range(extent.num_chains)
    columns = [(name, chain) for name in family.names for chain in chains]
    recorded = store.recorded(rows, columns)
    for block in layout.plan_blocks(recorded, extent.num_draws, rows_per_block):
      block_rows = [rows[k] for k in block.rows]
      block_columns = [columns[n] for n in block.columns]
      works.append(Work(family, block_rows, block_columns, block.first))
  return works


def block_runner(
  rng_key: types.Key,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  settings: programs.Settings,
  sampler: types.Sampler,
  *,
  mesh: jax.sharding.Mesh,
  rows_per_block: int,
  num_draws: int,
  segment: int | None,
  chunk_size: int | None,
  **options,
) -> RunBlock:
  """Returns the function that runs blocks of a run up to `num_draws`.

  Args:
    rng_key: of the run.
    datasets: windows by name.
    minibatches: what they look into.
    settings: what is swept.
    sampler: the kernel.
    mesh: axes 'row' and 'column'.
    rows_per_block: rows of every call, padding included.
    num_draws: how many draws every cell shall have.
    segment: draws a call, or None for about ten seconds' worth.
    chunk_size: columns of a device in parallel, or None.
    **options: of `program.block_program`.
  """
  compiled, chosen = {}, {}
  data = minibatches.data

  def prepare(work, params):
    row_names = layout.padded(work.rows, rows_per_block)
    windows = [datasets[name] for _, name in row_names]
    rows = programs.make_rows(rng_key, params, row_names, windows)
    chunk = chunk_size or chosen.get((work.family.loss, len(work.columns)))
    if chunk is None:  # It compiles to measure, so once a family.
      chunk = programs.choose_chunk_size(
        work.family, rows, minibatches, len(work.columns), mesh
      )
      chosen[work.family.loss, len(work.columns)] = chunk
    pairs = [(work.family.names.index(name), c) for name, c in work.columns]
    pairs = layout.padded(pairs, chunk * mesh.shape['column'])
    program = programs.block_program(
      work.family.lens,
      work.family.loss,
      sampler,
      minibatches.draw,
      mesh=mesh,
      chunk_size=chunk,
      max_draws=num_draws,
      **options,
    )
    return program, rows, programs.make_columns(work.family, pairs)

  def start(program, rows, columns, work, store):
    states, baseline = program.init(rows, columns, data)
    if work.first:
      saved = store.states(work.rows, work.columns)
      return _like_states(saved, states)
    baseline = np.asarray(baseline)[: len(work.rows)]
    store.write_baseline(work.rows, work.family.names, baseline)
    return states

  def run_block(work, params, store):
    program, rows, columns = prepare(work, params)
    states = start(program, rows, columns, work, store)
    first, count = work.first, segment or _FIRST_SEGMENT
    while first < num_draws:
      count = min(count, num_draws - first)
      span = jnp.int32(first), jnp.int32(count)
      args = program.place(rows, columns, states, *span, settings, data)
      key = (program.run, len(columns.chain))
      if key not in compiled:
        compiled[key] = program.run.lower(*args).compile()
      began = time.perf_counter()
      states, reports = compiled[key](*args)
      traces = programs.traces_by_column(reports, len(work.columns), count)
      seconds = (time.perf_counter() - began) / count
      _write(store, work, first, traces, states)
      first += count
      yield count
      count = segment or max(1, int(_SEGMENT_SECONDS / seconds))

  return run_block


def _write(store, work, first, traces, states):
  """Stores a segment without its padding."""
  K, N = len(work.rows), len(work.columns)
  leaves = [np.asarray(leaf)[:K, :N] for leaf in jax.tree.leaves(states)]
  kept = {name: trace[:K] for name, trace in traces.items()}
  store.write(work.rows, work.columns, first, kept, leaves)


def _like_states(saved: list[np.ndarray], states: types.PyTree) -> types.PyTree:
  """Saved leaves [K, N, ...] in the structure and the padded size of states."""
  leaves, structure = jax.tree.flatten(states)

  def pad(leaf, like):
    missing = [(0, b - a) for a, b in zip(leaf.shape, like.shape, strict=True)]
    return np.pad(leaf, missing, mode='edge')

  return structure.unflatten(map(pad, saved, leaves))
