r"""What the rLLC is compared with: other measures of how much a part is used.

At a checkpoint and in the coordinates u that move, of the plain loss:

  hessian_trace  tr of the Hessian of the mean loss, by Hutchinson's estimate
                 E[z^T H z] with signs z
  fisher_trace   E over sequences of the squared norm of a sequence's gradient:
                 the trace of the empirical Fisher matrix
  weight_norm    the norm of u

Where :math:`\gamma \gg n\beta h` for every curvature h the rLLC itself is near
:math:`n\beta\,\mathrm{tr}(H) / (2\gamma)`.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import trees
from rllc_jax import types


class Complexity(NamedTuple):
  """Measures of R refinements, each [R], and errors over minibatches.

  Attributes:
    hessian_trace: in nats / weight^2.
    hessian_error: its standard error.
    fisher_trace: in nats^2 / weight^2.
    fisher_error: its standard error.
    weight_norm: in weights.
  """

  hessian_trace: np.ndarray
  hessian_error: np.ndarray
  fisher_trace: np.ndarray
  fisher_error: np.ndarray
  weight_norm: np.ndarray


def complexity(
  rng_key: types.Key,
  refinements: types.Refinements,
  loss_fn: types.LossFn,
  params: types.Params,
  minibatches: types.Minibatches,
  window: types.PyTree,
  *,
  num_batches: int = 16,
) -> Complexity:
  """Measures every refinement of a family on the same minibatches.

  Args:
    rng_key: draws minibatches and signs. The key is consumed.
    refinements: R of one family, each free in coordinates of the weights; their
      fast losses are not used, since those are differentiable once.
    loss_fn: the plain loss; it must take a minibatch of one sequence.
    params: the checkpoint.
    minibatches: data, and how they are drawn.
    window: the data set.
    num_batches: minibatches, with one vector of signs each; 2 or more.

  Raises:
    ValueError: if errors cannot be told from so few minibatches.
  """
  if num_batches < 2:
    raise ValueError(
      'num_batches must be at least 2, to tell how far they are apart; got '
      f'{num_batches}.'
    )
  measure = _measure(refinements.lens, loss_fn, minibatches.draw, num_batches)
  params = jax.tree.map(jnp.asarray, params)
  found = measure(
    rng_key, refinements.indices, params, minibatches.data, window
  )
  hessian, fisher, norms = jax.device_get(found)  # [R, num_batches] and [R].
  means = [np.mean(x, axis=1) for x in (hessian, fisher)]
  errors = [
    np.std(x, axis=1, ddof=1) / np.sqrt(num_batches) for x in (hessian, fisher)
  ]
  return Complexity(means[0], errors[0], means[1], errors[1], norms)


def read_complexity(
  rng_key: types.Key,
  families: Sequence[types.Refinements],
  loss_fn: types.LossFn,
  trajectory: types.Trajectory,
  minibatches: types.Minibatches,
  window: types.PyTree,
  *,
  num_batches: int = 4,
) -> xr.Dataset:
  """All measures at every checkpoint, on the same minibatches.

  Args:
    rng_key: as of `complexity`, whose other arguments these are, too.
    families: refinements of the model.
    loss_fn: the plain loss.
    trajectory: the checkpoints.
    minibatches: data, and how they are drawn.
    window: the data set.
    num_batches: minibatches a checkpoint.

  Returns:
    The fields of `Complexity` over (checkpoint, refinement).
  """
  dims = 'checkpoint', 'refinement'
  parts = []
  for family in families:
    measured = [
      complexity(
        rng_key,
        family,
        loss_fn,
        jax.tree.map(lambda leaf: leaf[0], trajectory.load([step])),
        minibatches,
        window,
        num_batches=num_batches,
      )
      for step in trajectory.steps
    ]
    columns = zip(Complexity._fields, zip(*measured, strict=True), strict=True)
    values = {name: (dims, np.stack(column)) for name, column in columns}
    labels = {
      'checkpoint': list(trajectory.steps),
      'refinement': list(family.names),
    }
    parts.append(xr.Dataset(values, labels))
  return xr.concat(parts, 'refinement')


@functools.lru_cache(maxsize=64)
def _measure(lens, loss_fn, draw, num_batches):
  """Compiled once a family, for all of its indices in one pass.

  A lens frees coordinates, so the gradient in u is that part of the gradient in
  all weights. Signs go to all indices at once: what one adds to another's
  z^T H z has mean 0, since their signs are independent.
  """
  extract = jax.vmap(lens.extract, (None, 0))

  def measure(rng_key, indices, params, data, window):
    positions = extract(params, indices)

    def of_batch(i):
      batch_key, sign_key = jax.random.split(jax.random.fold_in(rng_key, i))
      batch = draw(batch_key, i, data, window)
      signs = _signs_like(sign_key, positions)
      image = jax.jvp(
        lambda p: jax.grad(loss_fn)(p, batch),
        (params,),
        (_inserted(lens, signs, params, indices),),
      )[1]
      one_by_one = jax.tree.map(lambda leaf: leaf[:, None], batch)
      squares = jax.lax.map(
        lambda row: jax.vmap(_square)(
          extract(jax.grad(loss_fn)(params, row), indices)
        ),
        one_by_one,
      )
      hessian = jax.vmap(trees.dot)(signs, extract(image, indices))
      return hessian, jnp.mean(squares, axis=0)

    hessian, fisher = jax.lax.map(of_batch, jnp.arange(num_batches))
    return hessian.T, fisher.T, jax.vmap(trees.norm)(positions)

  return jax.jit(measure)


def _inserted(lens, positions, params, indices):
  """Positions [R, ...] put into zeros and added up, like `params`."""
  zeros = jax.tree.map(jnp.zeros_like, params)

  def add(total, one):
    position, index = one
    put = lens.insert(position, zeros, index)
    return jax.tree.map(jnp.add, total, put), None

  return jax.lax.scan(add, zeros, (positions, indices))[0]


def _square(tree):
  return trees.dot(tree, tree)


def _signs_like(rng_key, tree):
  """1 or -1 in every place."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(rng_key, len(leaves))
  return structure.unflatten(
    [
      jax.random.rademacher(key, leaf.shape, leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=True)
    ]
  )
