"""What every sampler must get right. A new sampler is a new row of SAMPLERS."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import program
from rllc_jax.estimators import rllc
from rllc_jax.samplers import sgld

# name: (sampler, stationary variance along a direction of curvature a)
SAMPLERS = {'sgld': (sgld.sgld(), lambda a, eps: 1 / (a * (1 - eps * a / 4)))}


def estimate(loss, center, *, nbeta=100.0, localization=0.0, **options):
  """The LLC of a loss that needs no data and is 0 at `center`."""
  options = {
    'step_size': 1e-3,
    'num_chains': 64,
    'num_draws': 20_000,
    'burn_in': 2_000,
    'chunk_size': 64,
  } | options
  return rllc.estimate_llc(
    jax.random.key(0),
    lambda u, batch: loss(u),
    center,
    jnp.zeros(1),
    nbeta=nbeta,
    localization=localization,
    batch_size=1,
    **options,
  )


class SamplerTest(parameterized.TestCase):
  @parameterized.product(
    name=tuple(SAMPLERS), localization=(0.0, 50.0), step_size=(1e-3, 1e-2)
  )
  def test_bowl(self, name, localization, step_size):
    """In a bowl E[nbeta l] is 1/2 sum nbeta h v, step-size bias included.

    The expected value holds every bias, so only Monte Carlo error is left. The
    first assertion keeps the test sharp: a chain that mixes badly has a large
    standard error and fails there.
    """
    sampler, variance = SAMPLERS[name]
    h, nbeta = np.array([0.5, 1.0, 2.0], np.float32), 100.0
    found = estimate(
      lambda u: 0.5 * jnp.sum(h * u**2),
      jnp.zeros(3),
      nbeta=nbeta,
      localization=localization,
      step_size=step_size,
      sampler=sampler,
    )
    v = variance(nbeta * h + localization, step_size)
    expected = 0.5 * np.sum(nbeta * h * v)
    with self.subTest('sharp'):
      self.assertLess(found.standard_error, 0.01 * expected)
    with self.subTest('right'):
      error = abs(found.llc - expected)
      self.assertLess(error, 4 * found.standard_error)
    with self.subTest('in equilibrium'):
      # The same 64 x 20,000 draws: a standard error of about 0.3 %.
      np.testing.assert_allclose(found.equilibrium_ratio, 1, atol=0.015)

  @parameterized.product(
    name=tuple(SAMPLERS),
    case=(
      ('quartic', lambda u: u['a'] ** 4, 1 / 4),
      ('flat_direction', lambda u: 0.1 * u['a'] ** 2, 1 / 2),
      ('cusp', lambda u: 0.1 * u['a'] ** 2 + u['b'] ** 4, 1 / 2 + 1 / 4),
      ('coupled_leaves', lambda u: 0.05 * (u['a'] - u['b']) ** 2, 1 / 2),
    ),
  )
  def test_singular_loss(self, name, case):
    """If l(s^a_i u_i) = s l(u) then E[nbeta l] = sum a_i at every nbeta."""
    _, loss, learning_coefficient = case
    center = {'a': jnp.zeros([]), 'b': jnp.zeros([])}
    found = estimate(loss, center, sampler=SAMPLERS[name][0])
    # 1.5% step-size bias (eps a / 4 at the curvature visited), 1.5% noise.
    np.testing.assert_allclose(found.llc, learning_coefficient, rtol=0.03)

  def test_a_well_that_is_not_reached_yet_shows_in_the_ratio(self):
    """Started at its center, a chain needs 1 / (eps a) steps to spread."""
    options = {'num_draws': 30, 'burn_in': 0, 'localization': 1.0}
    found = estimate(lambda u: jnp.zeros([]), jnp.zeros(50), **options)
    self.assertLess(found.equilibrium_ratio, 0.1)


@pytest.mark.filterwarnings('ignore:Estimates by sgld.noise_scale')
class NoiseOffTest(absltest.TestCase):
  def test_a_chain_is_gradient_descent(self):
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
      found = rllc.estimate_llc(
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
        found.traces['loss'][0, step], np.mean(error**2), rtol=1e-5
      )
      gradient = nbeta * 2 * design.T @ error / 4 + gamma * (u - center)
      u = u - eps / 2 * gradient


if __name__ == '__main__':
  absltest.main()
