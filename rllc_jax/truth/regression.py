r"""Linear regression with minibatches, and the exact law of chains on it.

The loss of a point is :math:`\tfrac12 (y - x \cdot w)^2`, so a minibatch has a
curvature of its own as well as a gradient: noise that multiplies the position
and noise that adds to it. Both are linear in the displacement from the minimum,
so the stationary covariance solves a linear equation. It gives the limit of
estimates with the biases of step size, localization and minibatches.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rllc_jax import types


class Points(NamedTuple):
  """Stored points, or a minibatch of them.

  Attributes:
    inputs: [N, d].
    targets: [N].
  """

  inputs: types.Array | np.ndarray
  targets: types.Array | np.ndarray


def draw_points(
  seed: int, num_points: int, num_coordinates: int, noise: float
) -> Points:
  """Draws standard normal inputs and targets x . 1 plus normal noise.

  Args:
    seed: of NumPy's generator.
    num_points: N.
    num_coordinates: d.
    noise: standard deviation of the targets around the plane.

  Returns:
    Points in float32, as chains see them.

  Examples:
    >>> draw_points(0, num_points=5, num_coordinates=2, noise=0.1).inputs.shape
    (5, 2)
  """
  rng = np.random.default_rng(seed)
  inputs = rng.standard_normal((num_points, num_coordinates))
  targets = inputs.sum(axis=1) + noise * rng.standard_normal(num_points)
  return Points(inputs.astype(np.float32), targets.astype(np.float32))


def loss(weights: types.Params, points: Points) -> types.Array:
  """Half the mean squared residual of weights [d], [].

  Examples:
    >>> points = Points(jnp.eye(2), jnp.array([1.0, 3.0]))
    >>> print(loss(jnp.zeros(2), points))
    2.5
  """
  residuals = points.targets - points.inputs @ weights
  return 0.5 * jnp.mean(residuals**2)


def minimum(points: Points) -> np.ndarray:
  """Computes the minimum of the loss over all points, [d].

  That is the solution of ordinary least squares.

  Examples:
    >>> points = Points(np.eye(2), np.array([1.0, 3.0]))
    >>> print(minimum(points))
    [1. 3.]
  """
  inputs, targets = (np.asarray(leaf, np.float64) for leaf in points)
  return np.linalg.lstsq(inputs, targets)[0]


def stationary_covariance(
  points: Points,
  posterior: types.Posterior,
  step_size: float,
  batch_size: float,
  sampler: str = 'sgld',
) -> np.ndarray:
  r"""Computes the stationary covariance from the minimum, [d, d].

  That of SGLD first.

  With :math:`\delta = w - w^*`, B a minibatch of m points drawn with
  replacement, :math:`H_B` its curvature and :math:`g_B` its gradient at
  :math:`w^*`, a step is

  .. math::
    \delta' = A_B \delta - \tfrac{\epsilon n\beta}{2} g_B + \sqrt\epsilon\,\xi,
    \qquad A_B = I - \tfrac\epsilon2 (n\beta H_B + \gamma)

  and :math:`g_B` has mean 0, hence :math:`E\delta = 0` and no cross term:

  .. math::
    \Sigma = E[A_B \Sigma A_B^T] + \epsilon I
      + (\epsilon n\beta / 2)^2 \, \mathrm{Cov}(g_i) / m

  a linear equation in :math:`\Sigma` (discrete Lyapunov, with multiplicative
  noise). For Leimkuhler and Matthews', :math:`\delta = y + \sqrt\epsilon N / 2`
  with

  .. math::
    y' = A_B y + \sqrt\epsilon\,(I + A_B) N / 2
      - \tfrac{\epsilon n\beta}{2} g_B

  and y and N independent. Chains must start from, and be tied to, the minimum
  of *all* points: elsewhere :math:`g_B` has a mean.

  Args:
    points: all points, from which minibatches are drawn.
    posterior: n beta and gamma.
    step_size: epsilon, in weight^2, drift epsilon / 2.
    batch_size: m; `math.inf` for the loss over all points at every step.
    sampler: 'sgld' or 'leimkuhler_matthews'.

  Raises:
    ValueError: if the step size is too large for the covariance to exist.

  Examples:
    One weight and one point on the line make a bowl of curvature 1.

    >>> points = Points(np.ones((1, 1)), np.zeros(1))
    >>> settings = types.Posterior(nbeta=30.0, localization=10.0)
    >>> covariance = stationary_covariance(points, settings, 0.01, 1)
    >>> bool(np.isclose(covariance[0, 0], 1 / (40 * (1 - 0.01 * 40 / 4))))
    True
  """
  x = np.asarray(points.inputs, np.float64)
  d = x.shape[1]
  curvatures = x[:, :, None] * x[:, None, :]  # [N, d, d]
  gradients = -x * _residuals(points)[:, None]  # [N, d], their mean is 0.
  drift = 0.5 * step_size * float(posterior.nbeta)
  H = curvatures.mean(axis=0)
  one = np.eye(d)
  decay = (1 - 0.5 * step_size * float(posterior.localization)) * one
  A = decay - drift * H
  # E[A_B kron A_B] = A kron A + drift^2 Cov(H_i as a vector) / m.
  spread = np.einsum('nab,ncd->acbd', *2 * [curvatures - H]) / len(x)
  spread = drift**2 / batch_size * spread.reshape(d * d, d * d)
  step = np.kron(A, A) + spread
  _check_contraction(step, step_size)
  # At batch_size inf the terms of minibatch noise vanish.
  additive = drift**2 / batch_size * gradients.T @ gradients / len(x)
  is_lm = sampler == 'leimkuhler_matthews'
  if is_lm:
    # E[(I + A_B)(I + A_B)] / 4.
    twice = (spread @ one.ravel()).reshape(d, d) + (one + A) @ (one + A)
    additive += step_size / 4 * twice
  else:
    additive += step_size * one
  law = np.linalg.solve(np.eye(d * d) - step, additive.ravel()).reshape(d, d)
  return law + step_size / 4 * one * is_lm


def stationary_llc(
  points: Points,
  posterior: types.Posterior,
  step_size: float,
  batch_size: float,
  sampler: str = 'sgld',
) -> float:
  r"""The limit of the estimate from chains at the minimum.

  .. math:: \hat\lambda = \tfrac{n\beta}{2} \mathrm{tr}(H \Sigma)

  Without minibatch noise this is near d / 2 times nbeta h / (nbeta h + gamma),
  for curvatures h; the noise of minibatches adds to it.

  Args:
    points: all points, from which minibatches are drawn.
    posterior: n beta and gamma.
    step_size: epsilon.
    batch_size: m; `math.inf` for the loss over all points at every step.
    sampler: 'sgld' or 'leimkuhler_matthews'.

  Raises:
    ValueError: as `stationary_covariance`.

  Examples:
    >>> import math
    >>> points = draw_points(0, num_points=200, num_coordinates=3, noise=0.75)
    >>> settings = types.Posterior(nbeta=100.0, localization=80.0)
    >>> for batch_size in (4, math.inf):
    ...   print(round(stationary_llc(points, settings, 1e-3, batch_size), 3))
    1.208
    0.869
  """
  covariance = stationary_covariance(
    points, posterior, step_size, batch_size, sampler
  )
  x = np.asarray(points.inputs, np.float64)
  # tr(H Sigma) is the mean of x . Sigma x.
  along_inputs = np.einsum('na,ab,nb->n', x, covariance, x)
  return float(0.5 * float(posterior.nbeta) * along_inputs.mean())


def _residuals(points: Points) -> np.ndarray:
  """Targets less the predictions of the minimum, [N]."""
  inputs, targets = (np.asarray(leaf, np.float64) for leaf in points)
  return targets - inputs @ minimum(points)


def _check_contraction(step: np.ndarray, step_size: float) -> None:
  """Refuses a step size at which second moments grow."""
  # Not of A: second moments can grow where the mean contracts.
  radius = np.abs(np.linalg.eigvals(step)).max()
  if radius >= 1:
    raise ValueError(
      'step_size must be small enough for chains to have a stationary '
      'covariance, because E[A_B Sigma A_B] grows without bound otherwise; got '
      f'{step_size}, at which squares grow by {radius:.4g} a step.'
    )
