"""Means of draws with their standard errors; NumPy alone.

Shared minibatches move all chains together, so the spread between chains is not
the error of their mean. The error used here is that of the *cross-chain mean*
as one process in time, by batch means: it covers autocorrelation and shared
minibatches alike, and needs one chain only.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

NUM_BATCHES = 8
# Three draws a batch: the correction below compares batches of b and b // 3.
MIN_DRAWS = 3 * NUM_BATCHES


class Mean(NamedTuple):
  """A mean over chains and draws with its uncertainty.

  Attributes:
    value: [...].
    standard_error: [...].
    low: [...], lower end of the 95 % interval.
    high: [...], upper end.
  """

  value: np.ndarray
  standard_error: np.ndarray
  low: np.ndarray
  high: np.ndarray


def check_num_draws(
  num_draws: int, burn_in: int | None = None, recorded: int = 0
) -> None:
  """Raises unless there are enough draws for an error bar.

  Args:
    num_draws: after the burn-in.
    burn_in: steps left out of a run that is done, for the message.
    recorded: draws of that run, the burn-in included.
  """
  if num_draws < MIN_DRAWS:
    got = f'{num_draws}. Raise num_draws'
    if burn_in is not None:
      got = (
        f'{num_draws} of {recorded} draws after a burn-in of {burn_in} steps. '
        'Give a shorter burn_in, or ask the run for more draws'
      )
    raise ValueError(
      f'At least {MIN_DRAWS} draws must follow the burn-in, because the error '
      f'bar compares {NUM_BATCHES} batches of at least 3; got {got}.'
    )


def mean_with_error(series: np.ndarray) -> Mean:
  """The mean of a stationary series, with a Student-t interval.

  Args:
    series: [..., D], draws of the cross-chain mean, in order.

  Returns:
    Leaves [...]. The interval has 7 degrees of freedom, one less than there
    are batches.

  Raises:
    ValueError: if there are fewer than 24 draws.
  """
  check_num_draws(series.shape[-1])
  error = np.sqrt(long_run_variance(series) / series.shape[-1])
  return with_interval(series.mean(axis=-1), error)


def mean_of_chains(means: np.ndarray) -> Mean:
  """The mean of C means as if they were independent, with its error.

  The naive spread between chains: too small where they share minibatches.

  Args:
    means: [C], one a chain.

  Returns:
    Leaves []. The interval has C - 1 degrees of freedom; NaN for one chain.

  Examples:
    >>> print(mean_of_chains(np.array([1.0, 3.0])).standard_error)
    1.0
  """
  C = len(means)
  error = means.std(ddof=1) / math.sqrt(C) if C > 1 else np.array(np.nan)
  return with_interval(means.mean(), error, max(1, C - 1))


def with_interval(
  value: np.ndarray,
  standard_error: np.ndarray,
  degrees_of_freedom: float = NUM_BATCHES - 1,
) -> Mean:
  """The 95 % Student-t interval."""
  half = special.stdtrit(degrees_of_freedom, 0.975) * standard_error
  return Mean(value, standard_error, value - half, value + half)


def without_trend(series: np.ndarray) -> np.ndarray:
  """A series less its straight line, about its mean.

  Of a series that has not settled, the error of the mean is mostly trend, and
  would hide that the mean is off.

  Args:
    series: [..., D].

  Examples:
    >>> print(without_trend(np.array([1.0, 2.0, 3.0])))
    [2. 2. 2.]
  """
  time = np.arange(series.shape[-1]) - (series.shape[-1] - 1) / 2
  slope = (series * time).sum(axis=-1, keepdims=True) / (time**2).sum()
  return series - slope * time


def long_run_variance(series: np.ndarray) -> np.ndarray:
  r"""The variance of the mean, times the number of draws.

  Batch means of b = D // 8 draws underestimate it for correlated draws by
  about c / b; those of b // 3 by about three times that. The lugsail estimate

  .. math:: 2\,\hat\sigma^2_b - \hat\sigma^2_{b/3}

  (Vats and Flegal, "Lugsail lag windows for estimating time-average covariance
  matrices", Biometrika 2022) over-corrects on purpose. It is never taken below
  the uncorrected one: where draws are uncorrelated the two differ by chance.

  Args:
    series: [..., D].

  Returns:
    [...].
  """
  size = series.shape[-1] // NUM_BATCHES
  plain = _batch_variance(series, size)
  return np.maximum(plain, 2 * plain - _batch_variance(series, size // 3))


def _batch_variance(series, size):
  count = series.shape[-1] // size
  # The first draws are left out where batches do not divide the series.
  whole = series[..., series.shape[-1] - count * size :]
  means = whole.reshape(*whole.shape[:-1], count, size).mean(axis=-1)
  return size * means.var(axis=-1, ddof=1)


def default_burn_in(step_size: float, localization: float) -> int:
  r"""Steps in which a flat direction forgets its start: 10 / (epsilon gamma).

  By then :math:`e^{-5}` of the start is left in the position and
  :math:`e^{-10}` in its square, along the flattest direction.

  Raises:
    ValueError: if localization is 0, when nothing bounds that time.

  Examples:
    >>> default_burn_in(1e-3, 200.0)
    50
  """
  if not localization:
    raise ValueError(
      'burn_in must be given when localization is 0, because flat directions '
      'then never relax and 10 / (step_size localization) has no value; got '
      'None.'
    )
  return math.ceil(10 / (step_size * localization) - 1e-9)
