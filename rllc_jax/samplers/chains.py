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


def chunked_map(
  function: Callable, columns: types.PyTree, chunk_size: int
) -> types.PyTree:
  """Maps over columns, `chunk_size` at a time.

  Larger chunks trade memory for parallelism.

  Args:
    function: takes and returns pytrees without the leading axis.
    columns: leaves [N, ...].
    chunk_size: the number of columns in parallel; must divide N, because a
      remainder would compile the function a second time.

  Returns:
    Leaves [N, ...].

  Raises:
    ValueError: if `chunk_size` does not divide N.
  """
  num_columns = len(jax.tree.leaves(columns)[0])
  if num_columns % chunk_size:
    raise ValueError(
      f'chunk_size must divide the number of columns, {num_columns}, so that '
      f'the step is compiled once; got {chunk_size}.'
    )
  if chunk_size == 1:
    return jax.lax.map(function, columns)
  return jax.lax.map(function, columns, batch_size=chunk_size)


def run_chains(
  prepare: Prepare,
  advance: Advance,
  columns: types.PyTree,
  states: types.PyTree,
  first: types.Array,
  count: types.Array,
  *,
  max_draws: int,
  num_steps_between_draws: int = 1,
  num_steps_before: int = 0,
  chunk_size: int = 1,
) -> tuple[types.PyTree, types.PyTree]:
  """Takes draws first, first + 1, ..., first + count - 1 of every column.

  The number is traced, so that the same compiled code, and hence the same
  rounding, serves every division of a run into segments.

  Args:
    prepare: `prepare(step) -> (shared, report)`, once a step for all columns.
    advance: `advance(column, state, step, shared) -> (state, report)`.
    columns: leaves [N, ...], constant data of each column.
    states: leaves [N, ...].
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
    from `count` on are zero.
  """

  def take_step(step, states):
    shared, shared_report = prepare(step)
    states, reports = chunked_map(
      lambda pair: advance(pair[0], pair[1], step, shared),
      (columns, states),
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
  return jax.lax.fori_loop(start, count, body, (states, buffers))
