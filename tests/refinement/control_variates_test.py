"""Control variates at the checkpoint: exact where a loss is quadratic."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import llc
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.refinement import control_variates
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld
from tests.estimators import toy


def sample(family, trajectory, **changes):
  options = {
    'posterior': types.Posterior(30.0, 50.0),
    'step_size': 1e-3,
    'num_chains': 2,
    'num_draws': 400,
    'num_baseline_batches': 0,
  } | changes
  return trajectories.estimate_trajectory(
    jax.random.key(0),
    family,
    trajectory,
    {'text': toy.DATASETS['text']},
    minibatches.uniform(toy.data(), 4),
    **options,
  )


def anchored(trajectory, loss_fn=toy.loss_fn, batch_size=7):
  window = toy.DATASETS['text']
  return control_variates.anchored(
    trajectory, loss_fn, toy.data(), window, batch_size=batch_size
  )


class ControlVariatesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.family = toy.family(0, 1, 2)
    self.trajectory = toy.trajectory(toy.STEPS[:1])
    self.plain = sample(self.family, self.trajectory)

  def corrected(self, in_drift):
    family = control_variates.control_variates(
      self.family, toy.loss_fn, in_drift=in_drift
    )
    return sample(family, anchored(self.trajectory))

  def test_the_chains_are_those_of_plain_sgld(self):
    """Only what is recorded changes; the drift does not."""
    found = self.corrected(in_drift=False)
    for name in ('squared_distance', 'squared_gradient', 'center_loss'):
      np.testing.assert_allclose(found[name], self.plain[name], rtol=2e-4)
    self.assertGreater(float(abs(found.loss - self.plain.loss).max()), 1e-3)

  @parameterized.parameters(False, True)
  def test_the_estimate_is_the_same_and_sharper(self, in_drift):
    """The same expectation: the difference is noise of the plain estimate.

    In the drift it is another law at finite step size, whose distance from the
    plain one, of the order of eps, is far below these errors.
    """
    plain = llc.llc_from_traces(self.plain)
    found = llc.llc_from_traces(self.corrected(in_drift))
    error = np.hypot(plain.standard_error, found.standard_error)
    np.testing.assert_array_less(abs(found.llc - plain.llc), 4 * error)
    gain = (plain.standard_error / found.standard_error) ** 2
    # The linear part is most of the noise here: gains are above 10.
    self.assertGreater(float(np.exp(np.log(gain).mean())), 4)

  def test_a_quadratic_loss_is_left_without_linear_noise(self):
    """l_B = |w|^2/2 + w.x_B: corrected, the paired difference is |d|^2/2 + g.d.

    The corrected loss in the drift has no minibatch noise at all, so the chain
    is that of the full batch.
    """
    data = toy.data()
    loss_fn = lambda w, x: 0.5 * w @ w + w @ jnp.mean(x, axis=0)
    lens = weights.all_weights()
    family = types.Refinements(
      ('all',), lens, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, lens)
    )
    family = control_variates.control_variates(family, loss_fn, in_drift=True)
    step = types.Trajectory(
      (0,), lambda steps: np.zeros((len(steps), 3), np.float32)
    )
    noiseless = sgld.sgld(noise_scale=0.0)
    with self.assertWarnsRegex(UserWarning, 'biased'):
      found = sample(family, anchored(step, loss_fn), sampler=noiseless)
    u, g = np.zeros(3), np.asarray(data)[:40].mean(axis=0, dtype=np.float64)
    for draw in range(100):
      expected = 0.5 * u @ u + u @ g
      measured = found.loss - found.center_loss
      np.testing.assert_allclose(
        measured.isel(draw=draw).values.ravel(), expected, atol=1e-6
      )
      u = u - 0.5e-3 * (30 * (u + g) + 50 * u)


class FullGradientTest(parameterized.TestCase):
  @parameterized.parameters(1, 7, 24, 64)
  def test_any_batch_size_gives_the_gradient_of_the_mean(self, batch_size):
    params, window = toy.checkpoint(0), toy.DATASETS['code']
    found = control_variates.full_gradient(
      toy.loss_fn, params, toy.data(), window, batch_size=batch_size
    )
    expected = jax.grad(toy.loss_fn)(params, toy.data()[40:64])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      found,
      expected,
    )

  def test_a_checkpoint_is_passed_once(self):
    loaded = []
    counted = toy.trajectory(toy.STEPS[:2])
    trajectory = types.Trajectory(
      counted.steps, lambda steps: loaded.extend(steps) or counted.load(steps)
    )
    with_gradients = anchored(trajectory)
    first = with_gradients.load([0, 10])
    with_gradients.load([10, 0, 0])
    self.assertEqual(loaded, [0, 10])
    self.assertEqual(first.gradient['W'].shape, first.weights['W'].shape)


if __name__ == '__main__':
  absltest.main()
