r"""The largest curvature of a loss in the weights that move.

The largest eigenvalue h of the Hessian at the checkpoint decides how large a
step a chain can take: along its direction the localized potential has the
curvature :math:`a = n\beta h + \gamma`, and SGLD diverges from
:math:`\epsilon a = 4` on.
"""

from collections.abc import Callable
import functools

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.analysis import krylov

_TOLERANCE = 1e-3  # Relative, of the residual, which bounds the value's error.


def top_curvatures(
  rng_key: types.Key,
  refinements: types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  window: types.PyTree,
  *,
  num_batches: int,
  num_iterations: int = 32,
) -> np.ndarray:
  r"""The largest eigenvalue of the loss's Hessian, refinement by refinement.

  Of the mean loss over some minibatches, at the checkpoint, in the coordinates
  that move. It may differ where chains wander, and a single minibatch curves
  more sharply than their mean.

  Args:
    rng_key: draws the minibatches. The key is consumed.
    refinements: R of one family. Their loss is differentiated twice: not one
      with a gradient of its own that holds only once.
    params: the checkpoint.
    minibatches: data, and how they are drawn.
    window: the data set.
    num_batches: minibatches that the Hessian is the mean over.
    num_iterations: Hessian-vector products at most; as many as coordinates give
      the eigenvalue itself, fewer approach it from below.

  Returns:
    [R], in nats / weight^2. Negative where the loss bends down everywhere.
  """
  of_refinement = hessian_product(
    refinements.lens, refinements.loss, minibatches.draw, num_batches
  )
  params = jax.tree.map(jnp.asarray, params)
  curvatures = []
  for r in range(len(refinements.names)):
    index = jax.tree.map(lambda leaf, r=r: leaf[r], refinements.indices)
    flat, _ = ravel_pytree(refinements.lens.extract(params, index))
    data = (rng_key, params, index, minibatches.data, window)
    product = lambda vector, flat=flat, data=data: np.asarray(
      of_refinement(jnp.asarray(vector, flat.dtype), *data), np.float64
    )
    curvatures.append(top_eigenvalue(product, flat.size, num_iterations))
  return np.array(curvatures)


def top_eigenvalue(
  product: Callable[[np.ndarray], np.ndarray], size: int, num_iterations: int
) -> float:
  """The largest eigenvalue of a symmetric matrix, by Lanczos iteration.

  With full orthogonalization, from a fixed random start: the largest Ritz value
  of the Krylov space, which is never above the eigenvalue. It stops early once
  it has converged.

  Args:
    product: `product(vector [size]) -> [size]`, the matrix times a vector.
    size: of the matrix.
    num_iterations: products at most.

  Returns:
    The eigenvalue; NaN if a product is not finite, or none is made.

  Examples:
    >>> curvatures = np.array([-9.0, 1.0, 2.0, 5.0])
    >>> print(f'{top_eigenvalue(lambda v: curvatures * v, 4, 32):.6f}')
    5.000000
  """
  # A fixed start: equal inputs give equal curvatures.
  vector = np.random.default_rng(0).normal(size=size)
  diagonal, off_diagonal, _ = krylov.lanczos(
    product, vector, num_iterations, tolerance=_TOLERANCE
  )
  if not (diagonal and np.isfinite(diagonal).all()):
    return np.nan
  return float(krylov.ritz(diagonal, off_diagonal)[0][-1])


# Cached: a new function at each checkpoint would compile anew.
@functools.lru_cache(maxsize=64)
def hessian_product(
  lens: types.Lens, loss: types.RefinedLoss, draw: types.Draw, num_batches: int
) -> Callable[..., types.Array]:
  """`product(vector [d], rng_key, params, index, data, window) -> [d]`."""

  def product(vector, rng_key, params, index, data, window):
    flat, unravel = ravel_pytree(lens.extract(params, index))

    def of_batch(i):
      batch = draw(jax.random.fold_in(rng_key, i), i, data, window)
      context, _ = loss.context(params, batch)
      gradient = jax.grad(lambda u: loss.loss(unravel(u), context, index))
      # Forward over reverse: one Hessian-vector product, no Hessian.
      return jax.jvp(gradient, (flat,), (vector,))[1]

    products = jax.lax.map(of_batch, jnp.arange(num_batches))
    return jnp.mean(products, axis=0)

  return jax.jit(product)
