"""The measured gain of the paired baseline over the corpus baseline.

Both estimates have the same expectation and use the same draws. They differ in
the minibatches of the loss at the checkpoint.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.estimators import errors
from rllc_jax.estimators import llc
from rllc_jax.report import tables


class _Center(NamedTuple):
  """Numbers whose logarithms are averaged.

  Attributes:
    mean: geometric.
    factor: their typical ratio to it, up or down; NaN for one number.
  """

  mean: float
  factor: float


def measure(
  traces: xr.Dataset, estimates: xr.Dataset, *, burn_in: int
) -> xr.Dataset | None:
  r"""Variances of the paired and of the corpus estimate, cell by cell.

  The corpus variance has two parts: that of the mean loss along the chains, and
  that of the loss at the checkpoint, :math:`(n\beta)^2 s^2 / M` from its M
  minibatches. More draws lower the first alone.

  Args:
    traces: with or without `baseline_loss`.
    estimates: from `llc_from_traces` of these, paired.
    burn_in: steps that these leave out.

  Returns:
    `paired`, `corpus` and `center` (the second part of `corpus`), variances
    over (checkpoint, dataset, refinement); None without a corpus baseline.
  """
  # One minibatch has no variance.
  if traces.sizes.get('baseline_batch', 0) < 2:
    return None
  corpus = llc.llc_from_traces(traces, baseline='corpus', burn_in=burn_in)
  losses = traces.baseline_loss.astype(np.float64)
  center = losses.var('baseline_batch', ddof=1) / losses.sizes['baseline_batch']
  return xr.Dataset(
    {
      'paired': estimates.standard_error**2,
      'corpus': corpus.standard_error**2,
      'center': traces.attrs['nbeta'] ** 2 * center,
    }
  )


def gain_of(variances: xr.Dataset) -> xr.DataArray:
  """Corpus over paired variance; NaN where there is none to compare."""
  paired = variances.paired.where(variances.paired > 0)
  return variances.corpus.where(variances.corpus > 0) / paired


def sentence(variances: xr.Dataset) -> str:
  """The gain over all cells, in words."""
  gain = gain_of(variances)
  heads = [_center(gain.sel(refinement=name)).mean for name in gain.refinement]
  exact = _center(gain_of(_with_exact_center(variances))).mean
  if not np.isfinite(exact):
    return 'No cell has both errors, so the gain cannot be told.'
  share = float((variances.center / variances.corpus).median())
  degrees = errors.NUM_BATCHES - 1
  return (
    f'Paired, the variance of an estimate is {_center(gain).mean:.3g} times '
    'smaller than on the corpus baseline (geometric mean over cells; by '
    f'refinement {np.nanmin(heads):.3g} to {np.nanmax(heads):.3g}). '
    f'In the median {100 * share:.0f} % of the corpus variance is the error '
    'of the loss at the checkpoint itself, which more draws do not lower; '
    f'without that part the factor is {exact:.3g}, and so many times the draws '
    f'would make up for it. Each variance has {degrees} degrees of freedom, so '
    'the ratio of one cell is known to a factor of about 2, and cells that '
    'share minibatches do not err independently.'
  )


def table(variances: xr.Dataset) -> tables.Table:
  """Errors at the last checkpoint and gains over all, a row a refinement.

  Args:
    variances: from `measure`.
  """
  gain, exact = gain_of(variances), gain_of(_with_exact_center(variances))
  last = variances.sortby('checkpoint').isel(checkpoint=-1).mean('dataset')
  rows = []
  for name in map(str, variances.refinement.values):
    at_last = last.sel(refinement=name)
    errors_of = [
      float(at_last[part]) ** 0.5 for part in ('paired', 'corpus', 'center')
    ]
    center = _center(gain.sel(refinement=name))
    spread = tables.number(center.factor, '.2f')
    words = (
      name,
      *[tables.number(x, '.3g') for x in errors_of],
      _factor(_center(gain_of(at_last)).mean),
      _factor(center.mean),
      spread if spread == tables.MISSING else f'×/÷ {spread}',
      _factor(_center(exact.sel(refinement=name)).mean),
    )
    rows.append(tuple(map(tables.Cell, words)))
  step = int(variances.checkpoint.max())
  header = (
    'refinement',
    f'error at step {step:,}, paired',
    'the same, corpus',
    'of it, loss at the checkpoint',
    f'gain at step {step:,}',
    'gain, all checkpoints',
    'spread between them',
    'gain without the third error',
  )
  return tables.Table(header, rows)


def _factor(value: float) -> str:
  return tables.number(value, ',.0f' if value >= 100 else '.3g')


def _with_exact_center(variances: xr.Dataset) -> xr.Dataset:
  """Variances without the error of the loss at the checkpoint."""
  return variances.assign(corpus=variances.corpus - variances.center)


def _center(gain: xr.DataArray) -> _Center:
  # Logarithms: a gain and its inverse are equally far from 1.
  values = gain.values[np.isfinite(gain.values)]
  if not len(values):
    return _Center(np.nan, np.nan)
  logs = np.log(values)
  factor = np.exp(logs.std(ddof=1)) if len(logs) > 1 else np.nan
  return _Center(float(np.exp(logs.mean())), float(factor))
