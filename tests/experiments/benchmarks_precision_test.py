"""Costs to precision from invented runs."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from experiments.checks.benchmarks import precision

NUM_HEADS = 4


def runs(sd=0.2, seconds=1.5, mean=3.0):
  """Seeds whose sample standard deviation is `sd` for every head, exactly."""
  values = np.arange(float(precision.NUM_SEEDS))
  values = (values - values.mean()) / values.std(ddof=1)
  return precision.Runs(
    mean + sd * np.tile(values[:, None], NUM_HEADS), seconds
  )


def row(name, ours, theirs):
  (match,) = [
    row for row in precision.cost_rows(ours, theirs, 96) if name in row.name
  ]
  return match


class CostTest(parameterized.TestCase):
  def test_cost_equals_a_value_computed_by_hand(self):
    """An error of 0.2 is 16 runs, each of 1.5 s, for each of four heads."""
    self.assertAlmostEqual(precision.cost(runs()), 16 * 1.5 * NUM_HEADS)

  def test_half_the_error_costs_a_quarter(self):
    ratio = precision.cost(runs(sd=0.2)) / precision.cost(runs(sd=0.1))
    self.assertAlmostEqual(ratio, 4)

  def test_cost_is_proportional_to_time_and_independent_of_the_mean(self):
    self.assertAlmostEqual(
      precision.cost(runs(seconds=3.0, mean=7.0)), 2 * precision.cost(runs())
    )

  def test_twice_the_steps_cost_the_same(self):
    """Half the variance in twice the seconds: no dependence on the budget."""
    longer = runs(sd=0.2 / 2**0.5, seconds=3.0)
    self.assertAlmostEqual(precision.cost(longer), precision.cost(runs()))

  @parameterized.parameters((100.5, True), (99.5, False))
  def test_a_hundred_times_cheaper_is_the_target(self, times, holds):
    theirs = runs(seconds=1.5 * times)
    target = row('cost to precision', runs(), theirs)
    self.assertAlmostEqual(target.value, times)
    self.assertEqual(target.holds, holds)

  def test_speed_and_variance_make_the_ratio(self):
    """Twelve times slower at three times the error: 12 x 9."""
    pair = runs(), runs(sd=0.6, seconds=18.0)
    self.assertAlmostEqual(row('speed', *pair).value, 12)
    self.assertAlmostEqual(row('variance', *pair).value, 9)
    self.assertAlmostEqual(row('cost to precision', *pair).value, 108)
    for name in ('speed', 'variance'):  # Reported apart, not judged.
      self.assertIsNone(row(name, *pair).holds)


class AgreementTest(parameterized.TestCase):
  @parameterized.parameters((1.9, True), (-1.9, True), (2.1, False))
  def test_means_are_judged_in_errors_of_both(self, difference, holds):
    """sd 0.3 and 0.4, so 0.5 over the root of the seeds."""
    joint = 0.5 / precision.NUM_SEEDS**0.5
    pair = runs(sd=0.3), runs(sd=0.4, mean=3.0 + difference * joint)
    target = row('difference', *pair)
    self.assertAlmostEqual(target.value, abs(difference))
    self.assertEqual(target.holds, holds)

  def test_heads_that_differ_do_not_cancel(self):
    ours, theirs = runs(), runs()
    shift = np.array([1.0, -1.0, 1.0, -1.0])
    self.assertFalse(
      row('difference', ours, theirs._replace(llc=theirs.llc + shift)).holds
    )


if __name__ == '__main__':
  absltest.main()
