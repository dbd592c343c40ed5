"""Functions of a symmetric matrix that is known by its products alone.

Golub and Meurant, "Matrices, Moments and Quadrature with Applications", 2010.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import linalg


def quadrature(
  product: Callable[[np.ndarray], np.ndarray],
  start: np.ndarray,
  num_iterations: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Points and weights of the form v^T f(H) v = sum weights f(points).

  Args:
    product: `product(vector [d]) -> [d]`, H times a vector.
    start: v, [d].
    num_iterations: points at most; the form is exact for polynomials of degree
      2 num_iterations - 1.

  Raises:
    ValueError: if a product is not finite.

  Examples:
    >>> h = np.array([1.0, 2.0, 5.0])
    >>> points, w = quadrature(lambda v: h * v, np.array([1.0, 2.0, 3.0]), 3)
    >>> print(f'{(w * np.sqrt(points)).sum():.4f}')
    26.7815
    >>> print(f'{np.sum([1, 4, 9] * np.sqrt(h)):.4f}')
    26.7815
  """
  square = float(start @ start)
  if not square:
    return np.zeros(1), np.zeros(1)
  values, vectors, _ = _krylov(product, start, num_iterations)
  return values, square * vectors[0] ** 2


def applied(
  product: Callable[[np.ndarray], np.ndarray],
  start: np.ndarray,
  function: Callable[[np.ndarray], np.ndarray],
  num_iterations: int,
) -> np.ndarray:
  """f(H) v, [d], in the Krylov space of v.

  Args:
    product: `product(vector [d]) -> [d]`, H times a vector.
    start: v, [d].
    function: f, of eigenvalues.
    num_iterations: size of the space at most.

  Examples:
    >>> h = np.array([1.0, 2.0, 5.0])
    >>> print(applied(lambda v: h * v, np.ones(3), np.reciprocal, 3).round(6))
    [1.  0.5 0.2]
  """
  values, vectors, basis = _krylov(product, start, num_iterations)
  coefficients = vectors @ (function(values) * vectors[0])
  return np.linalg.norm(start) * coefficients @ basis


def _krylov(product, start, num_iterations):
  """Eigenvalues and eigenvectors of H in the Krylov space, and its basis."""
  diagonal, off_diagonal, basis = lanczos(product, start, num_iterations)
  if not np.isfinite(diagonal).all():
    raise ValueError(
      'The curvature must be finite, because settings are scaled by it; got a '
      'Hessian-vector product that is not.'
    )
  return *ritz(diagonal, off_diagonal), basis


def lanczos(
  product: Callable[[np.ndarray], np.ndarray],
  start: np.ndarray,
  num_iterations: int,
  tolerance: float = 1e-10,
) -> tuple[list[float], list[float], np.ndarray]:
  """Lanczos iteration of a symmetric matrix, with full orthogonalization.

  Args:
    product: `product(vector [d]) -> [d]`, the matrix times a vector.
    start: [d], not 0.
    num_iterations: products at most.
    tolerance: of the residual of the top Ritz pair, relative, to stop at.

  Returns:
    Diagonal [m] and off-diagonal [m - 1] of the tridiagonal matrix, and the
    basis [m, d] that it is in; the diagonal ends in NaN if a product was not
    finite.
  """
  basis = [start / np.linalg.norm(start)]
  diagonal: list[float] = []
  off_diagonal: list[float] = []
  for i in range(min(num_iterations, start.size)):
    image = product(basis[-1])
    diagonal.append(float(image @ basis[-1]))
    if not np.isfinite(image).all():
      diagonal[-1] = np.nan
      break
    for _ in range(2):  # Rounding leaves a rest after one.
      image = image - np.stack(basis).T @ (np.stack(basis) @ image)
    length = float(np.linalg.norm(image))
    values, vectors = ritz(diagonal, off_diagonal)
    converged = length * abs(vectors[-1, -1]) <= tolerance * abs(values[-1])
    if converged or i + 1 == min(num_iterations, start.size):
      break
    off_diagonal.append(length)
    basis.append(image / length)
  return diagonal, off_diagonal, np.stack(basis)


def ritz(
  diagonal: Sequence[float], off_diagonal: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Eigenvalues, ascending, and eigenvectors of a tridiagonal matrix."""
  found: Any = linalg.eigh_tridiagonal(diagonal, off_diagonal)
  return found
