r"""Exact limits of estimates at finite n beta, localization and step size.

A sampler's estimate converges to :math:`E[n\beta (K - K^*)]` under

.. math:: p(w) \propto \exp\bigl(-n\beta K(w) - \tfrac\gamma2 |w - w^*|^2\bigr),

which is the learning coefficient only for :math:`n\beta \to \infty`, and the
step size adds a bias. Both are computed for the losses here and in
`truth.two_layer_linear`, so that a test can be as tight as its standard error.

**The step size.** A Langevin step, drift :math:`-\tfrac\epsilon2 \nabla U` and
noise :math:`\sqrt\epsilon`, has the stationary density
:math:`p\,(1 + \tfrac\epsilon2 (g - E g)) + O(\epsilon^2)` with

.. math:: g = \tfrac14 |\nabla U|^2 - \tfrac12 \Delta U

(from :math:`L^*(p g) = -A^* p`, where L and A are the first two orders of the
step's generator). So an expectation of f moves by :math:`\tfrac\epsilon2
\mathrm{Cov}(f, g)`, which is added wherever a step size is given. For a bowl
the value is exact in epsilon.
"""

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike

from rllc_jax import types
from rllc_jax.truth import toy

_GRID, _MOST_POINTS = 2_000_000, 700  # Points of a grid, and of one axis.
# The potential at the upper end of an axis, in nats, and the e-folds from the
# lower end up to the smallest scale of the loss.
_TAIL, _FLAT = 400.0, 18.0
_LARGEST_BIAS = 0.05  # As a share of the value.


def quadratic(
  curvatures: ArrayLike, posterior: types.Posterior, step_size: float = 0.0
) -> float:
  r"""The limit for a bowl, :math:`K = \tfrac12 \sum_i h_i (w_i - w^*_i)^2`.

  .. math::
    \hat\lambda = \tfrac12 \sum_i \frac{n\beta h_i}{a_i (1 - \epsilon a_i / 4)},
    \qquad a_i = n\beta h_i + \gamma

  It is exact in epsilon. A direction counts a half, and less where
  :math:`\gamma \gg n\beta h_i`, because the localization dominates there. With
  the eigenvalues of its Hessian it holds for any loss near a regular minimum.

  Args:
    curvatures: the h_i, at least 0, [n].
    posterior: n beta and gamma.
    step_size: epsilon.

  Raises:
    ValueError: if SGLD diverges, at epsilon a_i >= 4.

  Examples:
    >>> for nbeta, gamma, step_size in (
    ...     (100, 0, 1e-3), (100, 100, 1e-3), (30, 200, 1e-3)):
    ...   posterior = types.Posterior(nbeta, gamma)
    ...   print(f'{quadratic(np.ones(10), posterior, step_size):.4f}')
    5.1282
    2.6316
    0.6920
  """
  nbeta, localization = _numbers(posterior)
  h = np.asarray(curvatures, np.float64)
  h = h[h > 0]  # Flat directions add nothing, and at gamma 0 give 0 / 0.
  a = nbeta * h + localization
  if (step_size * a >= 4).any():
    raise ValueError(
      'step_size times the largest curvature of the potential must be under 4, '
      f'because SGLD diverges from there on; got {step_size * a.max():g}.'
    )
  return float(0.5 * np.sum(nbeta * h / (a * (1 - step_size * a / 4))))


def polynomial(
  loss: toy.Polynomial, posterior: types.Posterior, step_size: float = 0.0
) -> float:
  """The limit for a polynomial at w* = 0, to first order in epsilon.

  By quadrature on a grid in log |w|. On it singular posteriors, which spread
  over orders of magnitude, are smooth, so the sum converges exponentially.

  Args:
    loss: in up to three coordinates, 0 at 0 and at least 0 elsewhere.
    posterior: n beta and gamma.
    step_size: epsilon.

  Raises:
    ValueError: if there is no posterior, because at gamma 0 the loss does not
      confine a coordinate; if there are too many coordinates; or if the bias is
      too large for its first order, see `with_bias`.

  Examples:
    A crossing is far from its coefficient of 1/2, whatever the sampler.

    >>> crossing = toy.normal_crossing((1, 1))
    >>> for nbeta in (1e2, 1e4, 1e8):
    ...   print(f'{polynomial(crossing, types.Posterior(nbeta, 1.0)):.4f}')
    0.3542
    0.4123
    0.4515
  """
  nbeta, localization = _numbers(posterior)
  log_density, value, tilt = _on_grid(loss, nbeta, localization)
  # Less the maximum, because the exponential could underflow everywhere.
  density = np.exp(log_density - log_density.max())
  density /= density.sum()
  mean = float(np.sum(density * value))
  covariance = float(np.sum(density * (value - mean) * tilt))
  return with_bias(mean, step_size / 2 * covariance)


def with_bias(value: float, bias: float) -> float:
  """Adds a bias to a value, if its first order describes it.

  Raises:
    ValueError: if the bias is more than 5 % of the value: on a bowl the second
      order is then 0.25 % of it, as much as a good standard error.
  """
  if abs(bias) > _LARGEST_BIAS * value:
    raise ValueError(
      'step_size must be so small that its bias is under '
      f'{100 * _LARGEST_BIAS:g} % of the value, because only the first order '
      f'in step_size is known; got {bias:.2g} of {value:.4g}.'
    )
  return value + bias


def _on_grid(loss, nbeta, localization):
  """Log density in log |w|, n beta K, and g, at all grid points."""
  axes = _axes(loss, nbeta, localization)
  # Sparse, because a dense grid of three axes takes three times the memory.
  grid = np.meshgrid(*axes, indexing='ij', sparse=True)
  # dw = w d(log w), for every coordinate.
  log_volume = sum(np.log(x) for x in grid)
  columns = []
  for signs in itertools.product(*_signs(loss)):
    w = [sign * x for sign, x in zip(signs, grid, strict=True)]
    value = nbeta * toy.evaluate(loss, w)
    tether = localization / 2 * sum(x**2 for x in w)
    tilt = _tilt(loss, w, nbeta, localization)
    columns.append(
      np.broadcast_arrays(log_volume - value - tether, value, tilt)
    )
  return np.stack(columns, axis=1)


def _axes(loss, nbeta, localization):
  """Yields a logarithmic axis per coordinate, over all posterior scales."""
  count = len(loss.exponents[0])
  if count > 3:
    raise ValueError(
      'loss must have at most 3 coordinates, because a grid in more is too '
      f'large; got {count}.'
    )
  ends = [_end(loss, i, nbeta, localization) for i in range(count)]
  points = min(_MOST_POINTS, round(_GRID ** (1 / count)))
  for i, end in enumerate(ends):
    first = min(_scales(loss, i, nbeta, ends)) * np.exp(-_FLAT)
    yield np.geomspace(first, end, points)


def _scales(loss, i, nbeta, ends):
  """Yields the w_i at which each term is a nat, other coordinates at ends."""
  for c, row in zip(*loss, strict=True):
    if row[i]:
      factors = [ends[j] ** p for j, p in enumerate(row) if j != i]
      yield (nbeta * abs(c) * math.prod(factors)) ** (-1 / row[i])


def _end(loss, i, nbeta, localization):
  """The largest w_i with a density worth counting."""
  ends = [np.sqrt(2 * _TAIL / localization)] if localization else []
  for c, row in zip(*loss, strict=True):
    if row[i] and row[i] == sum(row):
      ends.append((_TAIL / (nbeta * c)) ** (1 / row[i]))
  if not ends:
    raise ValueError(
      'localization must be positive where the loss has no power of one '
      'coordinate alone, because nothing else holds that coordinate; got '
      f'{localization} for coordinate {i}.'
    )
  return min(ends)


def _signs(loss):
  """Yields the signs of each coordinate: one if the loss is even in it."""
  for powers in zip(*loss.exponents, strict=True):
    yield (1.0, -1.0) if any(p % 2 for p in powers) else (1.0,)


def _tilt(loss, w, nbeta, localization):
  """Computes g, the correction of the density in the module's docstring."""
  squared_gradient, laplacian = 0.0, 0.0
  for i, x in enumerate(w):
    slope = toy.derivative(loss, i)
    gradient = nbeta * toy.evaluate(slope, w) + localization * x
    curvature = nbeta * toy.evaluate(toy.derivative(slope, i), w) + localization
    squared_gradient = squared_gradient + gradient**2
    laplacian = laplacian + curvature
  return squared_gradient / 4 - laplacian / 2


def _numbers(posterior: types.Posterior) -> tuple[float, float]:
  """Returns n beta and gamma as checked floats."""
  nbeta, localization = map(float, posterior)
  if not (nbeta > 0 and localization >= 0):
    raise ValueError(
      'nbeta must be positive and localization at least 0, because they are '
      f'precisions; got {nbeta} and {localization}.'
    )
  return nbeta, localization
