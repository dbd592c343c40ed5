"""Losses with exact learning coefficients.

Each is a pure function `loss(params, batch)` with a true parameter to sample
around and the data that it reads, as `estimate_llc` takes them. Exact values
are in `truth.finite_temperature` and `truth.learning_coefficients`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from rllc_jax import types

_TINY = 8  # Widths up to which `_product` sums elementwise.


class Toy(NamedTuple):
  """A loss with a true parameter, at which it is 0.

  Attributes:
    loss: `loss(params, batch) -> []`.
    params: w*.
    data: a single entry, so that all minibatches are equal.
  """

  loss: types.LossFn
  params: types.Params
  data: types.PyTree


class Polynomial(NamedTuple):
  r"""A polynomial in n coordinates, :math:`\sum_j c_j \prod_i w_i^{p_{ji}}`.

  Attributes:
    coefficients: the c_j.
    exponents: the p_ji, n of them for every j.
  """

  coefficients: tuple[float, ...]
  exponents: tuple[tuple[int, ...], ...]


def normal_crossing(powers: Sequence[int]) -> Polynomial:
  r"""The polynomial :math:`\prod_i w_i^{2 k_i}`.

  Args:
    powers: the k_i.
  """
  return Polynomial((1.0,), (tuple(2 * k for k in powers),))


def sum_of_powers(exponents: Sequence[int]) -> Polynomial:
  r"""The polynomial :math:`\sum_i w_i^{p_i}`; even p_i make it a loss.

  Examples:
    >>> print(sum_of_powers((2, 4)).exponents)
    ((2, 0), (0, 4))
  """
  n = len(exponents)
  rows = [[p * (i == j) for j in range(n)] for i, p in enumerate(exponents)]
  return Polynomial(n * (1.0,), tuple(map(tuple, rows)))


def evaluate(polynomial: Polynomial, w: Sequence[Any]) -> Any:
  """Evaluates a polynomial at w, whose n entries are arrays that broadcast.

  Examples:
    >>> evaluate(Polynomial((3.0, 1.0), ((1, 2), (0, 1))), (2.0, 10.0))
    610.0
  """
  return sum(
    # Without factors of power 0, so that terms need not broadcast to all axes.
    math.prod((x**p for x, p in zip(w, row, strict=True) if p), start=c)
    for c, row in zip(*polynomial, strict=True)
  )


def derivative(polynomial: Polynomial, i: int) -> Polynomial:
  """Differentiates a polynomial by coordinate i.

  Examples:
    >>> derivative(Polynomial((3.0, 1.0), ((1, 2), (0, 1))), 1)
    Polynomial(coefficients=(6.0, 1.0), exponents=((1, 1), (0, 0)))
  """
  terms = [
    (c * row[i], (*row[:i], row[i] - 1, *row[i + 1 :]))
    for c, row in zip(*polynomial, strict=True)
    if row[i]
  ]
  return _of_terms(terms)


def freeze(
  polynomial: Polynomial, values: Sequence[float | None]
) -> Polynomial:
  """Freezes coordinates of a polynomial at values.

  Terms of frozen coordinates alone are dropped, because they cancel from a loss
  difference, and so are terms frozen to 0.

  Args:
    polynomial: in n coordinates.
    values: n values; None where a coordinate stays free.

  Examples:
    >>> freeze(normal_crossing((1, 2)), (None, 3.0))
    Polynomial(coefficients=(81.0,), exponents=((2,),))
  """
  terms = []
  for c, row in zip(*polynomial, strict=True):
    pairs = list(zip(row, values, strict=True))
    free = tuple(p for p, value in pairs if value is None)
    scale = math.prod((v**p for p, v in pairs if v is not None), start=c)
    if any(free) and scale:  # A constant or a zero moves no chain.
      terms.append((scale, free))
  return _of_terms(terms)


def _of_terms(terms):
  """A polynomial from pairs of coefficient and exponents, maybe none."""
  coefficients, exponents = zip(*terms, strict=True) if terms else ((), ())
  return Polynomial(coefficients, exponents)


def quadratic_toy(curvatures: ArrayLike) -> Toy:
  r"""Builds the bowl :math:`\tfrac12 \sum_i h_i w_i^2` at its bottom.

  Args:
    curvatures: the h_i, [n].
  """
  h = np.asarray(curvatures, np.float32)

  def loss(params, batch):
    del batch
    return 0.5 * jnp.sum(h * params**2)

  return Toy(loss, jnp.zeros(len(h)), jnp.zeros(1))


def polynomial_toy(
  polynomial: Polynomial, params: ArrayLike | None = None
) -> Toy:
  """Builds a loss from a polynomial, at 0 or at another w* [n]."""
  n = len(polynomial.exponents[0])

  def loss(params, batch):
    del batch
    return evaluate(polynomial, [params[i] for i in range(n)])

  center = jnp.zeros(n) if params is None else jnp.asarray(params, jnp.float32)
  return Toy(loss, center, jnp.zeros(1))


def linear_network_toy(layers: Sequence[np.ndarray]) -> Toy:
  r"""Builds a linear network at a parameter with the true product.

  :math:`K(W) = \tfrac12 \lVert W_L \cdots W_1 - T \rVert^2`, with
  :math:`T = W^*_L \cdots W^*_1`: the population loss of a regression on
  standard normal inputs with unit noise, less that noise's own.

  Args:
    layers: W*_1 first, each [outputs, inputs]; all zeros is the most
      degenerate parameter of rank 0.

  Returns:
    Parameters are {'layer_0': W_1, ...}; the data is T, [1, outputs, inputs].
  """
  params = {
    f'layer_{i}': jnp.asarray(layer, jnp.float32)
    for i, layer in enumerate(layers)
  }
  return Toy(linear_network_loss, params, _forward(params)[None])


def linear_network_loss(params: types.Params, batch: types.Batch):
  """Half the squared distance of the product from the one true matrix."""
  return 0.5 * jnp.sum(linear_network_residual(params, batch) ** 2)


def linear_network_residual(params: types.Params, batch: types.Batch):
  """The product less the true matrix, [outputs, inputs].

  Args:
    params: {'layer_0': the first, ...}, each [outputs, inputs].
    batch: [1, outputs, inputs].
  """
  return _forward(params) - batch[0]


def _forward(params):
  """The product of all layers, [outputs, inputs]."""
  product = params['layer_0']
  for i in range(1, len(params)):
    product = _product(params[f'layer_{i}'], product)
  return product


def _product(b, a):
  if max(*b.shape, *a.shape) > _TINY:
    return b @ a
  # On a CPU, XLA's product of a batch of tiny matrices takes three times this.
  return jnp.sum(b[:, :, None] * a[None], axis=1)


def squared_norm_curvatures(
  residual: Callable[[types.Position], types.Array], position: types.Position
) -> np.ndarray:
  r"""Computes curvatures of :math:`\tfrac12 \lVert F(u) \rVert^2` at F = 0.

  The Hessian there is :math:`J^T J`. Its eigenvalues that are not 0 are those
  of :math:`J J^T`, a matrix as large as F.

  Args:
    residual: F.
    position: u*, a zero of F: elsewhere the Hessian has another term.

  Returns:
    [size of F], ascending, in float64. All further directions are flat.

  Examples:
    >>> print(squared_norm_curvatures(lambda u: 3 * u[:1], jnp.zeros(2)))
    [9.]
  """
  flat = lambda u: jnp.ravel(residual(u))
  leaves = jax.tree.leaves(jax.jit(jax.jacrev(flat))(position))
  rows = [np.reshape(leaf, (len(leaf), -1)) for leaf in leaves]
  # float64: products in float32 would blur small eigenvalues.
  jacobian = np.concatenate(rows, axis=1).astype(np.float64)
  return np.linalg.eigvalsh(jacobian @ jacobian.T)
