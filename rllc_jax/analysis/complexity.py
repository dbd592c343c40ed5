r"""Other measures of complexity, to compare the rLLC with.

At a checkpoint and in the coordinates u that move, of the plain loss:

  hessian_trace  tr of the Hessian of the mean loss, by Hutchinson's estimate
                 E[z^T H z] with signs z
  fisher_trace   E over sequences of the squared norm of a sequence's gradient:
                 the trace of the empirical Fisher matrix
  fisher_token_trace
                 E over tokens of the squared norm of one token's gradient, by
                 E[|sum_t s_t g_t|^2] with signs s
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

from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import every_checkpoint


class Complexity(NamedTuple):
  """Measures of R refinements, each [R], and errors over minibatches.

  Attributes:
    hessian_trace: in nats / weight^2.
    hessian_error: its standard error.
    fisher_trace: in nats^2 / weight^2.
    fisher_error: its standard error.
    fisher_token_trace: in nats^2 / weight^2; NaN of data that are no tokens.
    fisher_token_error: its standard error.
    weight_norm: in weights.
  """

  hessian_trace: np.ndarray
  hessian_error: np.ndarray
  fisher_trace: np.ndarray
  fisher_error: np.ndarray
  fisher_token_trace: np.ndarray
  fisher_token_error: np.ndarray
  weight_norm: np.ndarray


def complexity(
  rng_key: types.Key,
  families: Sequence[types.Refinements],
  loss_fn: types.LossFn,
  params: types.Params,
  minibatches: types.Minibatches,
  window: types.PyTree,
  *,
  num_batches: int = 16,
  max_batches: int = 0,
  target: float = 0.05,
) -> Complexity:
  """Measures every refinement on the same minibatches.

  Minibatches are drawn until no standard error of a trace exceeds a share of
  it, for any refinement, or as many as there may be are used up.

  Args:
    rng_key: draws minibatches and signs. The key is consumed.
    families: R refinements in all, each free in coordinates of the weights;
      their fast losses are not used, because these have no second derivative.
    loss_fn: the plain loss; it must take a minibatch of one sequence, and of
      several be the mean over them. Of tokens it must take
      `types.WeightedTokens`, too.
    params: the checkpoint.
    minibatches: data, and how they are drawn.
    window: the data set.
    num_batches: minibatches drawn at once, with one vector of signs each; 2 or
      more.
    max_batches: minibatches at most, rounded up to a multiple of num_batches;
      by default no more than these.
    target: standard error of a trace over the trace, at which no more are
      drawn.

  Returns:
    Refinements in the order of the families and of their names.

  Raises:
    ValueError: if errors cannot be told from so few minibatches.
  """
  if num_batches < 2:
    raise ValueError(
      'num_batches must be at least 2, to tell how far they are apart; got '
      f'{num_batches}.'
    )
  lenses = tuple(family.lens for family in families)
  measure = _measure(lenses, loss_fn, minibatches.draw, num_batches)
  params = jax.tree.map(jnp.asarray, params)
  indices = tuple(family.indices for family in families)
  samples, norms = np.zeros(0), np.zeros(0)
  for start in range(0, max(num_batches, max_batches), num_batches):
    # `start` is traced: one program for all groups of minibatches.
    group, norms = jax.device_get(
      measure(rng_key, start, indices, params, minibatches.data, window)
    )  # [3, R, num_batches] and [R].
    samples = np.concatenate([samples, group], axis=2) if start else group
    means, errors = _means_and_errors(samples)
    # NaN, of a trace that is not measured, is no reason to go on.
    if not (errors > target * np.abs(means)).any():
      break
  means, errors = _means_and_errors(samples)
  hessian, fisher, of_token = zip(means, errors, strict=True)
  return Complexity(*hessian, *fisher, *of_token, norms)


def _means_and_errors(samples):
  """Over minibatches, the last axis; these are independent."""
  count = samples.shape[-1]
  return samples.mean(-1), samples.std(-1, ddof=1) / np.sqrt(count)


def read_complexity(
  rng_key: types.Key,
  families: Sequence[types.Refinements],
  loss_fn: types.LossFn,
  trajectory: types.Trajectory,
  minibatches: types.Minibatches,
  window: types.PyTree,
  *,
  num_batches: int = 4,
  max_batches: int = 0,
) -> xr.Dataset:
  """All measures at every checkpoint, on the same minibatches.

  Args:
    rng_key: as of `complexity`, whose other arguments these are, too.
    families: refinements of the model.
    loss_fn: the plain loss.
    trajectory: the checkpoints.
    minibatches: data, and how they are drawn.
    window: the data set.
    num_batches: minibatches drawn at once.
    max_batches: minibatches a checkpoint, at most.

  Returns:
    The fields of `Complexity` over (checkpoint, refinement).
  """
  measured = every_checkpoint.map_checkpoints(
    lambda params: complexity(
      rng_key,
      families,
      loss_fn,
      params,
      minibatches,
      window,
      num_batches=num_batches,
      max_batches=max_batches,
    ),
    trajectory,
  )
  columns = zip(Complexity._fields, zip(*measured, strict=True), strict=True)
  dims = 'checkpoint', 'refinement'
  return xr.Dataset(
    {name: (dims, np.stack(column)) for name, column in columns},
    {
      'checkpoint': list(trajectory.steps),
      'refinement': [name for family in families for name in family.names],
    },
  )


# Cached: a new function at each checkpoint would compile anew.
@functools.lru_cache(maxsize=64)
def _measure(lenses, loss_fn, draw, num_batches):
  """Compiles one pass over all families and all of their indices.

  A lens frees coordinates, so the gradient in u is that part of the gradient in
  all weights. Signs go to all refinements at once: one's contribution to
  another's z^T H z has mean 0, since their signs are independent.
  """

  def extract(tree, indices):
    """A tree per family, with a leading axis of refinements."""
    pairs = zip(lenses, indices, strict=True)
    return tuple(
      jax.vmap(lens.extract, (None, 0))(tree, i) for lens, i in pairs
    )

  def of_all(function, *trees_of_families):
    """Applies a function of one refinement's trees to all, [R]."""
    instances = zip(*trees_of_families, strict=True)
    return jnp.concatenate([jax.vmap(function)(*each) for each in instances])

  def measure(rng_key, start, indices, params, data, window):
    positions = extract(params, indices)

    def of_batch(i):
      batch_key, sign_key = jax.random.split(jax.random.fold_in(rng_key, i))
      signs = _signs_like(sign_key, positions)
      direction = _insert_all(lenses, signs, params, indices)

      def of_sequence(row):
        # Both traces come from one derivative: 6.6 s a checkpoint became 1.8 s.
        gradient, image = jax.jvp(
          lambda p: jax.grad(loss_fn)(p, row), (params,), (direction,)
        )
        hessian = of_all(trees.dot, signs, extract(image, indices))
        return hessian, of_all(_square, extract(gradient, indices))

      batch = draw(batch_key, i, data, window)
      token_key = jax.random.fold_in(sign_key, 1)
      gradient = _token_gradient(token_key, loss_fn, params, batch)
      of_tokens = of_all(_square, extract(gradient, indices))
      # Sequence by sequence: the Fisher trace needs single gradients.
      one_by_one = jax.tree.map(lambda leaf: leaf[:, None], batch)
      measured = jax.lax.map(of_sequence, one_by_one)
      means = [jnp.mean(x, axis=0) for x in measured]
      return jnp.stack([*means, of_tokens])

    traces = jax.lax.map(of_batch, start + jnp.arange(num_batches))
    return jnp.moveaxis(traces, 0, 2), of_all(trees.norm, positions)

  return jax.jit(measure)


def _token_gradient(rng_key, loss_fn, params, batch):
  """A gradient whose expected square is a token's; NaN of other data.

  Tokens have independent signs s, so E[|sum_t s_t g_t|^2] = sum_t |g_t|^2.
  """
  is_tokens = hasattr(batch, 'dtype') and jnp.issubdtype(
    batch.dtype, jnp.integer
  )
  if not is_tokens:
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
  signs = jax.random.rademacher(rng_key, batch.shape, jnp.float32)
  signed = types.WeightedTokens(batch, signs)
  gradient = jax.grad(loss_fn)(params, signed)  # Of a mean over all places.
  predicted = batch[:, 1:].astype(jnp.int32) != losses.IGNORED
  scale = predicted.size / jnp.sqrt(jnp.maximum(1, predicted.sum()))
  return jax.tree.map(lambda leaf: scale * leaf, gradient)


def _insert_all(lenses, positions, params, indices):
  """The sum of all refinements' positions, each inserted into zeros."""
  total = zeros = jax.tree.map(jnp.zeros_like, params)
  for lens, *family in zip(lenses, positions, indices, strict=True):

    def add(total, entry, lens=lens):
      position, index = entry
      inserted = lens.insert(position, zeros, index)
      return jax.tree.map(jnp.add, total, inserted), None

    # A scan holds one refinement's tree at a time, not all.
    total, _ = jax.lax.scan(add, total, tuple(family))
  return total


def _square(tree):
  return trees.dot(tree, tree)


def _signs_like(rng_key, tree):
  """Random signs, 1 or -1, in the shape of a tree."""
  leaves, structure = jax.tree.flatten(tree)
  keys = jax.random.split(rng_key, len(leaves))
  return structure.unflatten(
    [
      jax.random.rademacher(key, leaf.shape, leaf.dtype)
      for key, leaf in zip(keys, leaves, strict=True)
    ]
  )
