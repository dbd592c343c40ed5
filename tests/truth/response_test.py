"""Closed forms of responses, against derivatives and known numbers."""

import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.truth import regression
from rllc_jax.truth import response

POSTERIOR = types.Posterior(nbeta=20.0, localization=5.0)


def losses():
  """Eight points of three weights, around weights that are no minimum."""
  points = regression.draw_points(0, 8, 3, 0.5)
  weights = regression.minimum(points) + np.array([0.05, 0.0, -0.03])
  return response.of_regression(points, weights)


def test_losses_of_points_are_half_their_squared_residuals():
  points = regression.draw_points(0, 8, 3, 0.5)
  weights, moved = np.ones(3), np.array([0.3, -0.2, 0.1])
  made = response.of_regression(points, weights)
  residual = lambda w: points.inputs @ w - points.targets
  expected = 0.5 * (residual(weights + moved) ** 2 - residual(weights) ** 2)
  quadratic = np.einsum('nab,a,b->n', made.curvatures, moved, moved)
  actual = made.gradients @ moved + 0.5 * quadratic
  np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_covariances_are_derivatives_by_the_shares_of_points():
  """d E[l_k] / d p_m = -n beta Cov(l_k, l_m), of the unnormalized shares."""
  made, h = losses(), 1e-5
  law = response.stationary(made, POSTERIOR)
  covariances = response.loss_covariances(made, made, law)
  for m in (0, 3):
    ends = []
    for sign in (1, -1):
      shares = made.shares + sign * h * (np.arange(8) == m)
      moved = response.stationary(made._replace(shares=shares), POSTERIOR)
      ends.append(response.loss_means(made, moved))
    slopes = (ends[0] - ends[1]) / (2 * h)
    np.testing.assert_allclose(
      slopes, -POSTERIOR.nbeta * covariances[:, m], rtol=1e-6
    )


@pytest.mark.parametrize('two_chain', [False, True])
def test_responses_to_all_points_add_up_to_0(two_chain):
  made = losses()
  values = response.susceptibilities(
    made, np.array([0, 1]), POSTERIOR, two_chain=two_chain
  )
  assert abs(values).max() > 1e-4
  np.testing.assert_allclose(made.shares @ values, 0, atol=1e-15)


def test_a_strong_localization_gives_products_of_gradients():
  made, part = losses(), np.array([0, 2])
  gradients = made.gradients[:, part]
  expected = -gradients @ (made.shares @ gradients)
  centered = expected - made.shares @ expected
  for localization in (1e4, 1e6):
    values = response.susceptibilities(
      made, part, types.Posterior(20.0, localization), two_chain=True
    )
    np.testing.assert_allclose(
      localization * values, centered, rtol=600 / localization, atol=1e-9
    )


def test_sgld_s_law_tends_to_the_exact_one():
  made = losses()
  exact = response.stationary(made, POSTERIOR)
  for step_size, most in ((1e-2, 0.5), (1e-6, 1e-4)):
    law = response.stationary(made, POSTERIOR, step_size, 'sgld')
    np.testing.assert_array_equal(law.mean, exact.mean)
    ratio = np.trace(law.covariance) / np.trace(exact.covariance)
    assert 1 < ratio < 1 + most
