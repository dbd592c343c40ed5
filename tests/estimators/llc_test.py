"""From hand-made traces to the numbers that they must give."""

import functools
import pathlib
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from scipy import stats

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import llc
from rllc_jax.results import disk
from rllc_jax.results import store as stores
from rllc_jax.results import traces as tables
from rllc_jax.samplers import sgld
from tests.estimators import toy

EXTENT = stores.Extent((0, 8), ('text',), ('0:0', '0:1', '0:2'), 2, 40)
IDENTITY = {
  'nbeta': 30.0,
  'localization': 200.0,
  'step_size': 1e-3,
  'num_steps_between_draws': 1,
  'num_coordinates': {'0:0': 7, '0:1': 7, '0:2': 7},
}


def hand_made():
  """Losses over [checkpoint 2, data 1, refinement 3, chain 2, draw 40]."""
  rng = np.random.default_rng(0)
  sizes = tables.sizes(EXTENT)
  center = np.broadcast_to(rng.normal(size=sizes[-1]), sizes)
  arrays = {
    'loss': center + 0.1 * rng.normal(size=sizes),
    'center_loss': center,
    'squared_distance': rng.uniform(size=sizes) / 1e3,
    'virial': 7 + rng.normal(size=sizes),
    'squared_gradient': 100 + rng.normal(size=sizes),
    'recorded': np.full(sizes[:4], 40, np.int32),
    'baseline_loss': rng.normal(size=(*sizes[:3], 16)),
  }
  return tables.dataset_of(arrays, IDENTITY, EXTENT)


class LlcTest(parameterized.TestCase):
  def test_axes_factor_and_burn_in(self):
    """A shape test: every cell against its own mean, no two alike."""
    traces = hand_made()
    result = llc.llc_from_traces(traces, burn_in=10)
    expected = 30 * (traces.loss - traces.center_loss).isel(
      draw=slice(10, None)
    )
    expected = expected.mean(('chain', 'draw'))
    np.testing.assert_allclose(result.llc, expected, rtol=1e-6)
    self.assertEqual(result.llc.dims, ('checkpoint', 'dataset', 'refinement'))
    self.assertLen(np.unique(result.llc), 6)

  def test_equilibrium_ratio(self):
    traces = hand_made()
    result = llc.llc_from_traces(traces, burn_in=10).equilibrium_ratio
    expected = (
      traces.virial.isel(draw=slice(10, None)).mean(('chain', 'draw')) / 7
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6)

  def test_burn_in_counts_steps_not_draws(self):
    traces = hand_made()
    apart = traces.assign_coords(draw=traces.draw * 5)
    apart.attrs['num_steps_between_draws'] = 5
    a = llc.llc_from_traces(traces, burn_in=4)
    b = llc.llc_from_traces(apart, burn_in=20)
    np.testing.assert_array_equal(a.llc, b.llc)

  def test_the_default_burn_in_must_leave_enough(self):
    with self.assertRaisesRegex(ValueError, 'At least 24 draws.*got 0'):
      llc.llc_from_traces(hand_made())  # 10 / (1e-3 x 200) = 50 steps.

  def test_corpus_baseline(self):
    """Another reference, and its error in quadrature."""
    traces = hand_made()
    result = llc.llc_from_traces(traces, baseline='corpus', burn_in=0)
    loss = traces.loss.mean(('chain', 'draw'))
    expected = 30 * (loss - traces.baseline_loss.mean('baseline_batch'))
    np.testing.assert_allclose(result.llc, expected, rtol=1e-5)
    own = 30 * traces.baseline_loss.std('baseline_batch', ddof=1) / 4
    series = 30 * traces.loss.mean('chain').values
    alone = llc.errors.mean_with_error(series).standard_error
    np.testing.assert_allclose(
      result.standard_error, np.sqrt(alone**2 + own**2), rtol=1e-5
    )

  def test_a_trace_that_is_missing_is_named(self):
    with self.assertRaisesRegex(ValueError, 'got none of virial.*again'):
      llc.llc_from_traces(hand_made().drop_vars('virial'), burn_in=0)

  def test_corpus_interval_has_the_degrees_of_freedom_of_both_errors(self):
    """Welch and Satterthwaite: 7 if the draws' error rules, M - 1 if not."""
    traces = hand_made()
    M = traces.sizes['baseline_batch']
    wild, calm = traces.copy(), traces.copy()
    wild['baseline_loss'] = 1e4 * traces.baseline_loss
    calm['baseline_loss'] = 1e-4 * traces.baseline_loss
    for case, degrees in ((wild, M - 1), (calm, 7)):
      result = llc.llc_from_traces(case, baseline='corpus', burn_in=0)
      half = (result.high - result.llc) / result.standard_error
      np.testing.assert_allclose(half, stats.t.ppf(0.975, degrees), rtol=1e-3)

  def test_devinterp_baseline(self):
    """By loops: all 40 draws, the first 32 minibatches, the chains' spread."""
    traces = hand_made()
    # Minibatches of their own, too: then devinterp averages over chains.
    own = np.random.default_rng(1).normal(size=traces.loss.shape)
    traces['center_loss'] = traces.center_loss.copy(data=own)
    result = llc.llc_from_traces(traces, baseline='devinterp')
    for k in range(2):
      for r in range(3):
        loss, center = (
          traces[name].values[k, 0, r] for name in ('loss', 'center_loss')
        )
        baseline = sum(center[c][i] for c in range(2) for i in range(32)) / 64
        chains = [30 * (sum(loss[c]) / 40 - baseline) for c in range(2)]
        mean, spread = sum(chains) / 2, abs(chains[0] - chains[1])
        cell = result.isel(checkpoint=k, dataset=0, refinement=r)
        np.testing.assert_allclose(cell.llc, mean, rtol=1e-12)
        # Of two numbers: deviation |a - b| / sqrt 2 with divisor 1, over
        # sqrt 2; Student's t at 97.5 % and 1 degree of freedom is 12.7062.
        np.testing.assert_allclose(cell.standard_error, spread / 2, rtol=1e-12)
        half = 12.7062 * spread / 2
        np.testing.assert_allclose(cell.high - mean, half, rtol=1e-5)
        np.testing.assert_allclose(mean - cell.low, half, rtol=1e-5)

  def test_one_chain_has_no_spread_for_devinterp(self):
    traces = hand_made().isel(chain=[0])
    result = llc.llc_from_traces(traces, baseline='devinterp')
    self.assertTrue(np.isfinite(result.llc).all())
    self.assertTrue(np.isnan(result.standard_error).all())

  def test_devinterp_leaves_out_failed_chains_not_their_rest(self):
    """devinterp itself averages what a chain recorded before it failed."""
    traces = hand_made()
    traces.loss[1, 0, 2, 1, 33] = np.nan
    result = llc.llc_from_traces(traces, baseline='devinterp')
    alone = llc.llc_from_traces(traces.isel(chain=[0]), baseline='devinterp')
    np.testing.assert_array_equal(result.llc[1, 0, 2], alone.llc[1, 0, 2])

  @parameterized.parameters(
    (slice(None), 10, 'burn_in must not be given.*got 10'),
    (slice(31), None, 'at least 32 draws.*got 31'),
    (slice(4, None), None, 'begin at step 4'),
  )
  def test_devinterp_reads_whole_runs_alone(self, draws, burn_in, message):
    traces = hand_made().isel(draw=draws)
    with self.assertRaisesRegex(ValueError, message):
      llc.llc_from_traces(traces, baseline='devinterp', burn_in=burn_in)

  def test_a_cell_too_short_for_devinterp_is_missing(self):
    traces = hand_made()
    traces.recorded[0, 0, 1] = 31
    traces.loss[0, 0, 1, :, 31:] = np.nan
    result = llc.llc_from_traces(traces, baseline='devinterp')
    missing = np.argwhere(np.isnan(result.llc.values))
    np.testing.assert_array_equal(missing, [[0, 0, 1]])

  def test_an_unknown_baseline_is_refused(self):
    with self.assertRaisesRegex(ValueError, "one of .*'paired'.*got 'init'"):
      llc.llc_from_traces(hand_made(), baseline='init', burn_in=0)

  def test_failed_chains_are_named_and_left_out(self):
    traces = hand_made()
    traces.loss[1, 0, 2, 1, 33] = np.nan
    result = llc.llc_from_traces(traces, burn_in=0)
    self.assertEqual(int(result.num_failed.sum()), 1)
    self.assertTrue(result.failed[1, 0, 2, 1])
    left = 30 * (traces.loss - traces.center_loss)[1, 0, 2, 0].mean()
    np.testing.assert_allclose(result.llc[1, 0, 2], left, rtol=1e-6)
    self.assertTrue(np.isfinite(result.llc).all())

  def test_what_is_not_done_is_missing_not_failed(self):
    traces = hand_made()
    traces.recorded[0, 0, 1] = 12
    traces.loss[0, 0, 1, :, 12:] = np.nan
    result = llc.llc_from_traces(traces, burn_in=0)
    missing = np.argwhere(np.isnan(result.llc.values))
    np.testing.assert_array_equal(missing, [[0, 0, 1]])
    self.assertEqual(int(result.num_failed.sum()), 0)
    self.assertEqual(result.num_draws.values[0, 0].tolist(), [40, 12, 40])

  def test_a_cell_is_read_from_its_longest_chains(self):
    """While more chains, or more draws of some cells, are on their way."""
    traces = hand_made()
    traces.recorded[0, 0, 1] = [40, 3]
    traces.loss[0, 0, 1, 1, 3:] = np.nan
    traces.recorded[1, 0, 0] = 30
    traces.loss[1, 0, 0, :, 30:] = np.nan
    result = llc.llc_from_traces(traces, burn_in=0)
    paired = 30 * (traces.loss - traces.center_loss)
    np.testing.assert_allclose(
      result.llc[0, 0, 1], paired[0, 0, 1, 0].mean(), rtol=1e-6
    )
    np.testing.assert_allclose(
      result.llc[1, 0, 0], paired[1, 0, 0, :, :30].mean(), rtol=1e-6
    )
    self.assertEqual(int(result.num_failed.sum()), 0)

  def test_a_selection_of_draws_or_of_one_head_is_read(self):
    traces = hand_made()
    whole = llc.llc_from_traces(traces, burn_in=10)
    late = llc.llc_from_traces(traces.isel(draw=slice(10, None)), burn_in=0)
    np.testing.assert_array_equal(late.llc, whole.llc)
    one = llc.llc_from_traces(traces.sel(refinement='0:1'), burn_in=10)
    np.testing.assert_array_equal(
      one.llc.squeeze(), whole.llc.sel(refinement='0:1').squeeze()
    )

  def test_nbeta_0_needs_a_factor(self):
    traces = hand_made().assign_attrs(nbeta=0.0)
    with self.assertRaisesRegex(ValueError, 'estimator_nbeta must be given'):
      llc.llc_from_traces(traces, burn_in=0)
    result = llc.llc_from_traces(traces, burn_in=0, estimator_nbeta=30.0)
    expected = llc.llc_from_traces(hand_made(), burn_in=0)
    np.testing.assert_array_equal(result.llc, expected.llc)

  def test_counts(self):
    traces = hand_made()
    traces.recorded[0, 0, 1] = [40, 3]  # A second chain is on its way.
    traces.recorded[0, 0, 2] = 0
    traces.squared_distance[1, 0, 0, 0, 0] = 1e9  # In the burn-in, too.
    result = llc.llc_from_traces(traces, burn_in=10)
    count = lambda name: result[name].values[:, 0].tolist()
    self.assertEqual(count('num_chains'), [[2, 1, 0], [2, 2, 2]])
    self.assertEqual(count('num_draws'), [[40, 40, 0], [40, 40, 40]])
    self.assertEqual(count('num_kept'), [[30, 30, 0], [30, 30, 30]])
    self.assertEqual(count('num_failed'), [[0, 0, 0], [1, 0, 0]])

  def test_diagnostics_are_of_kept_draws_of_each_cell(self):
    traces = hand_made()
    result = llc.llc_from_traces(traces, burn_in=10)
    late = traces.isel(draw=slice(10, None))
    both = ('chain', 'draw')
    np.testing.assert_allclose(
      result.distance, np.sqrt(late.squared_distance.mean(both)), rtol=1e-6
    )
    np.testing.assert_allclose(
      result.drift_to_noise, 1e-3 * late.squared_gradient.mean(both) / 28
    )
    np.testing.assert_allclose(
      result.negative_share, (late.loss < late.center_loss).mean(both)
    )
    self.assertTrue(np.isnan(result.halves_difference).all())  # 30 < 48 draws.
    self.assertNotIn('mala_acceptance', result)

  def test_mixing_is_seen(self):
    """Chains that sit at different heights do not mix."""
    traces = hand_made()
    apart = np.arange(2.0)[:, None]
    traces['loss'] = traces.loss.copy(data=traces.loss.values + apart)
    result = llc.llc_from_traces(traces, burn_in=0)
    self.assertGreater(float(result.rhat.min()), 1.5)


class ContrastTest(absltest.TestCase):
  def test_what_two_sides_share_cancels(self):
    traces = hand_made()
    shared = 5 * np.random.default_rng(1).normal(size=40)
    traces['loss'] = traces.loss.copy(data=traces.loss.values + shared)
    result = llc.contrast(
      traces, {'refinement': '0:2'}, {'refinement': '0:1'}, burn_in=0
    )
    each = llc.llc_from_traces(traces, burn_in=0)
    expected = each.llc.sel(refinement='0:2') - each.llc.sel(refinement='0:1')
    np.testing.assert_allclose(result.llc, expected, rtol=1e-4)
    self.assertLess(
      float(result.standard_error.max()), 0.1 * float(each.standard_error.min())
    )

  def test_combinations_of_draws_have_the_errors_of_estimates(self):
    traces = hand_made()
    draws = llc.by_draw(traces, burn_in=10)
    whole, each = llc.of_draws(draws), llc.llc_from_traces(traces, burn_in=10)
    for name in ('llc', 'standard_error', 'low', 'high'):
      np.testing.assert_allclose(whole[name], each[name], rtol=1e-6)
    sides = [{'refinement': '0:0'}, {'refinement': '0:1'}]
    difference = draws.sel(refinement='0:0') - draws.sel(refinement='0:1')
    result = llc.of_draws(difference)
    expected = llc.contrast(traces, *sides, burn_in=10)
    for name in expected:
      np.testing.assert_allclose(result[name], expected[name], rtol=1e-9)
    # A mean of three independent heads has a third of the variance.
    mean = llc.of_draws(draws.mean('refinement')).standard_error
    ratio = mean / np.sqrt((each.standard_error**2).mean('refinement') / 3)
    self.assertBetween(float(ratio.mean()), 0.6, 1.5)

  def test_sides_must_choose_in_the_same_dims(self):
    with self.assertRaisesRegex(ValueError, 'same dims'):
      llc.contrast(hand_made(), {'refinement': '0:0'}, {'checkpoint': 0})


class RoutesTest(absltest.TestCase):
  def test_one_checkpoint_alone_is_the_trajectory_read(self):
    """estimate_rllc and estimate_trajectory share program and errors."""
    traces = toy.run(
      trajectory=toy.trajectory((0,)), datasets={'data': types.Window(0, 64)}
    )
    read = llc.llc_from_traces(traces, burn_in=6).isel(checkpoint=0, dataset=0)
    result = toy.estimate(
      jax.random.key(0),
      toy.family(0, 1, 2),
      toy.checkpoint(0),
      minibatches.uniform(toy.data(), 4),
      nbeta=30.0,
      localization=50.0,
      step_size=1e-3,
      num_chains=2,
      num_draws=24,
      burn_in=6,
    )
    for name in ('llc', 'standard_error', 'low', 'high', 'equilibrium_ratio'):
      np.testing.assert_allclose(getattr(result, name), read[name], rtol=1e-4)
    self.assertFalse(result.failed.any())


@functools.cache
def recording_sgld():
  """SGLD with something in the place of an acceptance."""
  plain = sgld.sgld()

  def step(rng_key, state, potential, step_size):
    new, info = plain.step(rng_key, state, potential, step_size)
    return new, info._replace(recorded={'mala_acceptance': 0.25 * info.loss})

  return plain._replace(step=step)


class RecordedTest(absltest.TestCase):
  def test_what_a_kernel_records_is_stored_read_and_averaged(self):
    """A run begun without goes on with it: missing at first, no NaN later."""
    path = pathlib.Path(tempfile.mkdtemp()) / 'store'
    options = {'trajectory': toy.trajectory((0,)), 'num_chains': 1}
    toy.run(**options, sampler='sgld', store=disk.open_store(path))
    toy.run(
      **options,
      num_draws=40,
      sampler=recording_sgld(),
      store=disk.open_store(path),
    )
    traces = disk.open_store(path).read()
    for name in ('mala_acceptance', 'loss'):
      self.assertEqual(traces[name].dims, tables.DIMS)
    self.assertTrue(np.isnan(traces.mala_acceptance[..., :30]).all())
    expected = 0.25 * traces.loss[..., 30:].mean(('chain', 'draw'))
    result = llc.llc_from_traces(traces, burn_in=6)
    np.testing.assert_allclose(result.mala_acceptance, expected, rtol=1e-5)


if __name__ == '__main__':
  absltest.main()
