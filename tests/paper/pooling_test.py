"""Seeds are the unit: intervals, p-values and verdicts."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.paper import pooling


def test_the_interval_is_student_s_over_seeds():
  effects = [0.3, 0.5, -0.1, 0.4, 0.2, 0.6, 0.1, 0.35]
  pooled = pooling.pool([*effects, math.nan])
  expected = stats.ttest_1samp(effects, 0).confidence_interval(0.95)
  np.testing.assert_allclose(pooled[2:4], expected)
  assert pooled.num_seeds == 8
  np.testing.assert_allclose(pooled.spread, np.std(effects, ddof=1))


def test_p_is_that_of_all_changes_of_sign():
  """Eight of one sign are one case of 128, as is the opposite."""
  assert pooling.pool(np.arange(1.0, 9)).p == 2 / 256
  effects = [0.3, 0.5, -0.1, 0.4, 0.2]
  exact = stats.permutation_test(
    (np.array(effects),),
    np.mean,
    permutation_type='samples',
    n_resamples=math.inf,
  )
  np.testing.assert_allclose(pooling.pool(effects).p, exact.pvalue)


def test_more_seeds_than_signs_can_be_listed_take_a_sample():
  rng = np.random.default_rng(1)
  effects = 0.15 + rng.normal(size=24)
  exact = stats.ttest_1samp(effects, 0).pvalue
  np.testing.assert_allclose(pooling.pool(effects).p, exact, rtol=0.15)


@pytest.mark.parametrize(
  ('effects', 'expected'),
  [
    ([1.0, 1.1, 0.9, 1.0], pooling.TRUE),
    ([-1.0, -1.1, -0.9, -1.0], pooling.FALSE),
    ([0.01, 0.02, 0.01, 0.02], pooling.FALSE),  # Above 0, and of no interest.
    ([1.0, -1.0, 2.0, -2.0], pooling.UNDECIDED),
    ([1.0, 1.1, 0.9], pooling.UNDECIDED),  # Too few seeds.
    ([1.0, 1.1, 0.9, math.nan], pooling.UNDECIDED),
    ([math.nan], pooling.UNDECIDED),
    ([], pooling.UNDECIDED),
  ],
)
def test_the_interval_decides(effects, expected):
  assert pooling.verdict(pooling.pool(effects), least=0.5) == expected


def test_power_is_that_of_the_t_test():
  """A true effect is found as often as the noncentral t distribution says."""
  spread, least, count = 0.2, 0.1, 8
  rates = pooling.power(spread, least, count)
  quantile = stats.t.ppf(0.975, count - 1)
  noncentral = 2 * least * math.sqrt(count) / spread
  found = stats.nct.sf(quantile, count - 1, noncentral)
  assert abs(rates.true_if_strong - found) < 0.01
  assert abs(rates.wrong_if_none - 0.025) < 0.005
  # 0 is found too small as often as `least` is found above 0.
  assert abs(rates.false_if_none - rates.true_if_least) < 0.02


def test_power_grows_with_seeds_unlike_a_rule_that_every_seed_must_agree():
  few, many = (pooling.power(0.2, 0.1, n) for n in (4, 8))
  assert many.true_if_strong > few.true_if_strong + 0.2
