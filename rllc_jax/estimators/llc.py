"""From traces to estimates: values, errors, diagnostics, contrasts.

Traces hold every recorded step from the checkpoint on, so burn-in and baseline
are the reader's choice, made here, and made again at no cost.
"""

from collections.abc import Mapping
from typing import Any

from arviz_stats.base import array_stats
import numpy as np
import xarray as xr

from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors

_TRACE_DIMS = ('checkpoint', 'dataset', 'refinement', 'chain', 'draw')
BASELINES = ('paired', 'corpus')


def llc_from_traces(
  traces: xr.Dataset,
  *,
  baseline: str = 'paired',
  burn_in: int | None = None,
  estimator_nbeta: float | None = None,
) -> xr.Dataset:
  r"""Reads refined LLCs with errors and diagnostics out of traces.

  .. math:: \hat\lambda = n\beta\,(E[\ell(u)] - \ell(u^*))

  Estimates are *at* the run's n beta, gamma and step size. The error covers
  autocorrelation and shared minibatches. It does not cover a cold start, the
  step size's bias or the finite corpus.

  Args:
    traces: from `estimate_trajectory` or a store.
    baseline: 'paired' takes the loss at the checkpoint on each draw's own
      minibatch; 'corpus' takes its mean over separate minibatches, whose error
      is added in quadrature: the same expectation, much wider.
    burn_in: steps left out; 10 / (step_size localization) by default.
    estimator_nbeta: the factor in front, if not the run's n beta.

  Returns:
    Over (checkpoint, dataset, refinement): `llc`, `standard_error`, `low` and
    `high` (95 %), `equilibrium_ratio` (1 in equilibrium) with its
    `equilibrium_ratio_error`, `rhat` and `ess` of the paired differences,
    `rhat_distance` and `ess_distance` of the squared distance from the
    checkpoint, `num_failed`; over chains too: `failed`. Failed chains are left
    out of everything else, which biases it. NaN where draws are missing.

  Raises:
    ValueError: if the baseline is unknown or too few draws are left.
  """
  kept, failed, complete = _readable(traces, burn_in)
  nbeta = _factor(traces, estimator_nbeta)
  paired = diagnostics.cross_chain_mean(_paired(kept), failed)
  if baseline == 'paired':
    mean = errors.mean_with_error(nbeta * paired)
  elif baseline == 'corpus':
    mean = _unpaired(traces, kept['loss'], failed, nbeta)
  else:
    raise ValueError(f'baseline must be one of {BASELINES}; got {baseline!r}.')
  d = traces.num_coordinates.values[:, None]
  terms = diagnostics.equilibrium_terms(kept, traces.attrs['step_size'])
  ratio = errors.mean_with_error(
    diagnostics.cross_chain_mean(terms, failed) / d
  )
  values = {
    'llc': mean.value,
    'standard_error': mean.standard_error,
    'low': mean.low,
    'high': mean.high,
    'equilibrium_ratio': ratio.value,
    'equilibrium_ratio_error': ratio.standard_error,
    **_mixing(_paired(kept), failed, ''),
    **_mixing(kept['squared_distance'], failed, '_distance'),
  }
  dims = _TRACE_DIMS[:3]
  found = xr.Dataset(
    {name: (dims, np.where(complete, x, np.nan)) for name, x in values.items()},
    {name: traces[name] for name in dims},
    {**traces.attrs, 'baseline': baseline},
  )
  failed = failed & complete[..., None]
  found['num_failed'] = (dims, failed.sum(axis=-1))
  found['failed'] = (_TRACE_DIMS[:4], failed)
  return found


def contrast(
  traces: xr.Dataset,
  a: Mapping[str, Any],
  b: Mapping[str, Any],
  *,
  burn_in: int | None = None,
) -> xr.Dataset:
  """The difference of two estimates, rLLC(a) - rLLC(b), with its own error.

  Minibatches are shared between refinements and checkpoints, so the error of a
  difference is less than its two errors suggest. It is taken from the
  difference of the traces, draw by draw.

  Args:
    traces: from `estimate_trajectory` or a store.
    a: coordinates, such as {'refinement': '0:1'}; other dims are kept.
    b: coordinates of the same dims.
    burn_in: steps left out.

  Returns:
    `llc`, `standard_error`, `low`, `high` over the dims that are left.

  Raises:
    ValueError: if `a` and `b` choose in different dims.
  """
  if set(a) != set(b) or not set(a) <= set(_TRACE_DIMS[:3]):
    raise ValueError(
      'A contrast must choose both sides in the same dims of '
      f'{_TRACE_DIMS[:3]}, so that they can be subtracted; got {dict(a)} and '
      f'{dict(b)}.'
    )
  kept, failed, complete = _readable(traces, burn_in)
  series = diagnostics.cross_chain_mean(_paired(kept), failed)
  series = np.where(complete[..., None], series, np.nan)
  dims = (*_TRACE_DIMS[:3], 'draw')
  labels = {name: traces[name] for name in _TRACE_DIMS[:3]}
  both = xr.DataArray(_factor(traces, None) * series, labels, dims)
  sides = [
    both.sel(side).drop_vars([*a, 'num_coordinates'], errors='ignore')
    for side in (a, b)
  ]
  difference = sides[0] - sides[1]
  mean = errors.mean_with_error(difference.values)
  left = difference.isel(draw=0)
  return xr.Dataset(
    {
      name: left.copy(data=value)
      for name, value in zip(
        ('llc', 'standard_error', 'low', 'high'), mean, strict=True
      )
    }
  )


def _readable(traces: xr.Dataset, burn_in: int | None):
  """Traces after the burn-in, failed chains, complete cells; as arrays."""
  settings = traces.attrs
  if burn_in is None:
    burn_in = errors.default_burn_in(
      settings['step_size'], settings['localization']
    )
  first = int(np.searchsorted(traces.draw.values, burn_in))
  errors.check_num_draws(traces.sizes['draw'] - first)
  names = (
    'loss',
    'center_loss',
    'squared_distance',
    'displacement_gradient',
    'squared_gradient',
  )
  arrays = {
    name: traces[name].transpose(*_TRACE_DIMS).values.astype(np.float64)
    for name in names
  }
  recorded = traces.recorded.transpose(*_TRACE_DIMS[:4]).values
  complete = (recorded >= traces.sizes['draw']).all(axis=-1)
  failed = diagnostics.failed_chains(
    arrays,
    traces.num_coordinates.values,
    settings['localization'],
    settings['step_size'],
  )
  return {n: x[..., first:] for n, x in arrays.items()}, failed, complete


def _paired(kept):
  return kept['loss'] - kept['center_loss']


def _factor(traces, estimator_nbeta) -> float:
  nbeta = traces.attrs['nbeta'] if estimator_nbeta is None else estimator_nbeta
  if nbeta == 0:
    raise ValueError(
      'estimator_nbeta must be given for a run at nbeta 0, because the '
      'estimate is nbeta (E[loss] - loss*); got None.'
    )
  return float(nbeta)


def _unpaired(traces, loss, failed, nbeta) -> errors.Mean:
  """Against the loss at the checkpoint on its own minibatches."""
  losses = traces.baseline_loss.transpose(*_TRACE_DIMS[:3], ...).values
  mean = errors.mean_with_error(
    nbeta * diagnostics.cross_chain_mean(loss, failed)
  )
  baseline_error = nbeta * losses.std(axis=-1, ddof=1) / losses.shape[-1] ** 0.5
  return errors.with_interval(
    mean.value - nbeta * losses.mean(axis=-1),
    np.hypot(mean.standard_error, baseline_error),
  )


def _mixing(trace, failed, suffix):
  """R-hat and effective sample size over the chains that did not fail."""
  cells = trace.shape[:-2]
  rhat, ess = np.full(cells, np.nan), np.full(cells, np.nan)
  for cell in np.ndindex(cells):
    chains = trace[cell][~failed[cell]]
    if len(chains) and np.isfinite(chains).all() and np.ptp(chains) > 0:
      ess[cell] = array_stats.ess(chains, chain_axis=0, draw_axis=1)
    if np.isfinite(ess[cell]) and len(chains) > 1:
      rhat[cell] = array_stats.rhat(chains, chain_axis=0, draw_axis=1)
  return {f'rhat{suffix}': rhat, f'ess{suffix}': ess}
