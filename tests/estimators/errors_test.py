"""An error bar that covers, by hand and by simulation."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax.estimators import errors


def autoregression(rng, rho, runs, draws):
  """Stationary AR(1) series of innovation variance 1, [runs, draws]."""
  x = rng.standard_normal(runs) / np.sqrt(1 - rho**2)
  series = np.empty((runs, draws))
  for t in range(draws):
    series[:, t] = x
    x = rho * x + rng.standard_normal(runs)
  return series


class MeanTest(parameterized.TestCase):
  def test_by_hand(self):
    """24 draws: 8 batches of 3 against 24 of 1."""
    series = np.repeat(np.arange(8.0), 3)
    plain = 3 * np.var(np.arange(8.0), ddof=1)  # 3 x 6
    single = np.var(series, ddof=1)
    result = errors.mean_with_error(series)
    variance = 2 * plain - single
    np.testing.assert_allclose(result.standard_error, np.sqrt(variance / 24))
    self.assertEqual(result.value, 3.5)
    # Student's t at 97.5 % and 7 degrees of freedom, from any table.
    half = 2.364624 * np.sqrt(variance / 24)
    np.testing.assert_allclose(result.high - 3.5, half, rtol=1e-6)
    np.testing.assert_allclose(3.5 - result.low, half, rtol=1e-6)

  @parameterized.parameters(
    # Simulated with 20,000 runs: 0.951, 0.943, 0.933; 0.944 at 1,000 draws.
    (0.0, 200, 0.93),
    (0.8, 200, 0.92),
    (0.9, 200, 0.91),
    (0.95, 1000, 0.92),
  )
  def test_the_interval_covers(self, rho, draws, at_least):
    series = autoregression(np.random.default_rng(0), rho, 2000, draws)
    result = errors.mean_with_error(series)
    covered = np.mean((result.low < 0) & (result.high > 0))
    self.assertBetween(covered, at_least, 0.97)

  def test_the_error_is_that_of_the_mean(self):
    """For AR(1) the long-run variance is 1 / (1 - rho)^2 exactly."""
    series = autoregression(np.random.default_rng(1), 0.5, 400, 5000)
    result = errors.long_run_variance(series).mean()
    # 400 runs of 7 degrees of freedom: 3 % noise; lugsail adds up to 10 %.
    self.assertBetween(result, 4.0, 4.8)

  def test_too_few_draws_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'At least 24 draws.*got 23'):
      errors.mean_with_error(np.zeros(23))

  def test_chains_as_if_independent(self):
    result = errors.mean_of_chains(np.array([1.0, 2.0, 6.0]))
    self.assertEqual(result.value, 3.0)
    # Deviation sqrt((4 + 1 + 9) / 2) over sqrt 3; t at 2 degrees is 4.30265.
    np.testing.assert_allclose(result.standard_error, np.sqrt(7 / 3))
    np.testing.assert_allclose(
      result.high - 3, 4.30265 * np.sqrt(7 / 3), rtol=1e-5
    )

  @parameterized.parameters(
    (1e-3, 200.0, 50), (1e-4, 1e2, 1000), (1e-3, 3, 3334)
  )
  def test_default_burn_in(self, step_size, localization, steps):
    self.assertEqual(errors.default_burn_in(step_size, localization), steps)


if __name__ == '__main__':
  absltest.main()
