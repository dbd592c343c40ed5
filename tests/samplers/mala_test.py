"""MALA's test, and what it says of SGLD. Its law is in the battery."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rllc_jax import types
from rllc_jax.samplers import mala
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import rmsprop_sgld
from tests.samplers import chain


def acceptance(sampler, name, *, dimension, eps_a, noise=0.0):
  """The mean in equilibrium over one long chain in a bowl of curvature 1.

  It starts in equilibrium, because MALA does not leave the center of 10,000
  dimensions by such steps.
  """
  start = jax.random.normal(jax.random.key(1), (dimension,))

  def potential_at(batch):
    shift = noise * jax.random.normal(jax.random.key(batch), (dimension,))
    return types.Potential(
      lambda u: 0.5 * u @ u + shift @ u, lambda u: 0.0 * u.sum(), 1.0
    )

  run = lambda key: chain.run(
    sampler, potential_at, start, jnp.float32(eps_a), key, jnp.arange(1_100)
  )[1].recorded[name]
  return jax.jit(run)(jax.random.key(0))[100:].mean()


class AcceptanceTest(parameterized.TestCase):
  """At eps a = 0.1, where an estimate by SGLD is 2.5 % off at any d.

  The formulas are asymptotic in d. Means over 1,000 correlated steps, whose
  standard deviations are up to 0.3.
  """

  @parameterized.parameters((100, 0.968), (10_000, 0.693))
  def test_mala(self, dimension, rounded):
    found = acceptance(
      mala.mala(), 'acceptance', dimension=dimension, eps_a=0.1
    )
    s = 0.1**1.5 * np.sqrt(dimension) / 4
    expected = 2 * stats.norm.cdf(-s / 2)
    self.assertAlmostEqual(expected, rounded, delta=0.001)
    self.assertAlmostEqual(float(found), expected, delta=0.04)

  def test_mala_at_the_center(self):
    """Every way leads up there."""
    bowl = lambda u: 0.5 * u @ u
    potential = types.Potential(bowl, lambda u: 0.0 * u.sum(), 1.0)
    state = mala.mala().init(jnp.zeros(10_000))
    _, info = mala.mala().step(
      jax.random.key(0), state, potential, jnp.float32(0.05)
    )
    # |u'|^2 / eps varies by 1.4 %.
    expected = np.exp(-(0.05**2) * 10_000 / 8)
    np.testing.assert_allclose(info.recorded['acceptance'], expected, rtol=0.2)

  def test_sgld_tends_to_one_half(self):
    watched = mala.sgld_with_mala_acceptance()
    found = acceptance(watched, 'mala_acceptance', dimension=10_000, eps_a=0.1)
    s = 0.1**1.5 * 100 / 4 / np.sqrt(1 - 0.1 / 4)
    expected = 0.5 + np.exp(s**2 / 2) * stats.norm.cdf(-s)
    self.assertAlmostEqual(float(found), expected, delta=0.03)

  def test_minibatch_noise_hides_it(self):
    watched = mala.sgld_with_mala_acceptance()
    found = acceptance(
      watched, 'mala_acceptance', dimension=10_000, eps_a=0.1, noise=1.0
    )
    self.assertGreater(found, 0.999)

  def test_names(self):
    rmsprop = preconditioners.rmsprop()
    watched = mala.sgld_with_mala_acceptance(rmsprop)
    self.assertEqual(
      watched.name, f'{rmsprop_sgld.rmsprop_sgld().name}+mala_acceptance'
    )
    self.assertEqual(watched.bias, rmsprop_sgld.rmsprop_sgld().bias)

  def test_a_proposal_that_is_not_a_number_is_refused(self):
    """Beyond 0.1 there is no loss; no chain is ever there."""
    wall = types.Potential(
      lambda u: jnp.where(jnp.abs(u) < 0.1, u**2, jnp.nan), lambda u: 0 * u, 1.0
    )
    states, infos = chain.run(
      mala.mala(),
      lambda _: wall,
      jnp.zeros([]),
      jnp.float32(0.01),
      jax.random.key(0),
      jnp.arange(200),
    )
    self.assertLess(float(jnp.abs(states.position).max()), 0.1)
    rate = infos.recorded['acceptance']
    self.assertTrue(bool(jnp.isfinite(rate).all()))
    self.assertGreater(float((rate == 0).mean()), 0.1)
    self.assertGreater(float((rate > 0.5).mean()), 0.1)


if __name__ == '__main__':
  absltest.main()
