"""The bias of Leimkuhler and Matthews where the battery does not look."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.samplers import leimkuhler_matthews
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sgld
from tests.samplers import chain

LM = leimkuhler_matthews.leimkuhler_matthews()


def _moments(sampler, loss, step_size, dimension=20_000):
  """E[u^2] and E[u^4] over many independent coordinates."""
  potential = types.Potential(loss, lambda u: 0.0 * u.sum(), 1.0)

  def run(key):
    state, _ = chain.run(
      sampler,
      lambda _: potential,
      jnp.zeros(dimension),
      jnp.float32(step_size),
      key,
      jnp.zeros(600),
    )
    u = state.position[100:]
    return (u**2).mean(), (u**4).mean()

  return jax.jit(run)(jax.random.key(0))


class BiasTest(parameterized.TestCase):
  @parameterized.parameters(
    (LM, 0.4, 0.020), (LM, 0.2, 0.003), (sgld.sgld(), 0.1, 0.058)
  )
  def test_quartic(self, sampler, step_size, bias):
    """E[u^4] is 1 at density exp(-u^4 / 4); Monte Carlo errors are .002."""
    _, fourth = _moments(sampler, lambda u: jnp.sum(u**4) / 4, step_size)
    self.assertAlmostEqual(float(fourth) - 1, bias, delta=0.006)

  @parameterized.parameters(1.0, 3.0, 3.8)
  def test_a_bowl_is_exact_at_every_stable_step(self, step_size):
    """The autocorrelation of a step, 1 - eps a / 2, is .5, -.5 and -.9."""
    second, fourth = _moments(LM, lambda u: u @ u / 2, step_size)
    self.assertAlmostEqual(float(second), 1, delta=0.005)
    self.assertAlmostEqual(float(fourth), 3, delta=0.04)

  def test_a_preconditioner_that_follows_is_told(self):
    follows = leimkuhler_matthews.leimkuhler_matthews(preconditioners.rmsprop())
    self.assertIn('follows the gradients', follows.bias)
    state = follows.init(jnp.ones(2))
    bowl = types.Potential(lambda u: u @ u / 2, lambda u: 0.0 * u @ u, 1.0)
    _, info = follows.step(jax.random.key(0), state, bowl, jnp.float32(0.1))
    self.assertTrue(np.isnan(info.loss_correction))


if __name__ == '__main__':
  absltest.main()
