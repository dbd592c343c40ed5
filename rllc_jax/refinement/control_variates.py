r"""Control variates at the checkpoint: the linear part of a paired difference.

On a minibatch B the loss near the checkpoint is

.. math::
  \ell_B(u) - \ell_B(u^*) = g_B \cdot (u - u^*) + O(\lVert u - u^*\rVert^2)

and most of the noise of a paired difference is that of its linear part. With g
the gradient over the *whole* data set, :math:`(g_B - g) \cdot (u - u^*)` has
expectation 0, because the minibatch is independent of where the chain is, so
subtracting it changes no expectation. g is computed once per checkpoint, over
all sequences of the window, so it adds no error of its own; :math:`g_B` once
per minibatch, for all refinements and chains together.

Subtracted from the recorded loss alone, the chains are those of plain SGLD, bit
for bit in exact arithmetic. Subtracted from the loss that drives them too, the
minibatch noise of the drift falls as well (Baker, Fearnhead, Fox and Nemeth,
"Control variates for stochastic gradient MCMC", Statistics and Computing 2019):
another law at finite step size, so such numbers do not belong in one table with
plain ones.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax import types


class Anchored(NamedTuple):
  """A checkpoint with the full gradient there; a run takes it for weights.

  Attributes:
    weights: the checkpoint, w*.
    gradient: g, of the loss over the whole data set, like the weights.
  """

  weights: types.Params
  gradient: types.Params


def control_variates(
  family: types.Refinements, loss_fn: types.LossFn, *, in_drift: bool = False
) -> types.Refinements:
  """Removes the linear noise from paired differences of a family.

  Its checkpoints are `Anchored`, see `anchored`. The loss at the checkpoint is
  unchanged; minibatches must be shared, or the full gradient of each is
  computed for every chain.

  Args:
    family: of refinements of the weights.
    loss_fn: the plain loss that the family refines.
    in_drift: True to drive the chains by the corrected loss, too.
  """
  lens = _of_weights(family.lens)
  loss = _corrected(family.lens, family.loss, loss_fn, in_drift)
  return family._replace(lens=lens, loss=loss)


# Cached, so that equal lenses are one object and nothing compiles twice.
@functools.lru_cache(maxsize=64)
def _of_weights(lens: types.Lens) -> types.Lens:
  """Applies a lens to the weights of an `Anchored`."""
  return types.Lens(
    lambda params, index: lens.extract(params.weights, index),
    lambda position, params, index: params._replace(
      weights=lens.insert(position, params.weights, index)
    ),
  )


@functools.lru_cache(maxsize=64)
def _corrected(
  lens: types.Lens,
  plain: types.RefinedLoss,
  loss_fn: types.LossFn,
  in_drift: bool,
) -> types.RefinedLoss:
  def context(params, batch):
    inner, center_loss = plain.context(params.weights, batch)
    # Of all weights: one gradient serves all refinements and chains.
    of_batch = jax.grad(loss_fn)(params.weights, batch)
    noise = trees.subtract(of_batch, params.gradient)
    return (inner, noise, params.weights), center_loss

  def loss(position, context, index):
    inner, noise, weights = context
    displacement = trees.subtract(position, lens.extract(weights, index))
    linear = trees.dot(lens.extract(noise, index), displacement)
    # Without its gradient, chains move as plain SGLD does.
    linear = linear if in_drift else jax.lax.stop_gradient(linear)
    return plain.loss(position, inner, index) - linear

  def driven_by(position, context, index):
    return plain.loss(position, context[0], index)

  check = plain.check
  return types.RefinedLoss(
    context,
    loss,
    None if in_drift else driven_by,
    check and (lambda params, data: check(params.weights, data)),
  )


def anchored(
  trajectory: types.Trajectory,
  loss_fn: types.LossFn,
  data: types.PyTree,
  window: types.Window,
  *,
  batch_size: int,
) -> types.Trajectory:
  """Adds full gradients to checkpoints, each computed once and cached.

  Args:
    trajectory: of plain weights.
    loss_fn: the plain loss, a mean over sequences.
    data: resident arrays, leaves [N, ...].
    window: the data set. The gradient belongs to it, so a run has only one.
    batch_size: sequences of a pass; changes the cost, not the gradient.
  """
  cache: dict[int, Anchored] = {}

  def load_one(step: int) -> Anchored:
    if step not in cache:
      weights = jax.tree.map(lambda leaf: leaf[0], trajectory.load([step]))
      # A pass over all data: for a corpus dearer than the estimates themselves.
      gradient = full_gradient(
        loss_fn, weights, data, window, batch_size=batch_size
      )
      cache[step] = Anchored(weights, jax.device_get(gradient))
    return cache[step]

  def load(steps: Sequence[int]) -> types.Params:
    return trees.stack([load_one(int(step)) for step in steps])

  return types.Trajectory(trajectory.steps, load)


def full_gradient(
  loss_fn: types.LossFn,
  params: types.Params,
  data: types.PyTree,
  window: types.Window,
  *,
  batch_size: int,
) -> types.Params:
  """The gradient of the mean loss over all sequences of a window.

  Args:
    loss_fn: `loss_fn(params, batch) -> []`, a mean over its sequences.
    params: leaves in any shape.
    data: leaves [N, ...].
    window: which sequences.
    batch_size: sequences of a pass.

  Returns:
    Like the params.

  Examples:
    >>> square = lambda w, x: jnp.mean((w - x) ** 2)
    >>> x = jnp.arange(5.0)
    >>> g = full_gradient(
    ...     square, jnp.float32(1), x, types.Window(1, 4), batch_size=3)
    >>> print(f'{g:.3f}')  # 2 (1 - mean of 1, 2, 3, 4)
    -3.000
  """
  start, length = int(window.start), int(window.length)
  num_batches, remainder = divmod(length, batch_size)
  total = _gradient_sum(
    loss_fn, batch_size, params, data, start, np.int32(num_batches)
  )
  if remainder:  # A pass of its own, because batch sizes are static.
    last = start + num_batches * batch_size
    rest_sum = _gradient_sum(
      loss_fn, remainder, params, data, last, np.int32(1)
    )
    total = jax.tree.map(jnp.add, total, rest_sum)
  return jax.tree.map(lambda leaf: leaf / length, total)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_sum(loss_fn, size, params, data, start, num_batches):
  """Sums gradients over `num_batches` batches of `size` from `start` on."""

  def add(i, total):
    rows = start + i * size + jnp.arange(size)
    batch = jax.tree.map(lambda leaf: leaf[rows], data)
    gradient = jax.grad(loss_fn)(params, batch)
    return jax.tree.map(lambda t, g: t + size * g, total, gradient)

  zeros = jax.tree.map(jnp.zeros_like, params)
  return jax.lax.fori_loop(0, num_batches, add, zeros)
