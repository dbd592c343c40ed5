"""Diagnostics of chains from their traces: failure, equilibrium, mixing.

A trace is an array [..., C, D]; traces are a dictionary of them, by the names
that the block program reports. Needs NumPy alone.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
import warnings

import numpy as np

from rllc_jax.estimators import errors

Traces = Mapping[str, np.ndarray]
# Diagnostics of every cell, from `of_cell`.
NAMES = (
  'equilibrium_ratio',
  'equilibrium_ratio_error',
  'rhat',
  'ess',
  'halves_difference',
  'drift_to_noise',
  'negative_share',
  'distance',
  'step_bias',
  'step_bias_error',
  'step_bias_share',
  'loss_rounding',
)
# Traces whose means are diagnostics, where a run recorded them.
OPTIONAL_TRACES = ('mala_acceptance',)
# Traces that the step's bias is predicted from. Stores of earlier versions do
# not have them, and the last is of some kernels alone.
BIAS_TRACES = (
  'loss_correction',
  'noise_projection',
  'noise_square',
  'relative_bias',
)

# Why a chain failed, worst last: places in this list are kept as numbers.
FAILURES = ('', 'step', 'far', 'loss')
REMEDIES = {
  'step': 'lower step_size or raise localization',
  'far': (
    'no step size helps where the checkpoint is far from a minimum of this '
    'loss: take a later checkpoint, lower nbeta or raise localization'
  ),
  'loss': (
    'no step size helps where the loss at the checkpoint is not finite: look '
    'for NaN in the data or ids outside the vocabulary'
  ),
}


def failed_chains(
  traces: Traces,
  num_coordinates: np.ndarray | int,
  localization: float,
  step_size: float,
) -> np.ndarray:
  r"""Marks the chains that diverged, [..., C].

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


def failure_kinds(traces: Traces, failed: np.ndarray) -> np.ndarray:
  """Causes of failure, [..., C]: places in `FAILURES`, 0 for none.

  Where the step is too large, the loss goes up. A chain that leaves because the
  checkpoint is far from a minimum goes down, on gradients that do not grow.

  Args:
    traces: [..., C, D].
    failed: [..., C].
  """
  gradient = traces['squared_gradient']
  D = gradient.shape[-1]
  if not D:
    return np.zeros(failed.shape, int)
  with np.errstate(invalid='ignore', over='ignore'):
    rise = (traces['loss'] - traces['center_loss'])[..., -(-D // 2) :]
    descends = rise.mean(axis=-1) < 0 if D > 1 else np.zeros(failed.shape, bool)
    descends &= gradient[..., -1] <= 2 * gradient[..., 0]
  kinds = np.where(descends, FAILURES.index('far'), FAILURES.index('step'))
  at_center = np.isfinite(traces['center_loss']).all(axis=-1)
  kinds = np.where(at_center, kinds, FAILURES.index('loss'))
  return np.where(failed, kinds, 0)


def remedy_of_failure(kind: int) -> str:
  """Names what helps against a failure, given its place in `FAILURES`."""
  return REMEDIES[FAILURES[kind] or 'step']


def warn_of_failures(
  names: Sequence[str], failed: np.ndarray, traces: Traces
) -> None:
  """Warns of failed chains by name and number.

  Args:
    names: R refinements.
    failed: [R, C].
    traces: [R, C, D], of which they are.

  Raises:
    ValueError: if all of them failed.
  """
  C = failed.shape[1]
  if not failed.any():
    return
  remedy = remedy_of_failure(int(failure_kinds(traces, failed).max()))
  remedy = f'{remedy[0].upper()}{remedy[1:]}.'
  if failed.all():
    raise ValueError(
      'At least one chain must stay finite and near the checkpoint, or there '
      f'is nothing to estimate from; got {failed.size} of {failed.size} that '
      f'did not. {remedy}'
    )
  parts = []
  for name, row in zip(names, failed, strict=True):
    if row.any():
      numbers = ', '.join(map(str, np.flatnonzero(row)))
      what = f'all {C} chains' if row.all() else f'{numbers} of {C}'
      parts.append(f'{name} ({what})')
  warnings.warn(
    'Chains failed and are left out, which biases what the rest says: '
    f'{"; ".join(parts)}. {remedy}',
    stacklevel=3,
  )


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
  alive = ~failed[..., None]
  total = np.where(alive, trace, 0.0).sum(axis=-2)
  count = alive.sum(axis=-2)
  return np.where(count > 0, total, np.nan) / np.maximum(count, 1)


def of_cell(
  traces: Traces,
  num_coordinates: int,
  settings: Mapping[str, Any],
  nbeta: float,
) -> dict[str, Any]:
  r"""Diagnoses one cell by its draws alone.

  Args:
    traces: [C, D] each: draws after the burn-in, of chains that lived.
    num_coordinates: d.
    settings: of the run: `step_size`, `nbeta`, `localization`.
    nbeta: the factor in front of the estimate.

  Returns:
    By name, [] each:

    - `equilibrium_ratio`, with its `equilibrium_ratio_error`: the mean of the
      trace `virial` over d, exactly 1 in equilibrium, below 1 while chains
      still spread. The error is about a straight line, which hides no trend.
    - `rhat` and `ess` of the paired differences: see :func:`mixing`. Chains
      that share minibatches have fewer effective draws than it says.
    - `halves_difference`: see :func:`halves_difference`.
    - `drift_to_noise`,
      :math:`\epsilon E\lVert\nabla\hat U\rVert^2 / (4 d)`: the expected
      square of an SGLD step's drift over that of its noise. At a curvature a
      without minibatch noise it is
      :math:`(\epsilon a / 4) / (1 - \epsilon a / 4)`; from about 1 on,
      discretization decides the answer. Of other kernels it is a scale alone.
    - `negative_share`: of paired differences below 0. One half says that
      minibatch noise or an unfinished training hides the well.
    - `distance`: root mean square of :math:`\lVert u - u^*\rVert`.
    - `step_bias`: how much of the estimate the step size is predicted to add,
      see :func:`step_bias`; with its `step_bias_error`, which matters in short
      runs.
    - `loss_rounding`: n beta times the last place of the loss at the
      checkpoint, in the precision that it was recorded in.
    - `mala_acceptance`: the mean of that trace, if it was recorded. It falls
      with the number of coordinates at one and the same accuracy, so it judges
      nothing.
  """
  paired = traces['loss'] - traces['center_loss']
  mixed = mixing(paired)
  values = {
    **_equilibrium(traces['virial'], num_coordinates, mixed['ess']),
    **mixed,
    'halves_difference': halves_difference(paired.mean(axis=0)),
    'drift_to_noise': (
      settings['step_size']
      * traces['squared_gradient'].mean()
      / (4 * num_coordinates)
    ),
    'negative_share': (paired < 0).mean(),
    'distance': np.sqrt(traces['squared_distance'].mean()),
    'step_bias': step_bias(traces, settings, nbeta),
    'step_bias_error': _step_bias_error(traces, nbeta),
    'loss_rounding': nbeta * traces['last_place'].mean(),
  }
  for name in OPTIONAL_TRACES:
    trace = traces.get(name, np.zeros(0))
    trace = trace[np.isfinite(trace)]  # A run may have begun without.
    if len(trace):
      values[name] = trace.mean()
  return values


def _equilibrium(virial, num_coordinates, ess) -> dict[str, Any]:
  """The equilibrium ratio with its error."""
  series = virial.mean(axis=0) / num_coordinates
  ratio = errors.mean_with_error(errors.without_trend(series))
  error = ratio.standard_error
  if len(series) < 2 * errors.MIN_DRAWS and np.isfinite(ess):
    # Batches of so few draws miss correlations. In a bowl one draw has variance
    # 2 / d; half of that is surely there.
    error = np.maximum(error, 1 / np.sqrt(num_coordinates * ess))
  return {'equilibrium_ratio': ratio.value, 'equilibrium_ratio_error': error}


def step_bias(
  traces: Traces, settings: Mapping[str, Any], nbeta: float
) -> np.ndarray | float:
  r"""Predicts how much the step size adds to an estimate.

  .. math:: \tfrac{n\beta}{2} E[c_\ell]
    - \tfrac{\gamma}{8} \operatorname{Var}[\sqrt g\, n \cdot u]

  c of the gradient of the loss, see `types.SamplerInfo`, less the heat of
  minibatches that the loss does not see, see `estimators.minibatch_noise`. For
  SGLD it is :math:`\tfrac\epsilon8 (n\beta \operatorname{tr} H +
  \operatorname{tr} KC)` to first order, for Leimkuhler and Matthews'
  :math:`\tfrac\epsilon8 \operatorname{tr} KC`. Exact in bowls without
  minibatch noise, stiff directions and all. It is an upper bound where
  curvature grows away from the checkpoint (of SGLD in a quartic half of it is
  there), and too low where curvature falls off.

  Args:
    traces: [C, D] each.
    settings: of the run: `nbeta`, `localization`.
    nbeta: the factor in front of the estimate.

  Returns:
    []; NaN if the kernel has no prediction or nothing was recorded.
  """
  if 'loss_correction' not in traces:
    return np.nan
  bias = nbeta / 2 * traces['loss_correction'].mean()
  bias -= _unseen_heat(traces, settings, nbeta, bias)
  share = traces.get('relative_bias', np.zeros(1)).mean()
  paired = traces['loss'] - traces['center_loss']
  return bias + nbeta * paired.mean() * share / (1 + share)


def _step_bias_error(traces, nbeta) -> np.ndarray | float:
  """The standard error of the first term of the formula, the noisiest."""
  if 'loss_correction' not in traces:
    return np.nan
  series = nbeta / 2 * traces['loss_correction'].mean(axis=0)
  return errors.mean_with_error(series).standard_error


def _unseen_heat(traces, settings, nbeta, heat) -> np.ndarray | float:
  """The last term of the formula; 0 if it was not recorded.

  Args:
    traces: as of `step_bias`.
    settings: as of `step_bias`.
    nbeta: as of `step_bias`.
    heat: the first term, which is all noise if the kernel records the square of
      n: the last term is then a share of it, whatever the size of n.
  """
  series = traces.get('noise_projection', np.full((1, 1), np.nan))
  series = series[:, np.isfinite(series).all(axis=0)]  # NaN if not recorded.
  if series.shape[1] < 2 or not settings['nbeta']:
    return 0.0
  # About each chain's own mean: without shared minibatches n is its own, too.
  variance = series.var(axis=1, ddof=1).mean()
  square = np.nanmean(traces.get('noise_square', np.zeros((1, 1))))
  if square > 0:
    return heat * settings['localization'] * variance / square
  return settings['localization'] / 8 * variance * nbeta / settings['nbeta']


def step_bias_share(
  mean: errors.Mean, bias: np.ndarray | float
) -> np.ndarray | float:
  """The size of a step's bias over that of the estimate without it.

  Over half the interval where that is larger: of an estimate that may be 0 no
  share can be told.

  Args:
    mean: the estimate.
    bias: from `step_bias`.

  Examples:
    >>> mean = errors.Mean(*map(np.array, (10.5, 0.1, 10.3, 10.7)))
    >>> print(f'{step_bias_share(mean, 0.5):.2f}')
    0.05
  """
  # Over more, half of the runs of 24 draws with a bias of 20 % would pass.
  half = mean.high - mean.value
  size = np.maximum(np.maximum(abs(mean.value - bias), half), 1e-30)
  return abs(bias) / size


def halves_difference(series: np.ndarray) -> np.ndarray:
  """The first half of a series less its second half, in standard errors.

  Each half has its own error: that of the whole series grows with a step in
  its middle, and no step could then exceed 2.65. Uncorrelated draws pass 3 by
  chance once in a hundred series; at an autocorrelation of 0.9, once in thirty
  with 200 draws and once in ten with 100.

  Args:
    series: [D], draws of the cross-chain mean.

  Returns:
    []; NaN under 48 draws, or if nothing moves.

  Examples:
    >>> noise = np.random.default_rng(0).normal(size=100)
    >>> print(f'{halves_difference(noise + 5 * (np.arange(100) < 50)):.1f}')
    17.4
  """
  half = series.shape[-1] // 2
  if half < errors.MIN_DRAWS:
    return np.array(np.nan)
  first = errors.mean_with_error(series[:half])
  second = errors.mean_with_error(series[-half:])
  error = np.hypot(first.standard_error, second.standard_error)
  with np.errstate(divide='ignore', invalid='ignore'):
    return (first.value - second.value) / error


def mixing(chains: np.ndarray) -> dict[str, Any]:
  """Rank-normalized split R-hat and bulk effective sample size of [C, D].

  Vehtari et al., "Rank-normalization, folding, and localization: an improved
  R-hat for assessing convergence of MCMC", Bayesian Analysis 2021, by
  arviz-stats. The size is that of all chains together.

  Returns:
    `rhat`, NaN for one chain, and `ess`; both NaN if nothing moves. They are
    not finite, either, if each chain stands where it is.
  """
  # Not at the top: it loads slowly, and one checkpoint alone does without.
  from arviz_stats.base import array_stats

  rhat: Any = np.nan
  ess: Any = np.nan
  if np.ptp(chains) > 0:
    with np.errstate(divide='ignore', invalid='ignore'):
      ess = array_stats.ess(chains, chain_axis=0, draw_axis=1)
      if len(chains) > 1:
        rhat = array_stats.rhat(chains, chain_axis=0, draw_axis=1)
  return {'rhat': rhat, 'ess': ess}
