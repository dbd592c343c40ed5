"""Is a chain believable: failure and equilibrium, from its traces. NumPy alone.

A trace is an array [..., C, D]; traces are a dictionary of them, by the names
that the block program reports.
"""

from collections.abc import Mapping

import numpy as np

Traces = Mapping[str, np.ndarray]


def failed_chains(
  traces: Traces,
  num_coordinates: np.ndarray | int,
  localization: float,
  step_size: float,
) -> np.ndarray:
  r"""Which chains diverged, [..., C].

  A chain has failed if anything it recorded is not finite, or if its
  :math:`\lVert u - u^*\rVert^2` ever exceeds :func:`squared_distance_limit`.

  Args:
    traces: with `loss`, `squared_distance`, `squared_gradient`, [..., C, D].
    num_coordinates: d, broadcast against [...].
    localization: gamma.
    step_size: epsilon.
  """
  finite = np.isfinite(traces['loss']) & np.isfinite(traces['squared_gradient'])
  limit = squared_distance_limit(num_coordinates, localization, step_size)
  # A NaN distance compares as false, hence as failed; so does an infinite one.
  near = traces['squared_distance'] <= limit[..., None, None]
  near &= np.isfinite(traces['squared_distance'])
  return np.asarray(~(finite & near).all(axis=-1))


def squared_distance_limit(
  num_coordinates: np.ndarray | int, localization: float, step_size: float
) -> np.ndarray:
  r"""Beyond this :math:`\lVert u - u^*\rVert^2` a chain has left its well.

  Without loss it is :math:`\chi^2_d / (\gamma (1 - \epsilon\gamma/4))`. The
  limit is :math:`10 d + 50` in the place of :math:`\chi^2_d`: ten times the
  mean, and never passed by chance (one draw in :math:`10^{14}` at d = 1, where
  10 d alone would fail one in 600). Infinite at gamma 0.
  """
  d = np.asarray(num_coordinates, float)
  if not localization:
    return np.full(d.shape, np.inf)
  return (10 * d + 50) / (localization * (1 - step_size * localization / 4))


def cross_chain_mean(trace: np.ndarray, failed: np.ndarray) -> np.ndarray:
  """The mean over chains that did not fail, [..., C, D] -> [..., D].

  NaN where all failed.
  """
  kept = ~failed[..., None]
  total = np.where(kept, trace, 0.0).sum(axis=-2)
  count = kept.sum(axis=-2)
  return np.where(count > 0, total, np.nan) / np.maximum(count, 1)
