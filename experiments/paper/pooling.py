"""Pools an effect over training runs of several seeds, and decides a claim.

A seed is the unit: runs differ by far more than the errors within one. The
estimate is the plain mean over seeds, its interval Student's t, its p-value
exact, by all changes of sign. A claim has a least effect of interest, stated
before the runs that decide it:

  true            the interval lies above 0, and reaches the least effect
  false           the interval lies below the least effect
  cannot be told  otherwise, or with fewer than four seeds
"""

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import stats

TRUE, FALSE, UNDECIDED = 'true', 'false', 'cannot be told'
LEAST_SEEDS = 4
_MOST_SIGNS = 16  # 2^16 changes of sign are all tried; of more, a sample.


class Pooled(NamedTuple):
  """An effect over seeds.

  Attributes:
    num_seeds: in which it was measured.
    mean: over them; NaN without any.
    low: lower end of the 95 % interval; -inf with fewer than two seeds.
    high: upper end; inf with fewer than two.
    spread: standard deviation between seeds; NaN with fewer than two.
    p: two-sided, of the hypothesis that signs are random; NaN without any.
  """

  num_seeds: int
  mean: float
  low: float
  high: float
  spread: float
  p: float


def pool(effects: Sequence[float]) -> Pooled:
  """Pools one effect a seed; those that are not finite were not measured.

  Examples:
    >>> pooled = pool([1.0, 2.0, 3.0, 2.0, math.nan])
    >>> pooled.num_seeds, pooled.mean, pooled.p
    (4, 2.0, 0.125)
    >>> print(f'{pooled.low:.3f} to {pooled.high:.3f}')
    0.701 to 3.299
  """
  values = np.asarray([x for x in effects if math.isfinite(x)], float)
  count = len(values)
  mean = float(values.mean()) if count else math.nan
  if count < 2:
    p = 1.0 if count else math.nan
    return Pooled(count, mean, -math.inf, math.inf, math.nan, p)
  spread = float(values.std(ddof=1))
  half = float(stats.t.ppf(0.975, count - 1)) * spread / math.sqrt(count)
  p = _sign_test(values)
  return Pooled(count, mean, mean - half, mean + half, spread, p)


def _sign_test(values: np.ndarray) -> float:
  """Share of all changes of sign whose mean is as far from 0 or farther."""
  if len(values) > _MOST_SIGNS:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (2**_MOST_SIGNS, len(values)))
  else:
    signs = np.array([*itertools.product([-1.0, 1.0], repeat=len(values))])
  # Rounded, because a sum depends on the order of its terms in its last bits.
  means = np.abs(np.round(signs @ values, 12))
  return float(np.mean(means >= np.round(abs(values.sum()), 12)))


def verdict(pooled: Pooled, least: float) -> str:
  """Decides a claim by the interval of its effect.

  Args:
    pooled: the effect, positive if the claim is true.
    least: the least effect of interest, above 0.

  Examples:
    >>> [verdict(pool(x), 0.5) for x in ([1, 1.2, 0.9, 1], [0, 0.1, -0.1, 0])]
    ['true', 'false']
  """
  if pooled.num_seeds < LEAST_SEEDS:
    return UNDECIDED
  if pooled.high < least:
    return FALSE
  return TRUE if pooled.low > 0 else UNDECIDED


class Power(NamedTuple):
  """Rates of verdicts on a claim, by simulation.

  Attributes:
    true_if_strong: rate of 'true' at twice the least effect.
    true_if_least: the same at the least effect.
    false_if_none: rate of 'false' at an effect of 0.
    wrong_if_none: rate of 'true' there.
  """

  true_if_strong: float
  true_if_least: float
  false_if_none: float
  wrong_if_none: float


def power(
  spread: float, least: float, num_seeds: int, *, num_runs: int = 20_000
) -> Power:
  """Simulates verdicts on normal effects with a known spread between seeds.

  Args:
    spread: standard deviation between seeds.
    least: the least effect of interest.
    num_seeds: of a study.
    num_runs: simulated studies; rates have errors under 0.4 %.
  """
  normal = np.random.default_rng(0).normal(size=(num_runs, num_seeds))
  half_of = stats.t.ppf(0.975, num_seeds - 1) / math.sqrt(num_seeds)

  def rates(effect):
    values = effect + spread * normal
    means, half = values.mean(axis=1), half_of * values.std(axis=1, ddof=1)
    is_false = means + half < least
    return np.mean((means - half > 0) & ~is_false), np.mean(is_false)

  strong, weak, none = (rates(effect) for effect in (2 * least, least, 0.0))
  return Power(*map(float, (strong[0], weak[0], none[1], none[0])))
