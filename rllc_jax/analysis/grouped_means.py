"""Means of values that come in independent groups, with standard errors.

Tokens of one row depend on one another, rows do not: the groups are rows.
"""

from typing import NamedTuple

import numpy as np
from numpy import typing as npt


class Mean(NamedTuple):
  """A mean and its standard error.

  Attributes:
    mean: [...], NaN of no values.
    error: [...], NaN of fewer than two groups.
  """

  mean: np.ndarray
  error: np.ndarray


def grouped_mean(values: npt.ArrayLike, groups: npt.ArrayLike) -> Mean:
  """The mean over all values, and its error between groups.

  Args:
    values: [..., n].
    groups: [n], of each value, ascending.

  Examples:
    >>> mean, error = grouped_mean(np.array([1.0, 1, 3, 3]), [0, 0, 1, 1])
    >>> print(mean, error)
    2.0 1.0
  """
  values, groups = np.asarray(values, float), np.asarray(groups)
  if not groups.size:
    return Mean(*(np.full(values.shape[:-1], np.nan) for _ in range(2)))
  mean = values.mean(axis=-1)
  starts = np.flatnonzero(np.diff(groups, prepend=groups[0] - 1))
  sums = np.add.reduceat(values - mean[..., None], starts, axis=-1)
  count = len(starts)
  # Groups may differ in size, so it is the error of a ratio of two sums.
  scale = count / (count - 1) if count > 1 else np.nan
  return Mean(mean, np.sqrt(scale * (sums**2).sum(axis=-1)) / groups.size)


def mean_where(values: np.ndarray, mask: np.ndarray) -> Mean:
  """The mean where a mask is True, with its error between rows.

  Args:
    values: [..., N, T], of N independent rows.
    mask: [N, T].
  """
  return grouped_mean(np.asarray(values)[..., mask], np.nonzero(mask)[0])


def mean_over_rows(values: np.ndarray) -> Mean:
  """The mean over rows and tokens, [..., N, T] -> [...]."""
  return mean_where(values, np.ones(np.shape(values)[-2:], bool))
