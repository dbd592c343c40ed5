"""Table of the last estimate of every refinement."""

import numpy as np
import xarray as xr

from rllc_jax.estimators import health
from rllc_jax.report import diagnostics
from rllc_jax.report import tables


def refinements_table(estimates: xr.Dataset, dataset: str) -> tables.Table:
  """Estimates and diagnostics at the last checkpoint, one row per refinement.

  The change is from the first checkpoint; its error adds both in quadrature,
  which is too large where minibatches are shared.

  Args:
    estimates: from `llc_from_traces`.
    dataset: which.
  """
  chosen = estimates.sel(dataset=[dataset]).sortby('checkpoint')
  # Lists keep the dim `checkpoint`.
  first, last = chosen.isel(checkpoint=[0]), chosen.isel(checkpoint=[-1])
  marked = diagnostics.marks(last)
  healthy = health.check(last).healthy
  rows = []
  for name in map(str, chosen.refinement.values):
    before, after = (x.sel(refinement=name).squeeze() for x in (first, last))
    is_marked = {k: bool(x.sel(refinement=name)) for k, x in marked.items()}
    verdict = bool(healthy.sel(refinement=name))
    rows.append(
      (
        tables.Cell(name),
        *_estimate(before, after),
        *_diagnostics(after, is_marked),
        tables.Cell('yes' if verdict else 'no', not verdict),
      )
    )
  since = f'change since step {first.checkpoint.item():,}'
  header = ('refinement', 'wrLLC', '95 % interval', since, 'step bias')
  header += ('equilibrium ratio', 'R-hat', 'ESS', 'failed chains', 'healthy')
  return tables.Table(header, rows)


def _estimate(before: xr.Dataset, after: xr.Dataset) -> tuple[tables.Cell, ...]:
  value = lambda name: float(after[name])
  change = value('llc') - float(before.llc)
  # As if independent; shared minibatches make it smaller.
  error = np.hypot(value('standard_error'), float(before.standard_error))
  interval = tables.MISSING
  if np.isfinite(value('low')) and np.isfinite(value('high')):
    digits = tables.decimals(value('standard_error'))
    interval = f'{value("low"):.{digits}f} to {value("high"):.{digits}f}'
  words = (
    tables.with_error(value('llc'), value('standard_error')),
    interval,
    tables.with_error(change, error),
  )
  return tuple(map(tables.Cell, words))


def _diagnostics(
  after: xr.Dataset, marked: dict[str, bool]
) -> tuple[tables.Cell, ...]:
  value = lambda name: float(after[name])
  ratio = (value('equilibrium_ratio'), value('equilibrium_ratio_error'))
  bias = tables.MISSING
  if np.isfinite(value('step_bias_share')):
    bias = f'{value("step_bias"):.2g} ({100 * value("step_bias_share"):.1f} %)'
  words = {
    'step_bias_share': bias,
    'equilibrium_ratio': tables.with_error(*ratio),
    'rhat': tables.number(value('rhat'), '.3f'),
    'ess': tables.number(value('ess'), ',.0f'),
    'num_failed': f'{value("num_failed"):.0f}',
  }
  return tuple(tables.Cell(text, marked[name]) for name, text in words.items())
