"""The stationary law of SGLD on a regression agrees with enumeration."""

import itertools
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from rllc_jax import types
from rllc_jax.truth import regression

POSTERIOR = types.Posterior(nbeta=100.0, localization=60.0)
STEP_SIZE = 5e-3


def few_points():
  """Four points in two dimensions, far from their plane, for large noise."""
  return regression.draw_points(4, num_points=4, num_coordinates=2, noise=1.0)


def potential_gradients(points, displacements, members):
  """Gradients of a minibatch's potential, at displacements [..., d]."""
  x = np.asarray(points.inputs, np.float64)[list(members)]
  y = np.asarray(points.targets, np.float64)[list(members)]
  weights = regression.minimum(points) + displacements
  slope = (weights @ x.T - y) @ x / len(members)
  return POSTERIOR.nbeta * slope + POSTERIOR.localization * displacements


def one_step(points, covariance, batch_size):
  """Computes the covariance after a step by enumerating all minibatches.

  It starts from the points +- sqrt(d) L_i, where L L' is the covariance.
  Equally likely, they have mean 0 and this covariance. The step is affine, so
  they suffice for second moments.
  """
  d = len(covariance)
  ends = math.sqrt(d) * np.linalg.cholesky(covariance).T
  starts = np.concatenate([ends, -ends])
  squares = []
  for members in itertools.product(range(4), repeat=batch_size):
    drift = potential_gradients(points, starts, members)
    stops = starts - 0.5 * STEP_SIZE * drift
    squares.append(stops.T @ stops / len(stops))
  return np.mean(squares, axis=0) + STEP_SIZE * np.eye(d)


class RegressionTest(parameterized.TestCase):
  def test_the_gradient_at_the_minimum_is_zero(self):
    points = regression.draw_points(0, 50, 3, noise=0.5)
    slope = jax.grad(regression.loss)(
      np.asarray(regression.minimum(points), np.float32), points
    )
    # Sums of 50 numbers of size 1 in float32.
    np.testing.assert_allclose(slope, 0, atol=1e-6)

  def test_the_loss_is_half_the_mean_square(self):
    points = regression.draw_points(1, 20, 2, noise=0.5)
    weights = np.array([0.3, -2.0], np.float32)
    residuals = [
      y - sum(a * b for a, b in zip(x, weights, strict=True))
      for x, y in zip(*points, strict=True)
    ]
    expected = sum(r**2 for r in residuals) / 2 / 20
    np.testing.assert_allclose(
      regression.loss(weights, points), expected, rtol=1e-5
    )

  @parameterized.parameters(1, 2, 3)
  def test_a_step_over_all_minibatches_leaves_the_covariance(self, batch_size):
    points = few_points()
    covariance = regression.stationary_covariance(
      points, POSTERIOR, STEP_SIZE, batch_size
    )
    np.testing.assert_allclose(
      one_step(points, covariance, batch_size), covariance, rtol=1e-9
    )

  def test_the_noise_of_minibatches_is_large_in_these_tests(self):
    """Otherwise the test above would not be sensitive to it."""
    whole, single = (
      regression.stationary_covariance(few_points(), POSTERIOR, STEP_SIZE, m)
      for m in (math.inf, 1)
    )
    self.assertGreater(np.trace(single), 2 * np.trace(whole))

  def test_the_limit_without_minibatches_is_that_of_a_bowl(self):
    """1/2 sum nbeta h / (a (1 - eps a / 4)) over the curvatures."""
    points = regression.draw_points(2, 30, 4, noise=1.0)
    h = np.linalg.svd(points.inputs.astype(float))[1] ** 2 / 30
    a = POSTERIOR.nbeta * h + POSTERIOR.localization
    expected = 0.5 * POSTERIOR.nbeta * np.sum(h / (a * (1 - STEP_SIZE * a / 4)))
    limit = regression.stationary_llc(points, POSTERIOR, STEP_SIZE, math.inf)
    np.testing.assert_allclose(limit, expected, rtol=1e-9)

  def test_the_estimate_is_the_excess_of_the_loss(self):
    """nbeta (E l(w) - l(w*)) over a law with just this covariance."""
    points = few_points()
    covariance = regression.stationary_covariance(
      points, POSTERIOR, STEP_SIZE, 2
    )
    ends = math.sqrt(2) * np.linalg.cholesky(covariance).T
    center = regression.minimum(points)
    x, y = (leaf.astype(np.float64) for leaf in points)
    loss = lambda weights: 0.5 * np.mean((y - x @ weights) ** 2)
    spread = np.mean([loss(center + s * u) for u in ends for s in (-1, 1)])
    np.testing.assert_allclose(
      regression.stationary_llc(points, POSTERIOR, STEP_SIZE, 2),
      POSTERIOR.nbeta * (spread - loss(center)),
      rtol=1e-9,
    )

  def test_the_stationary_law_satisfies_the_equilibrium_identity(self):
    """E[delta . grad U] - (eps / 4) E|grad U|^2 = d, minibatches and all."""
    points = few_points()
    covariance = regression.stationary_covariance(
      points, POSTERIOR, STEP_SIZE, 2
    )
    ends = math.sqrt(2) * np.linalg.cholesky(covariance).T
    starts = np.concatenate([ends, -ends])
    terms = []
    for members in itertools.product(range(4), repeat=2):
      slope = potential_gradients(points, starts, members)
      virial = np.sum(starts * slope, axis=1)
      terms.append(virial - 0.25 * STEP_SIZE * np.sum(slope**2, axis=1))
    np.testing.assert_allclose(np.mean(terms), 2, rtol=1e-9)

  def test_a_step_size_without_a_stationary_law_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'step_size must be small.*got 0.2'):
      regression.stationary_llc(few_points(), POSTERIOR, 0.2, 1)


if __name__ == '__main__':
  absltest.main()
