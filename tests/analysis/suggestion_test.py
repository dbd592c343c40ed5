"""Suggestions on regressions, whose spectrum and whose chains are known."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

import rllc_jax
from rllc_jax.data import minibatches
from rllc_jax.refinement import weights
from rllc_jax.truth import regression

LENS = weights.all_weights()
FAMILY = rllc_jax.Refinements(
  ('all',), LENS, jnp.zeros(1, jnp.int32), weights.refine(regression.loss, LENS)
)


def points(num_coordinates=20):
  """Weights whose curvatures span a factor of 100."""
  drawn = regression.draw_points(0, 400, num_coordinates, noise=0.75)
  scales = np.geomspace(1, 0.1, num_coordinates).astype(np.float32)
  scaled = drawn.inputs * scales
  change = scaled.sum(axis=1) - drawn.inputs.sum(axis=1)
  return regression.Points(scaled, drawn.targets + change)


POINTS = points()
CENTER = jnp.asarray(regression.minimum(POINTS), jnp.float32)
H = np.linalg.eigvalsh(
  np.float64(POINTS.inputs.T) @ np.float64(POINTS.inputs) / len(POINTS.inputs)
)


def suggest(batch_size, **options):
  batches = rllc_jax.uniform(POINTS, batch_size)
  return rllc_jax.suggest(
    jax.random.key(0),
    FAMILY,
    rllc_jax.Trajectory((0,), lambda steps: CENTER[None]),
    minibatches.whole(batches.data),
    batches,
    **{'nbeta': 100.0, 'localization': 20.0, 'num_batches': 64} | options,
  )


class SuggestTest(absltest.TestCase):
  def test_a_run_finds_what_was_predicted(self):
    """Draws within a factor of 2, hence errors within its root."""
    for batch_size in (8, 128):
      with self.subTest(batch_size=batch_size):
        result = suggest(batch_size, relative_error=0.04)
        sampling = result.sampling
        estimate = rllc_jax.estimate_llc(
          jax.random.key(1),
          regression.loss,
          CENTER,
          POINTS,
          nbeta=100.0,
          localization=20.0,
          step_size=sampling.step_size,
          num_chains=sampling.num_chains,
          num_draws=sampling.num_draws,
          batch_size=batch_size,
        )
        each = result.each.squeeze()
        truth = 0.5 * np.sum(100 * H / (100 * H + 20))
        # From 64 draws: an error of 5 %.
        np.testing.assert_allclose(each.llc, truth, rtol=0.15)
        np.testing.assert_allclose(each.curvature, H.max(), rtol=0.15)
        self.assertTrue(estimate.healthy, str(estimate.verdict))
        error = estimate.standard_error / estimate.llc / 0.04
        self.assertBetween(error, 1 / np.sqrt(2), np.sqrt(2))
        self.assertLessEqual(float(each.step_bias_share), 0.02)
        bias = regression.stationary_llc(
          POINTS,
          sampling.posterior,
          sampling.step_size,
          batch_size,
          'leimkuhler_matthews',
        )
        self.assertLess(abs(bias / truth - 1), 0.04)

  def test_small_batches_bound_the_step(self):
    small, large = suggest(4), suggest(2000, num_batches=4)
    self.assertLess(small.sampling.step_size, large.sampling.step_size)
    self.assertIn('Minibatch noise bounds', small.why)
    self.assertIn('over the largest curvature', large.why)
    product = large.sampling.step_size * (100 * H.max() + 20)
    np.testing.assert_allclose(product, 2, rtol=0.1)

  def test_the_localization_is_scaled_by_the_curvature(self):
    result = suggest(400, localization=None, num_batches=8)
    np.testing.assert_allclose(
      result.sampling.localization, 100 * H.max() / 10, rtol=0.1
    )
    sampling = result.sampling
    rate = sampling.step_size * sampling.localization
    np.testing.assert_allclose(result.relaxation, 2 / rate)

  def test_a_flat_loss_needs_a_localization(self):
    flat = lambda w, batch: 0.0 * jnp.sum(w)
    family = FAMILY._replace(loss=weights.refine(flat, LENS))
    batches = rllc_jax.full(jnp.zeros(1))
    arguments = (
      jax.random.key(0),
      family,
      rllc_jax.Trajectory((0,), lambda steps: CENTER[None]),
      minibatches.whole(batches.data),
      batches,
    )
    with self.assertRaisesRegex(ValueError, 'localization must be given'):
      rllc_jax.suggest(*arguments, nbeta=10.0)
    result = rllc_jax.suggest(*arguments, nbeta=10.0, localization=5.0)
    self.assertEqual(float(result.each.llc.squeeze()), 0)


if __name__ == '__main__':
  absltest.main()
