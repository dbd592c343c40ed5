"""Failures and diagnostics: by hand, and on a bowl where all are known."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors
from rllc_jax.estimators import rllc


class FailureTest(absltest.TestCase):
  def traces(self):
    """Two refinements of 3 chains and 4 draws, nothing wrong."""
    ones = np.ones((2, 3, 4))
    names = ('loss', 'center_loss', 'squared_distance', 'squared_gradient')
    return {name: ones.copy() for name in names}

  def test_why_a_chain_failed(self):
    """Gradients that grow without bound are the step's doing, others not."""
    traces = self.traces()
    traces['squared_gradient'][0, 0] = [1, 1e3, 1e9, 1e30]
    traces['squared_gradient'][0, 1] = [9e9, 4e9, 1e9, 1e3]
    traces['loss'][0, 1] = [1, 0.5, 0, -1]
    traces['squared_gradient'][0, 2] = [1, 1, np.nan, np.nan]
    traces['loss'][0, 2] = [1, -9, np.nan, np.nan]
    traces['center_loss'][1, 0, 3] = np.inf
    traces['loss'][1, 2] = 5  # Noise: nothing grows and nothing falls.
    failed = np.array([[True, True, True], [True, False, True]])
    result = diagnostics.failure_kinds(traces, failed)
    named = [[diagnostics.FAILURES[kind] for kind in row] for row in result]
    self.assertEqual(named, [['step', 'far', 'step'], ['loss', '', 'step']])

  def test_where_no_step_size_helps_none_is_advised(self):
    """A checkpoint up a slope, and one whose loss is infinite on some data."""
    options = {'nbeta': 100.0, 'localization': 10.0, 'step_size': 1e-3}
    options |= {'num_draws': 100, 'burn_in': 0}
    slope = lambda w, batch: jnp.sum(w) + 0 * jnp.sum(batch)
    with self.assertRaisesRegex(ValueError, 'later checkpoint, lower nbeta'):
      rllc.estimate_llc(
        jax.random.key(0), slope, jnp.zeros(2), jnp.zeros(1), batch_size=1,
        **options,
      )  # fmt: skip
    log = lambda w, batch: jnp.sum(w**2) + jnp.log(batch).mean()
    data = jnp.ones(50).at[7].set(0.0)
    with self.assertRaisesRegex(ValueError, 'NaN in the data'):
      rllc.estimate_llc(
        jax.random.key(0), log, jnp.zeros(2), data, batch_size=5, **options
      )

  def test_what_is_not_finite_or_far_has_failed(self):
    traces = self.traces()
    traces['loss'][0, 1, 2] = np.nan
    traces['squared_gradient'][1, 0, 3] = np.inf
    # (10 d + 50) / (gamma (1 - eps gamma / 4)) = 100 / (5 x 0.875) = 22.86.
    traces['squared_distance'][1, 2, 0] = 22.9
    traces['squared_distance'][0, 0, 0] = 22.8
    failed = diagnostics.failed_chains(traces, np.array([5, 5]), 5.0, 0.1)
    np.testing.assert_array_equal(
      failed, [[False, True, False], [True, False, True]]
    )

  def test_without_localization_no_distance_is_too_far(self):
    traces = self.traces()
    traces['squared_distance'][:] = 1e9
    traces['squared_distance'][0, 0, 0] = np.inf
    failed = diagnostics.failed_chains(traces, np.array([5, 5]), 0.0, 0.1)
    np.testing.assert_array_equal(np.argwhere(failed), [[0, 0]])

  def test_the_mean_is_over_chains_that_did_not_fail(self):
    trace = np.arange(6.0).reshape(3, 2)  # 3 chains, 2 draws.
    failed = np.array([False, True, False])
    result = diagnostics.cross_chain_mean(trace, failed)
    np.testing.assert_array_equal(result, [2.0, 3.0])
    none = diagnostics.cross_chain_mean(trace, np.ones(3, bool))
    self.assertTrue(np.isnan(none).all())


def unstable(failed):
  """Traces of chains whose step is too large."""
  growing = np.broadcast_to(np.exp(np.arange(4.0)), (*np.shape(failed), 4))
  names = ('squared_gradient', 'center_loss', 'loss')
  return {name: growing for name in names}


class WarningTest(parameterized.TestCase):
  @parameterized.parameters(
    ([[0, 1, 0, 1], [0, 0, 0, 0]], r'the rest says: 0:0 \(1, 3 of 4\)\. Lower'),
    (
      [[0, 0, 1, 0], [1, 1, 1, 1]],
      r'0:0 \(2 of 4\); 0:1 \(all 4 chains\)\. Lower step_size or raise loc',
    ),
  )
  def test_failed_chains_are_named(self, failed, message):
    with self.assertWarnsRegex(UserWarning, message):
      diagnostics.warn_of_failures(
        ['0:0', '0:1'], np.array(failed, bool), unstable(failed)
      )

  def test_no_failure_no_warning(self):
    none = np.zeros((2, 4), bool)
    diagnostics.warn_of_failures(['0:0', '0:1'], none, unstable(none))

  def test_all_of_all_is_an_error_that_names_the_knob(self):
    with self.assertRaisesRegex(ValueError, '8 of 8.*Lower step_size'):
      every = np.ones((2, 4), bool)
      diagnostics.warn_of_failures(['0:0', '0:1'], every, unstable(every))

  def test_chains_that_escape_by_chance(self):
    """A well with a rim: over it, the quartic falls without end.

    Chains differ in their noise alone; those that stay give the number.
    """
    rim = lambda w, batch: jnp.sum(w**2 / 2 - w**4 / 4)
    options = {
      'nbeta': 10.0,
      'localization': 1.0,
      'step_size': 0.02,
      'batch_size': 1,
      'num_chains': 8,
      'num_draws': 200,
      'burn_in': 0,
    }
    key, data = jax.random.key(0), jnp.zeros(1)
    with self.assertWarnsRegex(UserWarning, r'Chains failed.*all \(.* of 8\)'):
      result = rllc.estimate_llc(key, rim, jnp.zeros(1), data, **options)
    self.assertBetween(result.failed.sum(), 1, 7)
    finite = np.isfinite(result.traces['loss']).all(axis=-1)
    np.testing.assert_array_equal(result.failed, ~finite)
    paired = result.traces['loss'] - result.traces['center_loss']
    expected = 10 * paired[~result.failed].mean()
    np.testing.assert_allclose(result.llc, expected, rtol=1e-5)
    with self.assertRaisesRegex(ValueError, 'Lower step_size'):
      rllc.estimate_llc(
        key, rim, jnp.full(1, 2.0), data, **{**options, 'num_chains': 2}
      )


SETTINGS = dict(step_size=0.1, nbeta=30.0, localization=0.0)


def hand_made(**changes):
  """A cell of two chains and 48 draws."""
  rng = np.random.default_rng(0)
  names = ('loss', 'center_loss', 'virial')
  names += ('squared_distance', 'squared_gradient')
  traces = {name: rng.normal(size=(2, 48)) ** 2 for name in names}
  return {'last_place': np.full((2, 48), 1e-7), **traces, **changes}


class CellTest(absltest.TestCase):
  def test_by_hand(self):
    loss = np.ones((2, 48))
    loss[0, :6] = [3, 3, 3, 2, 2, 0]  # Less 2: one of 96 is 0, 91 are below.
    result = diagnostics.of_cell(
      hand_made(
        loss=loss,
        center_loss=np.full((2, 48), 2.0),
        squared_distance=np.repeat([[4.0], [14.0]], 48, axis=1),
        squared_gradient=np.repeat([[100.0], [300.0]], 48, axis=1),
        virial=np.full((2, 48), 6.0),
      ),
      num_coordinates=5,
      settings=SETTINGS,
      nbeta=30.0,
    )
    self.assertEqual(result['negative_share'], 91 / 96)
    self.assertEqual(result['distance'], 3)  # Root of the mean, 9.
    self.assertAlmostEqual(result['drift_to_noise'], 0.1 * 200 / 20)
    self.assertEqual(result['equilibrium_ratio'], 6 / 5)
    self.assertEqual(result['equilibrium_ratio_error'], 0)
    self.assertTrue(
      np.isnan(result['step_bias'])
    )  # Nothing was recorded of it.
    self.assertAlmostEqual(result['loss_rounding'], 3e-6)

  def test_the_share_of_a_bias_is_of_the_rest_or_of_the_interval(self):
    mean = errors.Mean(*map(np.array, (5.0, 0.1, 4.8, 5.2)))
    share = diagnostics.step_bias_share(mean, 0.238)
    self.assertAlmostEqual(share, 0.238 / 4.762)
    self.assertAlmostEqual(
      diagnostics.step_bias_share(mean, -0.25), 0.25 / 5.25
    )
    near_0 = errors.Mean(*map(np.array, (0.01, 0.1, -0.19, 0.21)))
    self.assertAlmostEqual(diagnostics.step_bias_share(near_0, 0.01), 0.05)

  def test_halves_by_hand(self):
    """Each half 8 batches of 3 that stand at 0, ..., 7; see errors_test."""
    half = np.repeat(np.arange(8.0), 3)
    error = np.sqrt((2 * 18 - np.var(half, ddof=1)) / 24)
    middle = [1e9]  # Of an odd number of draws, in neither half.
    series = np.concatenate([half + 10, middle, half])
    result = diagnostics.halves_difference(series)
    np.testing.assert_allclose(result, 10 / (np.sqrt(2) * error), rtol=1e-12)
    self.assertTrue(np.isnan(diagnostics.halves_difference(series[:47])))
    # Of the cross-chain mean: what chains do not share averages out.
    own = np.random.default_rng(0).normal(size=49)
    cell = hand_made(
      loss=np.stack([series + own, series - own]), center_loss=np.zeros((2, 49))
    )
    result = diagnostics.of_cell(cell, 5, SETTINGS, 30.0)['halves_difference']
    np.testing.assert_allclose(result, 10 / (np.sqrt(2) * error), rtol=1e-7)

  def test_a_bowl(self):
    """d = 400 at nbeta + gamma = 2 and epsilon 0.5: epsilon a / 4 = 1 / 4.

    Squares of one coordinate decorrelate by 1/4 a step, so their mean over 400
    x 4 x 500 has a relative deviation of 0.0020; tolerances are four of those.
    """
    bowl = lambda w, batch: 0.5 * jnp.sum(w**2)
    estimate = rllc.estimate_llc(
      jax.random.key(0),
      bowl,
      jnp.zeros(400),
      jnp.zeros(1),
      nbeta=1.5,
      localization=0.5,
      step_size=0.5,
      sampler='sgld',
      batch_size=1,
      num_chains=4,
      num_draws=500,
    )
    late = {name: trace[:, 40:] for name, trace in estimate.traces.items()}
    late['last_place'] = np.spacing(abs(late['center_loss']))
    result = diagnostics.of_cell(
      late, 400, dict(step_size=0.5, nbeta=1.5, localization=0.5), 1.5
    )
    np.testing.assert_allclose(result['drift_to_noise'], 1 / 3, rtol=0.008)
    np.testing.assert_allclose(
      result['distance'] ** 2, 400 / (2 * 0.75), rtol=0.008
    )
    np.testing.assert_allclose(
      result['equilibrium_ratio'], 1, atol=4 * result['equilibrium_ratio_error']
    )
    self.assertLess(result['equilibrium_ratio_error'], 0.005)
    # d nbeta h / 2 a without it, times x / (1 - x) at x = 1/4.
    expected = 400 / 2 * (1.5 / 2) / 3
    np.testing.assert_allclose(result['step_bias'], expected, rtol=0.008)
    self.assertEqual(result['negative_share'], 0)
    self.assertLess(abs(result['halves_difference']), 3)
    # 4 x 500 draws whose autocorrelations are 4^-k: times (1 - r) / (1 + r).
    self.assertBetween(result['ess'] / 1200, 0.75, 1.25)  # 6 % at 1 deviation.
    self.assertLess(result['rhat'], 1.02)

  def test_acceptance_is_read_where_it_was_recorded(self):
    """NaN where a run had not yet begun to record it."""
    self.assertNotIn(
      'mala_acceptance', diagnostics.of_cell(hand_made(), 5, SETTINGS, 30.0)
    )
    acceptance = np.full((2, 48), np.nan)
    cell = hand_made(mala_acceptance=acceptance)
    self.assertNotIn(
      'mala_acceptance', diagnostics.of_cell(cell, 5, SETTINGS, 30.0)
    )
    acceptance[:, 40:] = [[0.5], [0.75]]
    result = diagnostics.of_cell(cell, 5, SETTINGS, 30.0)
    self.assertEqual(result['mala_acceptance'], 0.625)

  def test_one_chain_has_no_rhat_and_what_stands_has_nothing(self):
    two = diagnostics.mixing(np.random.default_rng(0).normal(size=(2, 200)))
    self.assertLess(two['rhat'], 1.05)
    one = diagnostics.mixing(np.random.default_rng(0).normal(size=(1, 200)))
    self.assertTrue(np.isnan(one['rhat']))
    self.assertGreater(one['ess'], 50)
    still = diagnostics.mixing(np.ones((2, 200)))
    self.assertTrue(np.isnan([still['rhat'], still['ess']]).all())


if __name__ == '__main__':
  absltest.main()
