"""The response to n beta on problems whose energies are Gamma variables."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

import rllc_jax
from rllc_jax.data import minibatches
from rllc_jax.refinement import weights
from rllc_jax.truth import regression

LENS = weights.all_weights()


def sample(loss_fn, center, batches, **settings):
  """Traces of all weights of a problem."""
  return rllc_jax.estimate_trajectory(
    jax.random.key(0),
    rllc_jax.Refinements(
      ('all',), LENS, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, LENS)
    ),
    rllc_jax.Trajectory((0,), lambda steps: jnp.stack([center] * len(steps))),
    {'data': minibatches.whole(batches.data)},
    batches,
    rllc_jax.Sampling(**settings),
    layout=rllc_jax.Layout(chunk_size=settings['num_chains']),
  )


def response(traces):
  result = rllc_jax.nbeta_response(traces).squeeze()
  return {name: float(result[name]) for name in result.data_vars}


class ResponseTest(absltest.TestCase):
  def test_gamma(self):
    """n beta (x^2 + y^4) is Gamma(1/2) + Gamma(1/4): mean and variance 3/4."""
    result = response(
      sample(
        lambda w, batch: w[0] ** 2 + w[1] ** 4,
        jnp.zeros(2),
        rllc_jax.full(jnp.zeros(1)),
        nbeta=100.0,
        localization=0.0,
        step_size=1e-3,
        num_chains=256,
        num_draws=4000,
        burn_in=2000,
      )
    )
    error = result['heat_capacity_error']
    self.assertLess(error, 0.02)
    self.assertLess(abs(result['heat_capacity'] - 0.75), 4 * error)
    self.assertLess(result['response_error'], 0.02)
    self.assertLess(abs(result['response']), 4 * result['response_error'])

  def test_a_localized_bowl(self):
    """1/2 sum K^2 and 1/2 sum K (1 - K), K = n beta h / (n beta h + gamma)."""
    h = np.array([0.3, 1.0, 3.0])
    result = response(
      sample(
        lambda w, batch: 0.5 * jnp.sum(jnp.asarray(h, jnp.float32) * w**2),
        jnp.zeros(3),
        rllc_jax.full(jnp.zeros(1)),
        nbeta=100.0,
        localization=100.0,
        step_size=5e-3,
        num_chains=64,
        num_draws=4000,
      )
    )
    K = 100 * h / (100 * h + 100)
    for name, expected in (
      ('heat_capacity', 0.5 * np.sum(K**2)),
      ('response', 0.5 * np.sum(K * (1 - K))),
    ):
      error = result[f'{name}_error']
      self.assertLess(error, 0.02 * expected + 0.005)
      self.assertLess(abs(result[name] - expected), 4 * error)

  def test_minibatches_are_refused(self):
    """Their losses would give a variance thirty times too large."""
    points = regression.draw_points(0, 200, 10, noise=0.5)
    center = jnp.asarray(regression.minimum(points), jnp.float32)
    settings = dict(nbeta=100.0, localization=50.0, step_size=5e-3)
    settings |= dict(num_chains=4, num_draws=2000)
    with self.assertRaisesRegex(ValueError, r'all data.*rllc_jax.full'):
      batches = rllc_jax.uniform(points, 8)
      response(sample(regression.loss, center, batches, **settings))
    result = response(
      sample(regression.loss, center, rllc_jax.full(points), **settings)
    )
    x = np.asarray(points.inputs, float)
    h = np.linalg.eigvalsh(x.T @ x / len(x))
    expected = 0.5 * np.sum((100 * h / (100 * h + 50)) ** 2)
    error = result['heat_capacity_error']
    self.assertLess(error, 0.1 * expected)
    self.assertLess(abs(result['heat_capacity'] - expected), 4 * error)


if __name__ == '__main__':
  absltest.main()
