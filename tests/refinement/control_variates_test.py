"""Control variates at the checkpoint: exact where a loss is quadratic."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import llc
from rllc_jax.refinement import control_variates
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld
from tests.estimators import toy


def sample(family, trajectory, **changes):
  options = {'num_draws': 400, 'burn_in': None, 'num_baseline_batches': 0}
  return toy.run(
    refinements=family,
    trajectory=trajectory,
    datasets={'text': toy.DATASETS['text']},
    **{**options, **changes},
  )


def anchored(trajectory, loss_fn=toy.loss_fn, batch_size=7):
  window = toy.DATASETS['text']
  return control_variates.anchored(
    trajectory, loss_fn, toy.data(), window, batch_size=batch_size
  )


@functools.cache
def plain():
  return sample(toy.family(0, 1, 2), toy.trajectory(toy.STEPS[:1]))


@functools.cache
def corrected(in_drift):
  family = control_variates.control_variates(
    toy.family(0, 1, 2), toy.loss_fn, in_drift=in_drift
  )
  return sample(family, anchored(toy.trajectory(toy.STEPS[:1])))


class ControlVariatesTest(parameterized.TestCase):
  def test_the_chains_are_those_of_plain_sgld(self):
    """Only the recorded loss changes; the drift does not."""
    traces = corrected(in_drift=False)
    for name in ('squared_distance', 'squared_gradient', 'center_loss'):
      np.testing.assert_allclose(traces[name], plain()[name], rtol=2e-4)
    self.assertGreater(float(abs(traces.loss - plain().loss).max()), 1e-3)

  @parameterized.parameters(False, True)
  def test_the_estimate_has_the_same_mean_and_a_smaller_error(self, in_drift):
    """The same expectation: the difference is noise of the plain estimate.

    In the drift it is another law at finite step size, whose distance from the
    plain one, of the order of eps, is far below these errors.
    """
    usual = llc.llc_from_traces(plain())
    estimate = llc.llc_from_traces(corrected(in_drift))
    error = np.hypot(usual.standard_error, estimate.standard_error)
    np.testing.assert_array_less(abs(estimate.llc - usual.llc), 4 * error)
    gain = (usual.standard_error / estimate.standard_error) ** 2
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
      traces = sample(
        family, anchored(step, loss_fn), sampler=noiseless, num_draws=100
      )
    measured = (traces.loss - traces.center_loss).transpose('draw', ...).values
    u, g = np.zeros(3), np.asarray(data)[:40].mean(axis=0, dtype=np.float64)
    for draw in range(100):
      expected = 0.5 * u @ u + u @ g
      np.testing.assert_allclose(measured[draw], expected, atol=1e-6)
      u = u - 0.5e-3 * (30 * (u + g) + 50 * u)


gradient = jax.jit(jax.grad(toy.loss_fn))


class FullGradientTest(parameterized.TestCase):
  @parameterized.parameters(1, 7, 24, 64)
  def test_any_batch_size_gives_the_gradient_of_the_mean(self, batch_size):
    params, window = toy.checkpoint(0), toy.DATASETS['code']
    full = control_variates.full_gradient(
      toy.loss_fn, params, toy.data(), window, batch_size=batch_size
    )
    expected = gradient(params, toy.data()[40:64])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      full,
      expected,
    )

  def test_a_checkpoint_s_gradient_is_computed_once(self):
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
