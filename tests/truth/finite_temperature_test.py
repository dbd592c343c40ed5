"""Exact values agree with a second computation, and with their limits."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax import types
from rllc_jax.truth import finite_temperature
from rllc_jax.truth import learning_coefficients
from rllc_jax.truth import toy

COUPLED = toy.Polynomial((1.0, -1.0, 1.0), ((2, 0), (1, 2), (0, 4)))
CROSSING = toy.normal_crossing((1, 1))
# n / ln n at n = 10^3, 10^4, 10^6, and 10^9.
NBETAS = [1e3 / np.log(1e3), 1e4 / np.log(1e4), 1e6 / np.log(1e6), 1e9]


def stationary_value(loss, posterior, step_size):
  """Computes E[n beta K] of the Langevin chain in one coordinate.

  The transition matrix on an even grid, whose rows are Gaussian densities, is
  applied until it is stationary.
  """
  w = np.linspace(-2.5, 2.5, 401)
  slope = toy.evaluate(toy.derivative(loss, 0), (w,))
  drift = posterior.nbeta * slope + posterior.localization * w
  means = w - step_size / 2 * drift
  kernel = np.exp(-((w[None] - means[:, None]) ** 2) / (2 * step_size))
  kernel /= kernel.sum(axis=1, keepdims=True)
  for _ in range(12):  # 2^12 steps.
    kernel = kernel @ kernel
  return float(kernel[200] @ (posterior.nbeta * toy.evaluate(loss, (w,))))


class QuadraticTest(parameterized.TestCase):
  @parameterized.parameters(
    (100, 0, 1e-3, 5.1282),
    (100, 0, 1e-2, 6.6667),
    (100, 100, 1e-3, 2.6316),
    (1000, 1, 1e-4, 5.1232),
    (30, 200, 1e-3, 0.6920),
  )
  def test_quadratic_agrees_with_the_table(
    self, nbeta, localization, step_size, expected
  ):
    posterior = types.Posterior(nbeta, localization)
    value = finite_temperature.quadratic(np.ones(10), posterior, step_size)
    self.assertAlmostEqual(value, expected, 4)

  def test_quadratic_agrees_with_the_stationary_chain(self):
    posterior, loss = types.Posterior(10.0, 2.0), toy.sum_of_powers((2,))
    value = finite_temperature.quadratic([2.0], posterior, 0.02)
    # The grid is 0.0125 apart, noise 0.14: sums are as good as integrals.
    self.assertAlmostEqual(value, stationary_value(loss, posterior, 0.02), 8)

  def test_flat_directions_add_nothing(self):
    for localization in (0.0, 10.0):
      posterior = types.Posterior(100.0, localization)
      self.assertEqual(
        finite_temperature.quadratic([2.0, 0.0], posterior, 1e-3),
        finite_temperature.quadratic([2.0], posterior, 1e-3),
      )

  def test_a_diverging_chain_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'must be under 4.*got 4'):
      finite_temperature.quadratic([1.0], types.Posterior(4.0, 0.0), 1.0)


class PolynomialTest(parameterized.TestCase):
  @parameterized.parameters(
    ((1, 0), 1, (0.49828, 0.49977, 0.50000, 0.50000)),
    ((1, 1), 1, (0.36140, 0.39125, 0.42529, 0.45637)),
    ((1, 1), 10, (0.20199, 0.29326, 0.38628, 0.44540)),
    ((0, 2), 1, (0.24309, 0.24745, 0.24969, 0.25000)),
    ((1, 2), 1, (0.20953, 0.22536, 0.24134, 0.24920)),
    ((2, 2), 1, (0.15044, 0.16579, 0.18720, 0.21065)),
    ((1, 3), 1, (0.14156, 0.15123, 0.16142, 0.16630)),
    ((3, 3), 1, (0.08927, 0.09828, 0.11248, 0.13066)),
  )
  def test_crossings_agree_with_the_table(self, powers, localization, expected):
    loss = toy.normal_crossing([k for k in powers if k])
    values = [
      finite_temperature.polynomial(
        loss, types.Posterior(nbeta, float(localization))
      )
      for nbeta in NBETAS
    ]
    # Half a unit of the last digit that the table has.
    np.testing.assert_allclose(values, expected, atol=6e-6)

  @parameterized.parameters(
    (COUPLED, (1 / 2, 1 / 4)),
    (toy.sum_of_powers((4,)), (1 / 4,)),
    (toy.sum_of_powers((2, 6)), (1 / 2, 1 / 6)),
    (toy.sum_of_powers((2, 2, 4)), (1 / 2, 1 / 2, 1 / 4)),
  )
  def test_the_value_without_localization_is_lambda_at_every_nbeta(
    self, loss, scaling
  ):
    coefficient = learning_coefficients.weighted_homogeneous(scaling)
    for nbeta in (1.0, 1e3, 1e7):
      value = finite_temperature.polynomial(loss, types.Posterior(nbeta, 0.0))
      self.assertAlmostEqual(value, coefficient.value, 6)

  def test_polynomial_agrees_with_an_even_grid(self):
    """The loss is odd in x and has no closed form."""
    w = np.linspace(-4, 4, 801)
    x, y = np.meshgrid(w, w, indexing='ij', sparse=True)
    value = 3 * toy.evaluate(COUPLED, (x, y))
    density = np.exp(-value - 2.5 * (x**2 + y**2) / 2)
    expected = np.sum(density * value) / np.sum(density)
    posterior = types.Posterior(3.0, 2.5)
    actual = finite_temperature.polynomial(COUPLED, posterior)
    self.assertAlmostEqual(actual, float(expected), 7)

  def test_polynomial_agrees_with_the_closed_form_of_bowls(self):
    """Exactly at step size 0, then up to an error of second order."""
    loss = toy.Polynomial((0.5, 1.5), ((2, 0), (0, 2)))
    posterior = types.Posterior(50.0, 7.0)
    closed = lambda step_size: finite_temperature.quadratic(
      [1.0, 3.0], posterior, step_size
    )
    value = finite_temperature.polynomial(loss, posterior)
    self.assertAlmostEqual(value, closed(0.0), 7)
    errors = [
      closed(step_size)
      - finite_temperature.polynomial(loss, posterior, step_size)
      for step_size in (4e-4, 8e-4)
    ]
    # Four and a little, from the third order.
    self.assertAlmostEqual(errors[1] / errors[0], 4, delta=0.1)

  def test_the_bias_of_a_quartic_agrees_with_the_stationary_chain(self):
    """The rest is of second order in the step size."""
    loss, posterior = toy.sum_of_powers((4,)), types.Posterior(10.0, 3.0)
    plain = finite_temperature.polynomial(loss, posterior)
    errors, biases = [], []
    for step_size in (4e-3, 8e-3):
      chain = stationary_value(loss, posterior, step_size)
      first = finite_temperature.polynomial(loss, posterior, step_size)
      biases.append((first - plain) / plain)
      errors.append((chain - first) / plain)
    self.assertGreater(biases[0], 0.01)
    self.assertLess(abs(errors[0]), 0.1 * biases[0])
    # Four and a little, from the third order.
    self.assertBetween(errors[1] / errors[0], 3.5, 4.6)

  @parameterized.parameters((1, 1), (1, 1, 1), (1, 2))
  def test_the_gap_to_lambda_falls_as_the_multiplicity_predicts(self, *powers):
    """lambda - E[n beta K] = (m - 1) / (ln n beta + a constant)."""
    loss = toy.normal_crossing(powers)
    coefficient = learning_coefficients.normal_crossing(powers)
    gaps = [
      coefficient.value
      - finite_temperature.polynomial(loss, types.Posterior(nbeta, 1.0))
      for nbeta in (1e8, 1e10)
    ]
    if coefficient.multiplicity == 1:
      # No logarithm: a power of n beta, here its fourth root.
      self.assertAlmostEqual(gaps[0] / gaps[1], 10**0.5, delta=0.3)
    else:
      slope = (1 / gaps[1] - 1 / gaps[0]) / np.log(100.0)
      # The next terms, of 1 / ln^2, are a few percent here.
      self.assertAlmostEqual(1 / slope, coefficient.multiplicity - 1, delta=0.1)

  @parameterized.parameters(
    (CROSSING, (100.0, 0.0), 0.0, 'nothing else holds that coordinate'),
    (toy.normal_crossing((1, 1, 1, 1)), (1.0, 1.0), 0.0, 'at most 3'),
    (CROSSING, (0.0, 1.0), 0.0, 'nbeta must be positive'),
    (toy.sum_of_powers((2,)), (100.0, 0.0), 5e-3, 'under 5 % of the value'),
  )
  def test_losses_without_a_value_are_refused(
    self, loss, posterior, step_size, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      finite_temperature.polynomial(
        loss, types.Posterior(*posterior), step_size
      )


if __name__ == '__main__':
  absltest.main()
