"""Draws that a target error asks for, and the runs that take them."""

import dataclasses
import functools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax.estimators import grid
from rllc_jax.estimators import llc
from rllc_jax.estimators import settings
from rllc_jax.estimators import stops
from rllc_jax.results import disk
from tests.estimators import toy

BURN_IN = 10
MAX_DRAWS = 400
TARGET = 0.7  # Of estimates whose draws have long-run variances of 10 to 150.


def rule(target, max_draws=4096):
  sampling = settings.Sampling(
    nbeta=2.0,
    localization=50.0,
    step_size=1e-3,
    burn_in=BURN_IN,
    target_error=target,
    max_draws=max_draws,
  )
  return sampling.stop_rule


def traces(num_draws, *, mean=10.0, correlation=0.0, num_chains=2, seed=0):
  """Traces of AR(1) chains of variance 1 in the loss, so 4 in the estimate."""
  rng = np.random.default_rng(seed)
  noise = rng.normal(size=(num_chains, num_draws))
  loss = noise.copy()
  for i in range(1, num_draws):
    step = np.sqrt(1 - correlation**2) * noise[:, i]
    loss[:, i] = correlation * loss[:, i - 1] + step
  same = np.ones_like(loss)
  return {
    'loss': mean / 2 + loss,
    'center_loss': 0 * same,
    'squared_distance': same / 50,
    'squared_gradient': same,
  }


def cut(draws, count):
  return {name: trace[:, :count] for name, trace in draws.items()}


SAMPLING = settings.Sampling(
  nbeta=30.0,
  localization=50.0,
  step_size=1e-3,
  burn_in=BURN_IN,
  target_error=TARGET,
  max_draws=MAX_DRAWS,
)


def run(**changes):
  """Traces of the toy to the target; its later checkpoints are no minima."""
  defaults = {'num_draws': None, 'burn_in': BURN_IN, 'target_error': TARGET}
  defaults['max_draws'] = MAX_DRAWS
  defaults['trajectory'] = toy.trajectory(toy.STEPS[:2])
  return toy.run(**(defaults | changes))


@functools.cache
def whole():
  return run(mesh=grid.make_mesh(1, 1))


class TargetTest(parameterized.TestCase):
  @parameterized.parameters(
    (0.1, stops.Target(0.0, 0.1)),
    ('1e-1', stops.Target(0.0, 0.1)),
    ('relative(0.03)', stops.Target(0.03, 0.0)),
    ('relative(0.03, least=2)', stops.Target(0.03, 2.0)),
    (stops.relative(0.03), stops.Target(0.03, 0.0)),
  )
  def test_numbers_texts_and_targets(self, value, expected):
    self.assertEqual(stops.target(value), expected)
    self.assertEqual(stops.target(str(stops.target(value))), expected)

  @parameterized.parameters(
    0.0,
    -1,
    'nan',
    'inf',
    'relative(0)',
    'relative(0.1, 0.1, 0.1)',
    '5 %',
    'abs(3)',
  )
  def test_others_are_refused(self, value):
    with self.assertRaisesRegex(ValueError, 'target_error must be'):
      stops.target(value)

  def test_a_number_of_draws_and_a_target_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_draws must be None, or 0'):
      dataclasses.replace(
        settings.Sampling(nbeta=1, localization=1, step_size=0.1),
        target_error=0.1,
      )


class RuleTest(parameterized.TestCase):
  def test_the_pilot_alone_fixes_the_number(self):
    draws = traces(4000)
    for target in (0.1, 0.05, stops.relative(0.01)):
      wanted = rule(target).stop(cut(draws, BURN_IN + 96), 1)
      self.assertGreater(wanted, BURN_IN + 96)
      for count in (BURN_IN + 97, wanted - 1, wanted, wanted + 500):
        again = rule(target).stop(cut(draws, count), 1)
        self.assertEqual(again, wanted)

  @parameterized.parameters(0.0, 0.8)
  def test_as_many_as_the_error_needs_and_a_margin(self, correlation):
    """The error of two chains of variance 4 is sqrt(4 tau / 2 n)."""
    tau = (1 + correlation) / (1 - correlation)
    exact = 2 * tau / 0.05**2
    numbers = [
      rule(0.05, 2**20).stop(traces(800, correlation=correlation, seed=s), 1)
      for s in range(200)
    ]
    # A margin of 1.83 and steps of 9 %; variances of correlated draws are
    # underestimated in a pilot of 96.
    ratio = (np.array(numbers) - BURN_IN) / exact
    self.assertBetween(ratio.mean(), 1.5, 2.4)
    self.assertBetween((ratio < 1).mean(), 0.05, 0.35)

  def test_a_relative_error_is_a_share_of_the_estimate(self):
    draws = traces(200)
    share = rule(stops.relative(0.01)).stop(draws, 1)
    estimate = 2 * draws['loss'][:, BURN_IN : BURN_IN + 96].mean()
    self.assertEqual(share, rule(0.01 * estimate).stop(draws, 1))

  def test_a_pilot_holds_ten_autocorrelation_times(self):
    slow = traces(3000, correlation=0.97)
    stop = rule(1e3).stop
    self.assertEqual(stop(cut(slow, BURN_IN + 96), 1), BURN_IN + 192)
    lengths = {stop(cut(slow, count), 1) for count in range(106, 3000, 50)}
    longest = max(lengths)
    self.assertGreaterEqual(longest - BURN_IN, 384)
    # Whatever is asked, the number is one that a pilot ended at.
    self.assertTrue(lengths <= {BURN_IN + 96 * 2**i for i in range(1, 6)})

  def test_the_ceiling(self):
    self.assertEqual(rule(1e-6, 300).stop(traces(400), 1), BURN_IN + 300)
    self.assertEqual(rule(1e-6, 40).stop(traces(50), 1), BURN_IN + 40)
    self.assertEqual(rule(1e6, 40).first, BURN_IN + 40)

  def test_a_cell_without_noise_ends_with_its_pilot(self):
    still = {name: 0 * trace for name, trace in traces(200).items()}
    self.assertEqual(rule(0.1).stop(still, 1), BURN_IN + 96)

  def test_chains_that_fail_in_the_pilot_are_left_out(self):
    draws = traces(200, num_chains=3)
    alive = {name: trace[:2] for name, trace in draws.items()}
    draws['loss'][2, 50] = np.nan
    stop = rule(0.05).stop
    self.assertEqual(stop(draws, 1), stop(alive, 1))
    draws['loss'][:, 50] = np.nan
    self.assertEqual(stop(draws, 1), BURN_IN + 96)


class RunTest(parameterized.TestCase):
  """Runs of the toy: 2 checkpoints x 2 data sets x 3 heads x 2 chains."""

  def test_draws_are_those_of_a_run_that_was_told_how_many(self):
    """Cells leave the columns when they have enough; nothing else changes."""
    traces = whole()
    counts = traces.recorded.values[..., 0]
    self.assertGreater(len(np.unique(counts)), 4)
    long = run(num_draws=counts.max() - BURN_IN, target_error=None)
    is_recorded = np.arange(counts.max()) < traces.recorded.values[..., None]
    for name in ('loss', 'squared_distance', 'virial'):
      expected = np.where(is_recorded, long[name].values, np.nan)
      np.testing.assert_array_equal(traces[name].values, expected, err_msg=name)

  def test_every_cell_has_what_its_pilot_asked_for(self):
    traces = whole()
    for cell in (
      traces.isel(checkpoint=k, dataset=s, refinement=r)
      for k in range(2)
      for s in range(2)
      for r in range(3)
    ):
      draws = {
        x: cell[x].values[:, : int(cell.recorded[0])] for x in toy.TRACES
      }
      wanted = SAMPLING.stop_rule.stop(draws, int(cell.num_coordinates))
      np.testing.assert_array_equal(cell.recorded, wanted)

  def test_chunks_meshes_and_segments_change_no_count_and_no_draw(self):
    expected = whole()
    for layout in (
      {'mesh': grid.make_mesh(2, 1)},
      {'mesh': grid.make_mesh(1, 2), 'segment': 17},
      {'chunk_size': 3, 'rows_per_block': 4, 'mesh': grid.make_mesh(1, 1)},
    ):
      traces = run(**layout)
      np.testing.assert_array_equal(traces.recorded, expected.recorded)
      toy.assert_same_traces(traces, expected)

  def test_one_program_serves_pilots_and_all_that_follows(self):
    counts = toy.compile_counter()
    run(mesh=grid.make_mesh(1, 1), sampler='sgld')
    self.assertEqual(counts['jit(run)'], 1)

  def test_a_run_that_stopped_goes_on_to_the_same(self):
    expected = whole()
    for last in (3, 9):
      path = toy.directory() / 'store'
      calls = []

      def stop(done, total, calls=calls, last=last):
        calls.append((done, total))
        if len(calls) > last:
          raise KeyboardInterrupt

      with self.assertRaises(KeyboardInterrupt):
        run(store=disk.open_store(path), segment=40, progress=stop)
      traces = run(store=disk.open_store(path), segment=40)
      np.testing.assert_array_equal(traces.recorded, expected.recorded)
      toy.assert_same_traces(traces, expected)

  def test_a_smaller_target_takes_more_of_the_same_draws(self):
    path = toy.directory() / 'store'
    first = run(store=disk.open_store(path))
    more = run(store=disk.open_store(path), target_error=TARGET / 2)
    fresh = run(target_error=TARGET / 2)
    np.testing.assert_array_equal(more.recorded, fresh.recorded)
    toy.assert_same_traces(more, fresh)
    again = run(store=disk.open_store(path))
    np.testing.assert_array_equal(again.recorded, more.recorded)
    self.assertLess(int(first.recorded.sum()), int(more.recorded.sum()))

  def test_more_chains_go_as_far_as_the_others(self):
    path = toy.directory() / 'store'
    two = run(store=disk.open_store(path))
    three = run(store=disk.open_store(path), num_chains=3)
    for chain in range(3):
      np.testing.assert_array_equal(
        three.recorded.isel(chain=chain), two.recorded.isel(chain=0)
      )

  def test_progress_ends_at_its_total_and_never_goes_back(self):
    calls = []
    traces = run(progress=lambda *call: calls.append(call))
    done, totals = np.array(calls).T
    self.assertTrue((np.diff(done) >= 0).all())
    self.assertTrue((done <= totals).all())
    self.assertEqual((done[0], totals[0]), (0, 24 * (BURN_IN + 96)))
    self.assertEqual(done[-1], int(traces.recorded.sum()))
    self.assertEqual(totals[-1], done[-1])

  def test_an_error_over_the_target_is_a_remark(self):
    estimates = llc.llc_from_traces(run(max_draws=100))
    over = estimates.standard_error.values > TARGET
    self.assertTrue(over.any())
    remarks = [
      'is over the target' in verdict
      for verdict in estimates.verdict.values[over & estimates.healthy.values]
    ]
    self.assertTrue(remarks and all(remarks))
    for verdict in estimates.verdict.values[~over]:
      self.assertNotIn('is over the target', verdict)


if __name__ == '__main__':
  absltest.main()
