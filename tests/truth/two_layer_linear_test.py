"""Values of two layers at 0 agree with a second computation."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax import types
from rllc_jax.truth import finite_temperature
from rllc_jax.truth import learning_coefficients
from rllc_jax.truth import toy
from rllc_jax.truth import two_layer_linear


def by_importance(widths, posterior, draws, seed=0):
  """E[n beta K] and its standard error, by importance sampling of A."""
  inputs, hidden, outputs = widths
  nbeta, localization = posterior
  rng, sums = np.random.default_rng(seed), []
  for _ in range(20):
    A = rng.normal(size=(draws // 20, hidden, inputs)) / np.sqrt(localization)
    x = np.linalg.eigvalsh(A @ A.transpose(0, 2, 1))
    weight = np.prod(1 + nbeta * x / localization, axis=1) ** (-outputs / 2)
    value = outputs / 2 * nbeta * x / (localization + nbeta * x)
    sums.append((weight.sum(), (weight * value.sum(axis=1)).sum()))
  total, weighted = np.array(sums).T
  mean = weighted.sum() / total.sum()
  spread = np.std(weighted - mean * total, ddof=1)
  return mean, spread * np.sqrt(20) / total.sum()


class AtZeroTest(parameterized.TestCase):
  @parameterized.parameters(
    ((2, 2, 2), (1.4769, 1.3563, 0.7467)),
    ((5, 3, 5), (6.3226, 5.9847, 4.0089)),
    ((4, 4, 4), (5.9344, 5.6043, 3.6639)),
  )
  def test_values_at_localizations_1_10_100(self, widths, expected):
    """The numbers are of this implementation, which other tests check."""
    values = [
      two_layer_linear.at_zero(widths, types.Posterior(1e4, localization))
      for localization in (1.0, 10.0, 100.0)
    ]
    np.testing.assert_allclose(values, expected, atol=6e-5)

  @parameterized.parameters(
    # The number of eigenvalues is the first number, then the second.
    ((1, 3, 2),),  # 1 2
    ((2, 3, 4),),  # 2 3
    ((3, 4, 5),),  # 3 4
    ((5, 2, 1),),  # 2 1
    ((5, 3, 2),),  # 3 2
    ((4, 5, 6),),  # 4 5
  )
  def test_integrating_out_either_layer_gives_the_same_value(self, widths):
    """K is the same transposed, but the densities and Pfaffians differ.

    The sizes share no number of eigenvalues, so a chain of equalities leads
    from each to the single eigenvalue. The step size's bias agrees, too.
    """
    for localization, step_size in ((100.0, 2e-5), (10.0, 1e-5), (10.0, 0.0)):
      posterior = types.Posterior(1e4, localization)
      values = [
        two_layer_linear.at_zero(each, posterior, step_size)
        for each in (widths, widths[::-1])
      ]
      # 1e-6: the grid's own error, which falls with its square.
      np.testing.assert_allclose(values[0], values[1], rtol=1e-6)

  def test_one_weight_a_layer_agrees_with_a_crossing(self):
    """K = a^2 b^2 / 2, by quadrature in the plane; the bias, too."""
    loss = toy.Polynomial((0.5,), ((2, 2),))
    for step_size in (0.0, 1e-4):
      posterior = types.Posterior(1e3, 10.0)
      self.assertAlmostEqual(
        two_layer_linear.at_zero((1, 1, 1), posterior, step_size),
        finite_temperature.polynomial(loss, posterior, step_size),
        6,
      )

  def test_widths_of_2_agree_with_a_sum_over_both_eigenvalues(self):
    """The density is that of the module's docstring, for 2 -> 2 -> 2."""
    nbeta, localization = 1e4, 10.0
    u = np.linspace(-45, 4, 1500)
    x = np.exp(u)
    log_weight = u / 2 - localization * x / 2 - np.log(localization + nbeta * x)
    density = np.exp(log_weight[:, None] + log_weight[None])
    density *= abs(x[:, None] - x[None])
    share = nbeta * x / (localization + nbeta * x)
    value = share[:, None] + share[None]
    expected = float(np.sum(density * value) / np.sum(density))
    actual = two_layer_linear.at_zero(
      (2, 2, 2), types.Posterior(nbeta, localization)
    )
    # |x - y| has a kink on the diagonal, which costs the sum its last digits.
    np.testing.assert_allclose(actual, expected, rtol=1e-4)

  @parameterized.parameters(((4, 4, 4),), ((5, 3, 5),), ((3, 5, 4),))
  def test_importance_sampling_agrees(self, widths):
    posterior = types.Posterior(1e4, 100.0)
    mean, error = by_importance(widths, posterior, 200_000)
    self.assertLess(error, 0.005 * mean)
    exact = two_layer_linear.at_zero(widths, posterior)
    self.assertLess(abs(exact - mean), 4 * error)

  def test_rescaled_settings_give_the_same_value(self):
    """K is of degree four: w -> 2 w is another n beta, gamma and epsilon."""
    values = [
      two_layer_linear.at_zero((4, 3, 4), types.Posterior(*posterior), step)
      for *posterior, step in ((1e4, 50.0, 4e-5), (16e4, 200.0, 1e-5))
    ]
    np.testing.assert_allclose(values[0], values[1], rtol=1e-8)

  @parameterized.parameters(((2, 2, 2),), ((4, 4, 4),), ((5, 3, 2),))
  def test_lambda_is_approached_from_below(self, widths):
    coefficient = learning_coefficients.reduced_rank_regression(*widths, rank=0)
    self.assertEqual(coefficient.multiplicity, 1)
    gaps = [
      coefficient.value
      - two_layer_linear.at_zero(widths, types.Posterior(nbeta, 1))
      for nbeta in (1e2, 1e4, 1e6)
    ]
    self.assertGreater(gaps[2], 0)
    self.assertLess(gaps[2], 0.003 * coefficient.value)
    self.assertGreater(gaps[0], 5 * gaps[1])

  def test_a_multiplicity_of_two_costs_a_logarithm(self):
    coefficient = learning_coefficients.reduced_rank_regression(5, 3, 5, rank=0)
    gaps = [
      coefficient.value
      - two_layer_linear.at_zero((5, 3, 5), types.Posterior(nbeta, 1.0))
      for nbeta in (1e8, 1e10)
    ]
    slope = (1 / gaps[1] - 1 / gaps[0]) / np.log(100.0)
    # The next terms, of 1 / ln^2, are a few percent here.
    self.assertAlmostEqual(1 / slope, coefficient.multiplicity - 1, delta=0.1)

  @parameterized.parameters(
    ((2, 2, 2), (1e4, 0.0), 0.0, 'must be positive.*no bound'),
    ((2, 0, 2), (1e4, 1.0), 0.0, 'must be positive'),
    ((8, 8, 8), (1e8, 1.0), 0.0, 'digits are lost'),
    ((4, 4, 4), (1e4, 1.0), 2e-5, 'under 5 % of the value'),
  )
  def test_arguments_without_a_value_are_refused(
    self, widths, posterior, step_size, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      two_layer_linear.at_zero(widths, types.Posterior(*posterior), step_size)


if __name__ == '__main__':
  absltest.main()
