"""MALA's acceptance, on its own and recorded by SGLD."""

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


class DensityTest(parameterized.TestCase):
  @parameterized.parameters('acceptance', 'mala_acceptance')
  def test_acceptance_is_the_ratio_of_densities(self, name):
    """q and U written out, at steps so large that each term matters."""
    eps, G = 0.5, np.array([0.5, 1.0, 2.0])
    fixed = preconditioners.fixed('three', lambda u: jnp.float32(G))
    kernel = mala.mala(fixed)
    if name == 'mala_acceptance':
      kernel = mala.sgld_with_mala_acceptance(fixed)
    potential = types.Potential(
      lambda u: jnp.sum(jnp.log(jnp.cosh(u))), lambda u: u @ u, 3.0
    )
    U = lambda u: 3 * np.sum(np.log(np.cosh(u))) + u @ u
    slope = lambda u: 3 * np.tanh(u) + 2 * u
    mean = lambda u: u - eps / 2 * G * slope(u)
    log_q = lambda to, at: stats.norm.logpdf(
      to, mean(at), np.sqrt(eps * G)
    ).sum()

    @jax.jit
    def step(key, u):
      state = kernel.init(u)
      _, info = kernel.step(key, state, potential, jnp.float32(eps))
      return info.recorded[name]

    rng = np.random.default_rng(0)
    logs, expected = [], []
    for i in range(20):
      u, key = rng.normal(size=3), jax.random.key(i)
      logs.append(step(jax.random.key(i), jnp.float32(u)))
      if name == 'acceptance':
        key, _ = jax.random.split(key)
      new = mean(u) + np.sqrt(eps * G) * np.asarray(jax.random.normal(key, 3))
      log_ratio = U(u) - U(new) + log_q(u, new) - log_q(new, u)
      expected.append(np.exp(min(log_ratio, 0)))
    np.testing.assert_allclose(logs, expected, rtol=1e-4)
    self.assertBetween(np.mean(np.array(expected) < 1), 0.2, 0.8)


class AcceptanceTest(parameterized.TestCase):
  """At eps a = 0.1, where an estimate by SGLD is 2.5 % off at any d.

  The formulas are asymptotic in d. Means over 1,000 correlated steps, whose
  standard deviations are up to 0.3.
  """

  def test_acceptance_of_mala_falls_with_dimension(self):
    mean = acceptance(mala.mala(), 'acceptance', dimension=10_000, eps_a=0.1)
    expected = 2 * stats.norm.cdf(-(0.1**1.5) * 100 / 8)
    self.assertAlmostEqual(expected, 0.693, places=3)
    self.assertAlmostEqual(float(mean), expected, delta=0.04)

  def test_acceptance_of_mala_at_the_center_has_its_closed_form(self):
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

  def test_acceptance_of_sgld_tends_to_one_half(self):
    watched = mala.sgld_with_mala_acceptance()
    mean = acceptance(watched, 'mala_acceptance', dimension=10_000, eps_a=0.1)
    s = 0.1**1.5 * 100 / 4 / np.sqrt(1 - 0.1 / 4)
    expected = 0.5 + np.exp(s**2 / 2) * stats.norm.cdf(-s)
    self.assertAlmostEqual(float(mean), expected, delta=0.03)

  def test_minibatch_noise_raises_the_acceptance(self):
    watched = mala.sgld_with_mala_acceptance()
    mean = acceptance(
      watched, 'mala_acceptance', dimension=10_000, eps_a=0.1, noise=1.0
    )
    self.assertGreater(mean, 0.999)

  def test_names_hold_the_recorded_acceptance(self):
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
