r"""The finite-temperature value of two linear layers at 0, for any widths.

For :math:`K = \tfrac12 \lVert B A \rVert^2` with A of H x N and B of M x H, the
rows of B are Gaussian given A, of precision
:math:`n\beta A A^T + \gamma`. Integrating them out leaves the eigenvalues x of
:math:`A A^T` that are not 0, min(H, N) of them, of density

.. math::
  \prod_i x_i^{(|N - H| - 1)/2} e^{-\gamma x_i / 2}
    (\gamma + n\beta x_i)^{-M/2} \prod_{i<j} |x_i - x_j| ,

and :math:`E[n\beta K] = E \sum_i \tfrac M2\, n\beta x_i / (\gamma + n\beta
x_i)`.

De Bruijn's formula makes the integral over all x a Pfaffian of double integrals
(de Bruijn, "On some multiple integrals involving determinants", Journal of the
Indian Mathematical Society 19, 1955): with :math:`\psi_i` the polynomials of
degree under min(H, N), times the weight of one eigenvalue,

.. math:: Z \propto \mathrm{Pf}(Q), \qquad Q_{ij} = \iint_{x<y}
    \psi_i(x) \psi_j(y) - \psi_j(x) \psi_i(y)

with a border :math:`\int \psi_i` if they are odd in number. Derivatives of ln Z
by what multiplies the weight are the cumulants of sums over eigenvalues, so
every size takes sums over one grid, in log x.
"""

from typing import NamedTuple

import numpy as np

from rllc_jax import types
from rllc_jax.truth import finite_temperature

_POINTS = 1 << 14
# The grid begins so many e-folds below gamma / nbeta. The density rises at
# least like the root of x, so e^-30 of it is omitted.
_SPAN = 60.0
_DIFFERENCE = 1e-3  # Of ln nbeta, for a central difference.
# Of Q. Compared with higher precision, five digits are right up to here.
_MOST_CONDITION = 1e11


class _Eigenvalues(NamedTuple):
  """The law of the eigenvalues of A A^T that are not 0.

  Attributes:
    x: [G], the grid.
    psi: [G, r], polynomials times the weight of a grid point.
    inverse: the inverse of Q with its border.
  """

  x: np.ndarray
  psi: np.ndarray
  inverse: np.ndarray


def at_zero(
  widths: tuple[int, int, int],
  posterior: types.Posterior,
  step_size: float = 0.0,
) -> float:
  """Computes E[n beta K] of two linear layers at w* = 0.

  The bias of the step size is that of `truth.finite_temperature`, to first
  order in epsilon. It grows with n beta x / gamma: long weights of one layer
  stiffen the other.

  Args:
    widths: inputs N, hidden H, outputs M. Reversing them changes nothing.
    posterior: n beta and gamma, both positive.
    step_size: epsilon.

  Raises:
    ValueError: if a width is under 1, n beta or gamma is not positive, double
      precision is insufficient, or the bias is too large for its first order.

  Examples:
    lambda is 6, and approached only at a weak localization.

    >>> for localization in (1.0, 10.0, 100.0):
    ...   print(f'{at_zero((4, 4, 4), types.Posterior(1e4, localization)):.3f}')
    5.934
    5.604
    3.664
  """
  nbeta, localization = map(float, posterior)
  if min(widths) < 1 or not (nbeta > 0 and localization > 0):
    raise ValueError(
      'widths, nbeta and localization must be positive, because without '
      'localization the weights of one layer have no bound where the other is '
      f'0; got {tuple(widths)}, {nbeta}, {localization}.'
    )
  eigenvalues = _eigenvalues(widths, nbeta, localization)
  share = nbeta * eigenvalues.x / (localization + nbeta * eigenvalues.x)
  value = widths[2] / 2 * _mean(eigenvalues, share)
  if not step_size:
    return value
  up, down = (
    _mean_tilt(widths, nbeta, localization, nbeta * np.exp(shift))
    for shift in (_DIFFERENCE, -_DIFFERENCE)
  )
  # Cov(n beta K, g) is minus the derivative of E g by the log of the n beta of
  # the posterior, where g itself keeps its own.
  bias = -step_size / 2 * (up - down) / (2 * _DIFFERENCE)
  return finite_temperature.with_bias(value, bias)


def _eigenvalues(widths, nbeta, localization) -> _Eigenvalues:
  """Builds the grid of eigenvalues and the inverse of Q on it."""
  inputs, hidden, outputs = widths
  first = np.log(localization / nbeta) - _SPAN
  last = np.log((200 + 10 * sum(widths)) / localization)
  u = np.linspace(first, last, _POINTS)
  x = np.exp(u)
  log_weight = (
    (abs(inputs - hidden) + 1) / 2 * u  # One half of it from dx = x du.
    - localization * x / 2
    - outputs / 2 * np.log(localization + nbeta * x)
  )
  # The root of the weight, for QR; its scale cancels in Q^-1 dQ.
  root = np.exp((log_weight - log_weight.max()) / 2)[:, None]
  powers = (x[:, None] / x[-1]) ** np.arange(min(inputs, hidden))
  # Orthonormal by the weight, so that Q is well conditioned.
  psi = np.linalg.qr(powers * root)[0] * root
  Q = _bordered(psi, [(psi, psi)])
  if (condition := np.linalg.cond(Q)) > _MOST_CONDITION:
    raise ValueError(
      'nbeta / localization^2 and min(inputs, hidden) must be small enough for '
      f'a Pfaffian of condition {_MOST_CONDITION:g}, because digits are lost '
      f'beyond; got {condition:.1g} at {nbeta / localization**2:g} for '
      f'{tuple(widths)}.'
    )
  return _Eigenvalues(x, psi, np.linalg.inv(Q))


def _mean(eigenvalues: _Eigenvalues, f: np.ndarray) -> float:
  """E sum_i f(x_i), f on the grid: d ln Pf = tr(Q^-1 dQ) / 2."""
  return 0.5 * float(
    np.trace(eigenvalues.inverse @ _first_order(eigenvalues.psi, f))
  )


def _covariance(
  eigenvalues: _Eigenvalues, f: np.ndarray, g: np.ndarray
) -> float:
  """Cov(sum_i f(x_i), sum_i g(x_i)), the mixed second derivative of ln Pf."""
  psi, inverse = eigenvalues.psi, eigenvalues.inverse
  by_f, by_g = (x[:, None] * psi for x in (f, g))
  both = f[:, None] * by_g
  mixed = _bordered(
    both, [(both, psi), (by_f, by_g), (by_g, by_f), (psi, both)]
  )
  product = inverse @ _first_order(psi, f) @ inverse @ _first_order(psi, g)
  return 0.5 * float(np.trace(inverse @ mixed - product))


def _first_order(psi, f):
  """The derivative of Q when the weight is multiplied by 1 + t f."""
  by_f = f[:, None] * psi
  return _bordered(by_f, [(by_f, psi), (psi, by_f)])


def _bordered(single, pairs):
  """Sums pairs of functions over x < y, and single ones in the border."""
  size = single.shape[1]
  Q = np.zeros((size + size % 2,) * 2)
  for lower, upper in pairs:
    # Terms of x = y are included: they cancel, as pairs have both orders.
    below = np.cumsum(lower, axis=0).T @ upper
    Q[:size, :size] += below - below.T
  if size % 2:
    Q[:size, -1] = single.sum(axis=0)
    Q[-1, :size] = -Q[:size, -1]
  return Q


def _mean_tilt(widths, nbeta, localization, posterior_nbeta):
  r"""Computes E g under another n beta, up to a constant.

  g is a quarter of |grad U|^2 less half of the Laplacian of U. Given A, an
  entry of B along the eigenvalue x has the variance s, and with
  :math:`\nabla_A K = B^T B A`, :math:`\nabla_B K = B A A^T`:

  E |grad_B K|^2 = M sum x^2 s
  E |grad_A K|^2 = M sum x s^2 (M + 1) + M (sum x s) (sum s)
  E grad K . w   = 4 E K = 2 M sum x s
  Delta K        = N |B|^2 + M |A|^2 = N M sum s + M sum x
  """
  inputs, hidden, outputs = widths
  eigenvalues = _eigenvalues(widths, posterior_nbeta, localization)
  x, M = eigenvalues.x, outputs
  s = 1 / (localization + posterior_nbeta * x)
  squared = nbeta**2 * M * (x**2 * s + (M + 1) * x * s**2)
  crossed = 4 * localization * nbeta * M * x * s
  tethered = localization**2 * (x + M * s)
  laplacian = nbeta * M * (inputs * s + x)
  # Directions of B that A does not reach have the variance 1 / gamma.
  unreached = (hidden - min(inputs, hidden)) / localization
  product = _covariance(eigenvalues, x * s, s) + _mean(eigenvalues, x * s) * (
    _mean(eigenvalues, s) + unreached
  )
  one = _mean(eigenvalues, (squared + crossed + tethered) / 4 - laplacian / 2)
  return one + nbeta**2 * M * product / 4
