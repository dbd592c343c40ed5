"""From traces to estimates: values, errors, diagnostics, contrasts.

Traces hold every recorded step from the checkpoint on, so burn-in and baseline
are the reader's choice, made here, and made again at no cost.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax.estimators import baselines
from rllc_jax.estimators import cells
from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors
from rllc_jax.estimators import health


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

  A cell is read from the chains that have as many draws as any of its own, so
  what is done stays readable while a store grows.

  Args:
    traces: from `estimate_trajectory` or a store.
    baseline: 'paired' takes the loss at the checkpoint on each draw's own
      minibatch; 'corpus' takes its mean over separate minibatches, whose error
      is added in quadrature: the same expectation, much wider. 'devinterp' is
      the reduction of devinterp 2, for comparison with its numbers and nothing
      else: the loss at the checkpoint is the mean over the minibatches of the
      first 32 draws, every draw counts from the checkpoint on (in diagnostics,
      too), and the error is the spread between chains, standard deviation over
      the root of their number, with C - 1 degrees of freedom: NaN for one
      chain, and too small where chains share minibatches. (devinterp reports
      the standard deviation itself, with divisor C.)
    burn_in: steps left out; by default those of the run. Not to be given with
      baseline 'devinterp', which leaves nothing out.
    estimator_nbeta: the factor in front, if not the run's n beta.

  Returns:
    Over (checkpoint, dataset, refinement): `llc`, `standard_error`, `low` and
    `high` (95 %); `healthy` and `verdict`, see `health.check`; the diagnostics
    of `diagnostics.of_cell` and `diagnostics.step_bias_share`; `num_chains`
    that were read, `num_draws` that each of them has, `num_kept` that are left
    after the burn-in, `num_failed`, `failure_kind` (the worst, a place in
    `diagnostics.FAILURES`). Over chains too: `failed`. Failed chains are left
    out of everything else, which biases it. NaN where no chain is left, or
    under 24 draws after the burn-in.

  Raises:
    ValueError: if the baseline is unknown, no cell can have enough draws, or
      baseline 'devinterp' is asked for with a burn-in, of fewer than 32 draws,
      or of draws that do not begin at the checkpoint.
  """
  if baseline not in baselines.REDUCTIONS:
    raise ValueError(
      f'baseline must be one of {tuple(baselines.REDUCTIONS)}, the readings '
      f'there are; got {baseline!r}.'
    )
  traces = cells.with_all_dims(traces)
  nbeta = factor(traces.attrs['nbeta'], estimator_nbeta)
  if baseline == 'devinterp':
    baselines.check_devinterp(traces.draw.values, burn_in)
    burn_in = 0
  reduction = baselines.REDUCTIONS[baseline]
  shape = tuple(traces.sizes[name] for name in cells.TRACE_DIMS[:4])
  variables = _empty(traces, shape[:3])
  failed = np.zeros(shape, bool)
  for where, cell in cells.cells(traces, burn_in):
    failed[where] = cell.failed
    values = _counts(cell)
    if cell.has_enough():
      mean = reduction(cell, nbeta)
      values |= _estimate(cell, mean, traces.attrs, nbeta)
    for name, value in values.items():
      variables[name][where] = value
  estimates = xr.Dataset(
    {name: (cells.DIMS, array) for name, array in variables.items()},
    {name: traces[name] for name in cells.DIMS},
    {**traces.attrs, 'baseline': baseline},
  )
  estimates['failed'] = (cells.TRACE_DIMS[:4], failed)
  return health.check(estimates)


_COUNTS = ('num_chains', 'num_draws', 'num_kept', 'num_failed', 'failure_kind')


def _empty(traces: xr.Dataset, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
  """Variables over cells: NaN for values, 0 for counts."""
  optional = [x for x in diagnostics.OPTIONAL_TRACES if x in traces]
  values = ('llc', *errors.Mean._fields[1:], *diagnostics.NAMES, *optional)
  return {
    **{name: np.full(shape, np.nan) for name in values},
    **{name: np.zeros(shape, int) for name in _COUNTS},
  }


def _counts(cell: cells.Cell) -> dict[str, int]:
  """The numbers of chains and draws of a cell, by `_COUNTS`."""
  counts = (
    cell.read.sum(),
    cell.num_draws,
    len(cell.draws),
    cell.failed.sum(),
    cell.failure_kinds.max(),
  )
  return dict(zip(_COUNTS, map(int, counts), strict=True))


def _estimate(
  cell: cells.Cell, mean: errors.Mean, settings: Mapping[str, Any], nbeta: float
) -> dict[str, Any]:
  """The estimate of a cell with its error and its diagnostics."""
  values = diagnostics.of_cell(cell.kept, cell.num_coordinates, settings, nbeta)
  share = diagnostics.step_bias_share(mean, values['step_bias'])
  named = mean._asdict()
  return {
    'llc': named.pop('value'),
    **named,
    **values,
    'step_bias_share': share,
  }


def contrast(
  traces: xr.Dataset,
  a: Mapping[str, Any],
  b: Mapping[str, Any],
  *,
  burn_in: int | None = None,
  estimator_nbeta: float | None = None,
) -> xr.Dataset:
  """The difference of two estimates, rLLC(a) - rLLC(b), with its own error.

  Minibatches are shared between refinements and checkpoints, so the error of a
  difference is less than its two errors suggest. It is taken from the
  difference of the traces, draw by draw, over the draws that both have.

  Args:
    traces: from `estimate_trajectory` or a store.
    a: coordinates, such as {'refinement': '0:1'}; other dims are kept.
    b: coordinates of the same dims.
    burn_in: steps left out.
    estimator_nbeta: the factor in front, if not the run's n beta.

  Returns:
    `llc`, `standard_error`, `low`, `high` over the dims that are left.

  Raises:
    ValueError: if `a` and `b` choose in different dims.
  """
  if set(a) != set(b) or not set(a) <= set(cells.DIMS):
    raise ValueError(
      'A contrast must choose both sides in the same dims of '
      f'{cells.DIMS}, so that they can be subtracted; got {dict(a)} and '
      f'{dict(b)}.'
    )
  both = by_draw(traces, burn_in=burn_in, estimator_nbeta=estimator_nbeta)
  sides = [both.sel(side).drop_vars(list(a)) for side in (a, b)]
  return of_draws(sides[0] - sides[1])


def by_draw(
  traces: xr.Dataset,
  *,
  burn_in: int | None = None,
  estimator_nbeta: float | None = None,
) -> xr.DataArray:
  """Estimates by single draws, as the mean over chains.

  Any linear combination of these - a mean over heads, a difference of
  differences - has its error from `of_draws`, shared minibatches and all.

  Args:
    traces: from `estimate_trajectory` or a store.
    burn_in: steps left out.
    estimator_nbeta: the factor in front, if not the run's n beta.

  Returns:
    Over (checkpoint, dataset, refinement, draw); NaN where there is nothing.
  """
  traces = cells.with_all_dims(traces)
  nbeta = factor(traces.attrs['nbeta'], estimator_nbeta)
  series = np.full([traces.sizes[d] for d in (*cells.DIMS, 'draw')], np.nan)
  for where, cell in cells.cells(traces, burn_in):
    if cell.has_enough():
      series[where][cell.draws] = nbeta * cell.paired().mean(axis=0)
  labels = {name: traces[name].values for name in cells.DIMS}
  return xr.DataArray(series, labels, (*cells.DIMS, 'draw'))


def of_draws(draws: xr.DataArray) -> xr.Dataset:
  """The mean over the last dim, 'draw', with its error.

  Args:
    draws: from `by_draw`, or a linear combination of such.

  Returns:
    `llc`, `standard_error`, `low`, `high` over the dims that are left; NaN
    under 24 draws.
  """
  draws = draws.transpose(..., 'draw')
  like = draws.isel(draw=0, drop=True)
  means = {
    name: like.copy(data=np.full(like.shape, np.nan))
    for name in errors.Mean._fields
  }
  for where in np.ndindex(like.shape):
    values = draws.values[where]
    values = values[np.isfinite(values)]
    if len(values) >= errors.MIN_DRAWS:
      for name, value in errors.mean_with_error(values)._asdict().items():
        means[name][where] = value
  return xr.Dataset({'llc': means.pop('value'), **means})


def factor(nbeta: float, estimator_nbeta: float | None = None) -> float:
  """The factor in front of an estimate: the run's n beta, or one that is given.

  Raises:
    ValueError: if the run's is 0 and none is given.
  """
  if nbeta == 0 and estimator_nbeta is None:
    raise ValueError(
      'estimator_nbeta must be given when nbeta is 0, because the estimate is '
      'nbeta (E[loss] - loss*) and would be 0 whatever the chains do; got None.'
    )
  return float(nbeta if estimator_nbeta is None else estimator_nbeta)
