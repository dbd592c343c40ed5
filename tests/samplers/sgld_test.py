"""SGLD, and the kernels that are SGLD; its stationary law is in the battery."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import program
from rllc_jax.estimators import rllc
from rllc_jax.samplers import mala
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sghmc
from rllc_jax.samplers import sgld
from tests.samplers import chain

SCALES = preconditioners.fixed('scales', lambda u: jnp.linspace(0.5, 1.5, 12))


class SameChainTest(absltest.TestCase):
  def test_kernels_that_reduce_to_sgld_equal_it_to_the_bit(self):
    """200 steps of a tanh regression with a fresh minibatch at each."""
    draw = np.random.default_rng(0).normal
    batches = draw(size=(200, 4, 13)).astype(np.float32)

    def potential_at(batch):
      x, y = batch[:, :12], batch[:, 12]
      loss = lambda u: jnp.mean((jnp.tanh(x @ u) - y) ** 2)
      return types.Potential(loss, lambda u: 25.0 * u @ u, 30.0)

    def run(sampler):
      steps = lambda key: chain.run(
        sampler, potential_at, jnp.zeros(12), jnp.float32(1e-2), key, batches
      )
      return jax.jit(steps)(jax.random.key(0))

    expected, expected_info = run(sgld.sgld(preconditioner=SCALES))
    for sampler in (
      sghmc.sghmc(1.0, SCALES),
      mala.sgld_with_mala_acceptance(SCALES),
    ):
      with self.subTest(sampler.name):
        states, info = run(sampler)
        np.testing.assert_array_equal(states.position, expected.position)
        for name in ('correction', 'loss_correction', 'noise_gain'):
          np.testing.assert_allclose(
            getattr(info, name), getattr(expected_info, name), rtol=1e-5
          )


class EquilibriumTest(absltest.TestCase):
  def test_a_spreading_chain_has_a_low_equilibrium_ratio(self):
    """Started at its center, a chain needs 1 / (eps a) steps to spread."""
    estimate = rllc.estimate_llc(
      jax.random.key(0),
      lambda u, batch: 0.0 * jnp.sum(u),
      jnp.zeros(50),
      jnp.zeros(1),
      nbeta=100.0,
      localization=1.0,
      step_size=1e-3,
      batch_size=1,
      num_chains=64,
      num_draws=30,
      burn_in=0,
      chunk_size=64,
    )
    self.assertLess(estimate.equilibrium_ratio, 0.1)


@pytest.mark.filterwarnings('ignore:Estimates by sgld.noise_scale')
class NoiseOffTest(absltest.TestCase):
  def test_without_noise_a_chain_is_gradient_descent(self):
    """Step by step, in a float64 loop on a hand-differentiated regression.

    loss = mean (x.w + c - y)^2 over the minibatch; its gradient by hand is
    2 mean (x.w + c - y) (x, 1). The minibatches are drawn again from their
    addresses: stream of the run, data set, step.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    data = {'x': x.astype(np.float32), 'y': y.astype(np.float32)}
    w, c = rng.normal(size=3), 0.5
    nbeta, gamma, eps, steps = 20.0, 5.0, 1e-2, 100

    def loss_fn(params, batch):
      error = batch['x'] @ params['w'] + params['c'] - batch['y']
      return jnp.mean(error**2)

    params = {'w': jnp.asarray(w, jnp.float32), 'c': jnp.float32(c)}
    with jax.default_matmul_precision('highest'):
      estimate = rllc.estimate_llc(
        jax.random.key(7),
        loss_fn,
        params,
        data,
        nbeta=nbeta,
        localization=gamma,
        step_size=eps,
        batch_size=4,
        num_chains=1,
        num_draws=steps,
        burn_in=0,
        sampler=sgld.sgld(noise_scale=0.0),
      )
    batches = minibatches.uniform(jnp.arange(50), 4)
    window = types.Window(0, 50)
    row = program.make_rows(
      jax.random.key(7), {'a': jnp.zeros(1)}, [(0, 'data')], [window]
    )
    u, center = np.array([*w, c]), np.array([*w, c])
    for step in range(steps):
      key = jax.random.fold_in(row.batch_key[0], step)
      rows = np.asarray(batches.draw(key, step, batches.data, window))
      design = np.concatenate([data['x'][rows], np.ones((4, 1))], axis=1)
      error = design @ u - data['y'][rows]
      np.testing.assert_allclose(
        estimate.traces['loss'][0, step], np.mean(error**2), rtol=1e-5
      )
      gradient = nbeta * 2 * design.T @ error / 4 + gamma * (u - center)
      u = u - eps / 2 * gradient


if __name__ == '__main__':
  absltest.main()
