r"""Exact responses of a Gaussian posterior to its data, for quadratic losses.

With the loss of a point
:math:`\ell_i = g_i \cdot \delta + \tfrac12 \delta^T A_i \delta` in the
displacement :math:`\delta` from the checkpoint, weights
:math:`p_i`, :math:`g = \sum p_i g_i`, :math:`H = \sum p_i A_i` and
:math:`P = n\beta H + \gamma`, the localized posterior is Gaussian with mean
:math:`m = -n\beta P^{-1} g`. Its covariance is :math:`P^{-1}`, as chains of
Leimkuhler and Matthews' have it at every step size, or
:math:`[P(1 - \epsilon P / 4)]^{-1}`, as those of SGLD have it. Then

.. math::
  \mathrm{Cov}(\ell_i, \ell_j) = (g_i + A_i m)^T \Sigma (g_j + A_j m)
    + \tfrac12 \mathrm{tr}(A_i \Sigma A_j \Sigma).
"""

from typing import NamedTuple

import numpy as np

from rllc_jax import types
from rllc_jax.truth import regression


class Quadratics(NamedTuple):
  """Losses of N points around a checkpoint, without their constants.

  Attributes:
    gradients: [N, d], at the checkpoint.
    curvatures: [N, d, d].
    shares: [N], weights in the mean loss, which add up to 1.
  """

  gradients: np.ndarray
  curvatures: np.ndarray
  shares: np.ndarray

  @property
  def mean(self) -> tuple[np.ndarray, np.ndarray]:
    """Gradient [d] and curvature [d, d] of the mean loss."""
    p = self.shares
    return p @ self.gradients, np.tensordot(p, self.curvatures, 1)

  def restricted(self, coordinates: np.ndarray) -> 'Quadratics':
    """The losses where only some coordinates move."""
    index = np.ix_(coordinates, coordinates)
    curvatures = np.stack([A[index] for A in self.curvatures])
    return Quadratics(self.gradients[:, coordinates], curvatures, self.shares)

  def centered(self) -> 'Quadratics':
    """The losses less their mean."""
    g, H = self.mean
    return Quadratics(self.gradients - g, self.curvatures - H, self.shares)


class Gaussian(NamedTuple):
  """A posterior of displacements: mean [d], covariance [d, d]."""

  mean: np.ndarray
  covariance: np.ndarray


def of_regression(points: regression.Points, weights: np.ndarray) -> Quadratics:
  """Half the squared residuals of points, around any weights [d]."""
  x = np.asarray(points.inputs, float)
  residuals = x @ weights - np.asarray(points.targets, float)
  curvatures = x[:, :, None] * x[:, None, :]
  shares = np.full(len(x), 1 / len(x))
  return Quadratics(residuals[:, None] * x, curvatures, shares)


def stationary(
  losses: Quadratics,
  posterior: types.Posterior,
  step_size: float = 0.0,
  sampler: str = 'leimkuhler_matthews',
) -> Gaussian:
  """The law of full-data chains: 'sgld' has a bias of the step size."""
  g, H = losses.mean
  nbeta, localization = map(float, posterior)
  one = np.eye(len(g))
  P = nbeta * H + localization * one
  bias = step_size / 4 * P if sampler == 'sgld' else 0 * P
  return Gaussian(
    -nbeta * np.linalg.solve(P, g), np.linalg.inv(P @ (one - bias))
  )


def loss_means(losses: Quadratics, law: Gaussian) -> np.ndarray:
  """E of each loss less its value at the checkpoint, [N]."""
  linear = losses.gradients @ law.mean
  moment = law.covariance + np.outer(law.mean, law.mean)
  return linear + 0.5 * np.einsum('nab,ab->n', losses.curvatures, moment)


def loss_covariances(
  losses: Quadratics, others: Quadratics, law: Gaussian
) -> np.ndarray:
  """Covariances of the losses of points with those of others, [N, M]."""
  slopes = [x.gradients + x.curvatures @ law.mean for x in (losses, others)]
  linear = slopes[0] @ law.covariance @ slopes[1].T
  spread = [x.curvatures @ law.covariance for x in (losses, others)]
  return linear + 0.5 * np.einsum('nab,mba->nm', *spread)


def susceptibilities(
  losses: Quadratics,
  coordinates: np.ndarray,
  posterior: types.Posterior,
  step_size: float = 0.0,
  sampler: str = 'leimkuhler_matthews',
  *,
  two_chain: bool = False,
) -> np.ndarray:
  r"""Responses of a part's loss excess to each point, [N].

  .. math::
    \chi_i = -\mathrm{Cov}_C(L, \ell_i - L)
      + [\hat\lambda_C / n\beta]\, (E_W - E_C)[\ell_i - L]

  without the second term unless `two_chain`, where W is the posterior of all
  weights and C that of the part.

  Args:
    losses: of all points.
    coordinates: those that the part moves.
    posterior: n beta and gamma.
    step_size: epsilon; only SGLD's law depends on it.
    sampler: 'leimkuhler_matthews' or 'sgld'.
    two_chain: whether chains of all weights take part.
  """
  part = losses.restricted(coordinates)
  law = stationary(part, posterior, step_size, sampler)
  g, H = part.mean
  mean = Quadratics(g[None], H[None], np.ones(1))
  response = -loss_covariances(mean, part.centered(), law)[0]
  if not two_chain:
    return response
  whole = stationary(losses, posterior, step_size, sampler)
  excess = loss_means(mean, law).item()
  apart = loss_means(losses.centered(), whole)
  return response + excess * (apart - loss_means(part.centered(), law))
