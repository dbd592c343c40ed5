"""The bias of SGNHT, and its dependence on the step size."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax.estimators import rllc
from rllc_jax.samplers import sgnht


def bowl(u, batch):
  return 0.5 * jnp.sum(u**2)


@pytest.mark.filterwarnings('ignore:Estimates by sgnht')
class BiasTest(absltest.TestCase):
  def test_the_bias_is_halved_when_the_step_falls_4_fold(self):
    """Too low by A sqrt(eps / 8), to first order, and by nothing else.

    To second order the share is (1 - sqrt(1 - 2x)) / 2 with x the friction
    that balances the noise over 1 - eps a / 8: 3 % more at the largest step.
    """
    biases = []
    for step_size in (3.2e-3, 8e-4, 2e-4):
      estimate = rllc.estimate_llc(
        jax.random.key(0),
        bowl,
        jnp.zeros(40),
        jnp.zeros(1),
        nbeta=100.0,
        localization=0.0,
        step_size=step_size,
        batch_size=1,
        num_chains=128,
        num_draws=3_000,
        burn_in=800,
        chunk_size=128,
        sampler=sgnht.sgnht(diffusion=3.0),
      )
      bias, standard_error = 1 - estimate.llc / 20, estimate.standard_error / 20
      x = 3.0 * np.sqrt(step_size / 2) / (1 - step_size * 100 / 8)
      expected = (1 - np.sqrt(1 - 2 * x)) / 2
      self.assertLess(standard_error, 0.1 * expected)
      self.assertLess(abs(bias - expected), 4 * standard_error)
      biases.append(bias)
    np.testing.assert_allclose(np.divide(biases[:-1], biases[1:]), 2, rtol=0.2)


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(0.0, -1.0, float('nan'))
  def test_diffusion_that_is_not_positive_is_refused(self, diffusion):
    with self.assertRaisesRegex(ValueError, f'positive.*got {diffusion}'):
      sgnht.sgnht(diffusion)

  def test_settings_are_in_the_name(self):
    self.assertEqual(sgnht.sgnht(0.5).name, 'sgnht(diffusion=0.5)')


if __name__ == '__main__':
  absltest.main()
