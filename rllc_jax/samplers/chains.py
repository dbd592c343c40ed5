"""Many chains at once: a loop over steps around a map over columns.

The loop knows no model, no lens and no posterior. `prepare` computes what all
columns share at a step, once; `advance` moves one column.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rllc_jax import types

# prepare(step) -> (shared, report): once a step, for all columns.
Prepare = Callable[[types.Array], tuple[types.PyTree, types.PyTree]]
# advance(column, state, step, shared) -> (state, report of the column).
Advance = Callable[
  [types.PyTree, types.PyTree, types.Array, types.PyTree],
  tuple[types.PyTree, types.PyTree],
]


def advance_chunks(
  function: Callable, states: types.PyTree, live: types.Array, size: int
) -> tuple[types.PyTree, types.PyTree]:
  """Moves the live columns, in as few chunks as hold them.

  Larger chunks trade memory for parallelism.

  Args:
    function: `function(i, state) -> (state, report)`, of column i.
    states: leaves [N, ...].
    live: [N], bool, traced: those to move. Others fill the last chunk up.
    size: columns of a chunk, in parallel; must divide N, because a remainder
      would compile the function a second time.

  Returns:
    (states [N, ...], reports [N, ...]); outside the chunks states are as they
    were and reports are zero.

  Raises:
    ValueError: if `size` does not divide N.
  """
  num_columns = len(jax.tree.leaves(states)[0])
  if num_columns % size:
    raise ValueError(
      f'chunk_size must divide the number of columns, {num_columns}, so that '
      f'the step is compiled once; got {size}.'
    )
  # One column alone is not batched: its products are then those of one chain.
  chunked = jax.vmap(function) if size > 1 else function
  live_first = jnp.argsort(~live, stable=True)
  chunks = live_first.reshape(-1, size) if size > 1 else live_first

  def move(i, carry):
    at = chunks[i]
    chunk = jax.tree.map(lambda leaf: leaf[at], carry)
    # What a branch computes is compiled on its own: the number of columns
    # changes no rounding.
    moved = jax.lax.cond(
      live[at].any(), lambda x: chunked(at, x[0]), lambda x: x, chunk
    )
    put = lambda leaf, value: leaf.at[at].set(value, unique_indices=True)
    return jax.tree.map(put, carry, moved)

  first = jax.tree.map(lambda leaf: leaf[0], states)
  report = jax.eval_shape(function, jnp.int32(0), first)[1]
  zeros = lambda leaf: jnp.zeros((num_columns, *leaf.shape), leaf.dtype)
  reports = jax.tree.map(zeros, report)
  return jax.lax.fori_loop(0, num_columns // size, move, (states, reports))


def run_chains(
  prepare: Prepare,
  advance: Advance,
  columns: types.PyTree,
  states: types.PyTree,
  live: types.Array,
  first: types.Array,
  count: types.Array,
  *,
  max_draws: int,
  num_steps_between_draws: int = 1,
  num_steps_before: int = 0,
  chunk_size: int = 1,
) -> tuple[types.PyTree, types.PyTree]:
  """Takes draws first, first + 1, ..., first + count - 1 of the live columns.

  The number and the columns are traced, so that the same compiled code, and
  hence the same rounding, serves every division of a run into segments and
  goes on when some columns have draws enough.

  Args:
    prepare: `prepare(step) -> (shared, report)`, once a step for all columns.
    advance: `advance(column, state, step, shared) -> (state, report)`.
    columns: leaves [N, ...], constant data of each column.
    states: leaves [N, ...].
    live: [N], bool: those that move. Chunks without any take no time; without
      any at all nothing is prepared either.
    first: [], the first draw. Draw i is the step i * num_steps_between_draws
      counted from the checkpoint; the steps up to the next draw are taken and
      not recorded.
    count: [], the number of draws, at most `max_draws`.
    max_draws: D, the size of the reports. Static.
    num_steps_between_draws: steps from one recorded step to the next.
    num_steps_before: steps before draw 0, if that is the first, which are not
      recorded; their numbers are -num_steps_before, ..., -1.
    chunk_size: columns that run in parallel.

  Returns:
    (states, (shared reports [D, ...], column reports [D, N, ...])); reports
    from `count` on are zero. Neither reports nor states of columns that are
    not live mean anything: some of them fill the last chunk up.
  """

  def take_step(step, states):
    shared, shared_report = prepare(step)
    column = lambda i: jax.tree.map(lambda leaf: leaf[i], columns)
    states, reports = advance_chunks(
      lambda i, state: advance(column(i), state, step, shared),
      states,
      live,
      chunk_size,
    )
    return states, (shared_report, reports)

  def take_draw(draw, states):
    step = jnp.where(draw < 0, draw, draw * num_steps_between_draws)
    states, report = take_step(step, states)
    if num_steps_between_draws > 1:  # Else an empty loop would be compiled.
      skip = lambda step, states: take_step(step, states)[0]
      stop = jnp.where(draw < 0, draw + 1, step + num_steps_between_draws)
      states = jax.lax.fori_loop(step + 1, stop, skip, states)
    return states, report

  def body(i, carry):
    states, buffers = carry
    states, report = take_draw(first + i, states)
    # What a step before draw 0 reports is overwritten by that of draw 0.
    put = lambda buffer, value: buffer.at[jnp.maximum(i, 0)].set(value)
    return states, jax.tree.map(put, buffers, report)

  # Shapes alone: the buffers have their full, static size from the start.
  report = jax.eval_shape(take_draw, first, states)[1]
  buffers = jax.tree.map(
    lambda leaf: jnp.zeros((max_draws, *leaf.shape), leaf.dtype), report
  )
  start = jnp.where(first == 0, -num_steps_before, 0)
  stop = jnp.where(live.any(), count, start)
  return jax.lax.fori_loop(start, stop, body, (states, buffers))
