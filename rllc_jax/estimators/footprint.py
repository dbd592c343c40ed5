"""Memory of a step of a block on a device."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import compilation
from rllc_jax.estimators import minibatch_noise


class Step(NamedTuple):
  """The two halves of a step at the shapes of a row and a column.

  Attributes:
    row: a row of `program.Rows`, as shapes.
    data: the resident arrays, as shapes.
    batch: `batch(row, data)`, a minibatch.
    context: `context(row, data) -> (context, center_loss)`, once a row.
    column: `column(position, context, index) -> (loss, gradient)`, once a
      refinement and chain.
    arguments: of `column`, as shapes.
  """

  row: types.PyTree
  data: types.PyTree
  batch: Any
  context: Any
  column: Any
  arguments: tuple[types.PyTree, ...]


def step_of(
  refinements: types.Refinements,
  rows: types.PyTree,
  minibatches: types.Minibatches,
) -> Step:
  """The functions of a step of a family, and their arguments.

  Args:
    refinements: the family.
    rows: `program.Rows`, leaves [K, ...]; the first is taken.
    minibatches: what they draw from.
  """
  first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
  row = jax.eval_shape(first, rows)
  data = jax.eval_shape(lambda data: data, minibatches.data)
  index = jax.eval_shape(first, refinements.indices)

  def batch(row, data):
    return minibatches.draw(row.batch_key, jnp.int32(0), data, row.window)

  def context(row, data):
    return refinements.loss.context(row.params, batch(row, data))

  column = jax.value_and_grad(refinements.loss.loss)
  position = jax.eval_shape(refinements.lens.extract, row.params, index)
  shared, _ = jax.eval_shape(context, row, data)
  return Step(row, data, batch, context, column, (position, shared, index))


class Footprint(NamedTuple):
  """Memory of a device, in bytes.

  Attributes:
    shared: what there is once: data, weights, chains, the context of a row.
    column: what each column that runs in parallel adds.
  """

  shared: int
  column: int


def footprint(
  step: Step,
  sampler: types.Sampler,
  *,
  num_rows: int,
  num_columns: int,
  share_batches: bool,
  matmul_precision: str,
) -> Footprint:
  """Measures what a block takes on a device; it compiles, so it takes seconds.

  Args:
    step: of the family.
    sampler: the kernel, whose states are kept for every column.
    num_rows: rows on the device.
    num_columns: columns on the device.
    share_batches: whether columns share the context, or have one each.
    matmul_precision: see `compilation.check_matmul_precision`.
  """
  position, context, _ = step.arguments
  shared = num_bytes(step.data) + num_rows * num_bytes(step.row)
  start = functools.partial(minibatch_noise.start, sampler)
  state = jax.eval_shape(start, position)
  shared += num_rows * num_columns * num_bytes(state)
  column = temporary_bytes(step.column, step.arguments, matmul_precision)
  column += num_bytes(position)  # Its gradient.
  if share_batches:
    return Footprint(shared + num_bytes(context), column)
  context_bytes = temporary_bytes(
    step.context, (step.row, step.data), matmul_precision
  )
  return Footprint(shared, num_bytes(context) + max(column, context_bytes))


def temporary_bytes(
  function: Any, args: tuple[types.PyTree, ...], matmul_precision: str
) -> int:
  """Memory that a compiled call needs besides its arguments and results."""
  with compilation.matmul_precision_scope(matmul_precision):
    compiled = jax.jit(function).lower(*args).compile()
  analysis = compiled.memory_analysis()
  return analysis.temp_size_in_bytes if analysis else 0


def num_bytes(tree: types.PyTree) -> int:
  """Bytes of all arrays of a tree, or of their shapes."""

  def of_leaf(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
      return leaf.size * 8  # Threefry: two words of 32 bits.
    return leaf.size * np.dtype(leaf.dtype).itemsize

  return sum(map(of_leaf, jax.tree.leaves(tree)))


def measured(
  refinements: types.Refinements,
  rows: types.PyTree,
  minibatches: types.Minibatches,
  sampler: types.Sampler,
  num_columns: int,
  mesh: jax.sharding.Mesh,
  *,
  share_batches: bool,
  matmul_precision: str,
) -> Footprint:
  """The footprint of a block that is dealt to a mesh.

  Args:
    refinements: the family.
    rows: `program.Rows` of the block.
    minibatches: what they draw from.
    sampler: the kernel.
    num_columns: N, over all devices of a mesh column.
    mesh: axes 'row' and 'column'.
    share_batches: whether columns share the context, or have one each.
    matmul_precision: see `compilation.check_matmul_precision`.
  """
  return footprint(
    step_of(refinements, rows, minibatches),
    sampler,
    num_rows=len(rows.batch_key) // mesh.shape['row'],
    num_columns=-(-num_columns // mesh.shape['column']),
    share_batches=share_batches,
    matmul_precision=matmul_precision,
  )
