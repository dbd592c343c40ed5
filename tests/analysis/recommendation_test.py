"""Sweeps made by hand, whose recommendation is known, and one of a bowl."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax.analysis import calibration
from rllc_jax.analysis import recommendation

STEPS = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
NBETAS, CELLS = (10.0, 30.0), ('0:0', '0:1', '1:0')
# What `faults` reads of a healthy cell.
HEALTHY = {
  'num_chains': 4,
  'num_failed': 0,
  'num_draws': 250,
  'num_kept': 200,
  'equilibrium_ratio': 1.0,
  'equilibrium_ratio_error': 0.001,
  'rhat': 1.01,
  'ess': 300.0,
  'halves_difference': 0.5,
  'step_bias': 0.1,
  'step_bias_error': 0.0,
  'step_bias_share': 0.02,
  'loss_rounding': 1e-5,
  'failure_kind': 0,
}


def hand_made():
  """A sweep that qualifies up to 4e-3; then estimates grow by 10 % a step."""
  llc = 5 * np.array([1, 1.01, 1.02, 1.12, 1.23])[:, None, None, None]
  shape = (5, 2, 1, 3)
  values = HEALTHY | {'llc': 0.0, 'standard_error': 0.05, 'healthy': True}
  dims = (*calibration.GRID_DIMS, 'refinement')
  sweep = xr.Dataset(
    {name: (dims, np.full(shape, value)) for name, value in values.items()},
    dict(zip(dims, map(list, (STEPS, NBETAS, (200.0,), CELLS)), strict=True)),
    {'sampler': 'sgld', 'baseline': 'paired'},
  )
  sweep['llc'] = sweep.llc + llc
  sweep['high'] = sweep.llc + 2.4 * sweep.standard_error
  sweep['verdict'] = xr.where(sweep.healthy, 'healthy', '').astype(object)
  return sweep


def with_value(name, value, **where):
  """The sweep with one variable changed at some coordinates."""
  sweep = hand_made()
  sweep[name].loc[where] = value
  return sweep


class RecommendTest(parameterized.TestCase):
  def test_the_largest_step_size_that_qualifies_is_recommended(self):
    best = recommendation.recommend(hand_made())
    self.assertEqual(best.setting.step_size, 4e-3)
    np.testing.assert_array_equal(best.step_sizes, np.full((2, 1), 4e-3))
    np.testing.assert_array_equal(best.each, np.full((2, 1, 3), 4e-3))
    self.assertEqual(best.warnings, ())
    self.assertIn('all cells are healthy', best.why)
    self.assertIn('At 0.008 3 of 3 cells have a bias over 5 %.', best.why)

  @parameterized.parameters(
    ('healthy', False, 'At 0.004 1 of 3 cells is not healthy.'),
    # 3 % of 5.1 is 0.153.
    ('standard_error', 0.154, 'At 0.004 1 of 3 cells has an error over 3 %.'),
    # 2 (5.18 - 5.05) / (10.1 - 5.18) = 5.3 %.
    ('llc', 5.18, 'At 0.004 1 of 3 cells has a bias over 5 %.'),
    ('llc', 4.91, 'At 0.004 1 of 3 cells has a bias over 5 %.'),  # Or less.
  )
  def test_each_criterion_alone_stops_a_step(self, name, value, why):
    """For its own cell and for all together; just below the limit it does not.

    A change from half the step size of 2.6 % is a bias of 5.3 %.
    """
    place = {'step_size': 4e-3, 'refinement': '0:1'}
    best = recommendation.recommend(with_value(name, value, **place))
    self.assertEqual(best.setting.step_size, 2e-3)
    self.assertIn(why, best.why)
    each = best.each.isel(nbeta=0, localization=0)
    np.testing.assert_array_equal(each, [4e-3, 2e-3, 4e-3])

  @parameterized.parameters(('standard_error', 0.152), ('llc', 5.165))
  def test_values_just_below_the_limits_qualify(self, name, value):
    place = {'step_size': 4e-3, 'refinement': '0:1'}
    best = recommendation.recommend(with_value(name, value, **place))
    self.assertEqual(best.setting.step_size, 4e-3)

  def test_the_smallest_step_size_never_qualifies(self):
    sweep = hand_made().isel(step_size=slice(2))
    self.assertEqual(recommendation.recommend(sweep).setting.step_size, 2e-3)
    sweep['healthy'][1] = False
    self.assertIsNone(recommendation.recommend(sweep).setting)

  def test_a_missing_estimate_at_half_the_step_disqualifies(self):
    best = recommendation.recommend(with_value('llc', np.nan, step_size=2e-3))
    self.assertIsNone(best.setting)

  def test_among_nbetas_the_smallest_errors_decide(self):
    sweep = with_value('standard_error', 0.02, nbeta=30.0)
    best = recommendation.recommend(sweep)
    self.assertEqual(best.setting.nbeta, 30.0)
    self.assertIn('At 2 pairs of nbeta and localization this step', best.why)
    sweep = with_value('standard_error', 0.02, nbeta=10.0)
    self.assertEqual(recommendation.recommend(sweep).setting.nbeta, 10.0)
    sweep['healthy'].loc[{'nbeta': 10.0, 'step_size': 4e-3}] = False
    best = recommendation.recommend(sweep)
    self.assertEqual(best.setting, (4e-3, 30.0, 200.0))
    self.assertNotIn('pairs', best.why)
    np.testing.assert_array_equal(best.step_sizes[:, 0], [2e-3, 4e-3])

  def test_selections_and_order_do_not_change_the_recommendation(self):
    sweep = with_value('healthy', False, step_size=4e-3, refinement='0:1')
    full = recommendation.recommend(sweep)
    self.assertEqual(full.setting.step_size, 2e-3)
    for name, expected in (('0:0', 4e-3), ('0:1', 2e-3)):
      single = recommendation.recommend(sweep.sel(refinement=name, nbeta=30.0))
      self.assertEqual(single.setting, (expected, 30.0, 200.0))
      self.assertIn('the cell is healthy', single.why)
    mixed = sweep.transpose(..., 'step_size').isel(
      step_size=[3, 0, 4, 1, 2], nbeta=[1, 0]
    )
    self.assertEqual(recommendation.recommend(mixed).setting, full.setting)

  def test_several_checkpoints_are_cells_too(self):
    unhealthy = with_value('healthy', False, step_size=4e-3, refinement='0:1')
    joined = xr.concat([hand_made(), unhealthy], 'checkpoint').assign_coords(
      checkpoint=[0, 8]
    )
    best = recommendation.recommend(joined)
    self.assertEqual(best.setting.step_size, 2e-3)
    self.assertIn('At 0.004 1 of 6 cells is not healthy.', best.why)
    self.assertEqual(float(best.each.sel(checkpoint=8).min()), 2e-3)
    self.assertEqual(float(best.each.sel(checkpoint=0).min()), 4e-3)

  def test_step_sizes_must_double(self):
    with self.assertRaisesRegex(ValueError, 'each twice the one before'):
      recommendation.recommend(hand_made().isel(step_size=[0, 1, 3]))
    with self.assertRaisesRegex(ValueError, 'at least two step sizes'):
      recommendation.recommend(hand_made().sel(step_size=1e-3))


class NoneQualifiesTest(absltest.TestCase):
  def test_the_worst_fault_is_named_if_health_is_missing(self):
    sweep = hand_made()
    sweep['healthy'][:] = False
    sweep['ess'][:] = 30.0
    sweep['ess'][3, 1, 0, 2] = 9.0
    best = recommendation.recommend(sweep)
    self.assertIsNone(best.setting)
    self.assertTrue(best.step_sizes.isnull().all())
    self.assertRegex(
      best.why,
      'all 3 cells. Most often missing, in 24 of 24 cases, is health: at the '
      'worst ESS is 9, under 2.5 a chain, .*: raise burn_in or num_draws',
    )

  def test_a_caller_s_verdict_without_fault_is_named(self):
    sweep = hand_made()
    sweep['healthy'][:] = False
    self.assertIn('is health: no diag', recommendation.recommend(sweep).why)

  def test_more_draws_are_advised_if_precision_is_missing(self):
    """At 6 % where nothing else is missing, it takes 4 times as many draws."""
    sweep = hand_made()
    sweep['standard_error'] = 0.06 * sweep.llc
    sweep['standard_error'][3:] = 0.04 * sweep.llc[3:]
    self.assertRegex(
      recommendation.recommend(sweep).why,
      'is a standard error under 3 %: take more draws, 4 times as many to '
      'bring the smallest, 6 %, down to 3 %',
    )

  def test_smaller_steps_are_advised_if_all_are_biased(self):
    best = recommendation.recommend(hand_made().isel(step_size=slice(2, None)))
    self.assertRegex(
      best.why, "is a step's bias under 5 %.*smaller.*0.002 next"
    )

  def test_one_unhealthy_cell_prevents_a_setting(self):
    sweep = with_value('healthy', False, refinement='1:0')
    sweep['rhat'].loc[{'refinement': '1:0'}] = 1.3
    best = recommendation.recommend(sweep)
    self.assertIsNone(best.setting)
    self.assertIn('all 3 cells; 2 would have one alone', best.why)


class WarningTest(parameterized.TestCase):
  @parameterized.parameters(
    (240.0, 0, 'none'),
    (260.0, 1, 'is 1: along.*chains are too wide by the factor 1 / .1 - 1 / 4'),
    (700.0, 2, 'largest curvature is 2.8: along'),
    (800.0, 2, 'is 3.2, near the limit of 4: along'),
  )
  def test_a_step_that_is_large_for_the_curvature_warns(
    self, a, count, message
  ):
    """Over 1, and near 4 from 3 on, at the step recommended, 4e-3."""
    sweep = hand_made()
    curvature = np.full((2, 1, 3), 1.0)
    curvature[:, 0, 1] = a  # The steepest cell counts.
    sweep['curvature'] = (sweep.llc.dims[1:], curvature)
    sweep = sweep.isel(step_size=slice(4 if a < 300 else 5))
    best = recommendation.recommend(sweep)
    self.assertLen(best.warnings, count)
    self.assertRegex(' '.join(best.warnings) or 'none', message)
    if count == 2:  # 8e-3 a > 3 at 8e-3 and 1.6e-2, of two nbetas.
      first = {700.0: ' 4 of 10.*step size 0.008', 800.0: ' 6 of 10.*0.004'}
      self.assertRegex(best.warnings[1], first[a])

  def test_other_samplers_have_no_curvature_warning(self):
    sweep = hand_made()
    sweep['curvature'] = (sweep.llc.dims[1:], np.full((2, 1, 3), 800.0))
    self.assertLen(recommendation.recommend(sweep).warnings, 2)
    sweep.attrs['sampler'] = 'sgld+mala_acceptance'
    self.assertLen(recommendation.recommend(sweep).warnings, 2)
    sweep.attrs['sampler'] = 'sghmc'
    self.assertEqual(recommendation.recommend(sweep).warnings, ())


class BowlTest(absltest.TestCase):
  def test_the_recommended_step_agrees_with_the_closed_form(self):
    """In a round bowl the estimate grows as 1 / (1 - x/4), x = epsilon a.

    So it is too high by 3.1 % at x = 0.12 and by 6.4 % at 0.24, where it
    changes by 3.2 % from half the step: 0.12 it is. Errors are under 1.2 %, and
    chains of all steps share their noise.
    """
    nbeta, gamma = 80.0, 20.0
    steps = np.array([0.06, 0.12, 0.24, 0.48]) / (nbeta + gamma)
    sweep = calibration.calibrate_llc(
      jax.random.key(2),
      lambda w, batch: 0.5 * jnp.sum(w**2),
      jnp.zeros(400),
      jnp.zeros(1),
      step_sizes=steps,
      nbetas=[nbeta],
      localizations=[gamma],
      batch_size=1,
      sampler='sgld',
      num_chains=8,
      num_draws=1500,
      chunk_size=4,
    )
    best = recommendation.recommend(sweep)
    np.testing.assert_allclose(best.setting.step_size, steps[1])
    self.assertLess(float((sweep.standard_error / sweep.llc).max()), 0.006)
    x = sweep.step_size * sweep.curvature
    at_step, at_half = 1 / (1 - x / 4), 1 / (1 - x / 8)
    expected = 2 * (at_step - at_half) / (2 * at_half - at_step)
    bias = recommendation.relative_bias(sweep)
    np.testing.assert_allclose(
      bias[1:], expected.transpose(*bias.dims)[1:], atol=0.015
    )
    # Predicted from what the chains of one step size saw, and exactly here.
    np.testing.assert_allclose(
      sweep.step_bias_share, (at_step - 1).transpose(*bias.dims), rtol=0.02
    )


if __name__ == '__main__':
  absltest.main()
