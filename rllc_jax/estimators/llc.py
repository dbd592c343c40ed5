"""From traces to estimates: values, errors, diagnostics, contrasts.

Traces hold every recorded step from the checkpoint on, so burn-in and baseline
are the reader's choice, made here, and made again at no cost.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any, NamedTuple

from arviz_stats.base import array_stats
import numpy as np
import xarray as xr

from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors

_CELL_DIMS = ('checkpoint', 'dataset', 'refinement')
_TRACE_DIMS = (*_CELL_DIMS, 'chain', 'draw')
_TRACES = (
  'loss',
  'center_loss',
  'squared_distance',
  'virial',
  'squared_gradient',
)
BASELINES = ('paired', 'corpus', 'devinterp')
DEVINTERP_BASELINE_DRAWS = 32


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
    burn_in: steps left out; 10 / (step_size localization) by default. Not to
      be given with baseline 'devinterp', which leaves nothing out.
    estimator_nbeta: the factor in front, if not the run's n beta.

  Returns:
    Over (checkpoint, dataset, refinement): `llc`, `standard_error`, `low` and
    `high` (95 %), `equilibrium_ratio` (1 in equilibrium) with its
    `equilibrium_ratio_error`, `rhat` and `ess` of the paired differences,
    `rhat_distance` and `ess_distance` of the squared distance from the
    checkpoint, `num_draws` that were read of each chain, `num_failed`; over
    chains too: `failed`. Failed chains are left out of everything else, which
    biases it. NaN where a cell has under 24 draws after the burn-in.

  Raises:
    ValueError: if the baseline is unknown, no cell can have enough draws, or
      baseline 'devinterp' is asked for with a burn-in, of fewer than 32 draws,
      or of draws that do not begin at the checkpoint.
  """
  if baseline not in BASELINES:
    raise ValueError(f'baseline must be one of {BASELINES}; got {baseline!r}.')
  traces = _with_all_dims(traces)
  nbeta = _factor(traces, estimator_nbeta)
  if baseline == 'devinterp':
    _check_devinterp(traces.draw.values, burn_in)
    burn_in = 0
  reduction = _REDUCTIONS[baseline]

  def read(cell: _Cell) -> dict[str, Any]:
    paired = _paired(cell)
    mean = reduction(cell, nbeta)
    virial = cell.kept['virial'].mean(axis=0)
    ratio = errors.mean_with_error(virial / cell.num_coordinates)
    return {
      **mean._asdict(),
      'equilibrium_ratio': ratio.value,
      'equilibrium_ratio_error': ratio.standard_error,
      **_mixing(paired, ''),
      **_mixing(cell.kept['squared_distance'], '_distance'),
    }

  names = ('value', *errors.Mean._fields[1:], 'equilibrium_ratio')
  names += ('equilibrium_ratio_error', 'rhat', 'ess')
  names += ('rhat_distance', 'ess_distance')
  values, failed, num_draws = _read_cells(traces, burn_in, names, read)
  values['llc'] = values.pop('value')
  found = xr.Dataset(
    {name: (_CELL_DIMS, value) for name, value in values.items()},
    {name: traces[name] for name in _CELL_DIMS},
    {**traces.attrs, 'baseline': baseline},
  )
  found['num_draws'] = (_CELL_DIMS, num_draws)
  found['num_failed'] = (_CELL_DIMS, failed.sum(axis=-1))
  found['failed'] = (_TRACE_DIMS[:4], failed)
  return found


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
  if set(a) != set(b) or not set(a) <= set(_CELL_DIMS):
    raise ValueError(
      'A contrast must choose both sides in the same dims of '
      f'{_CELL_DIMS}, so that they can be subtracted; got {dict(a)} and '
      f'{dict(b)}.'
    )
  traces = _with_all_dims(traces)
  nbeta = _factor(traces, estimator_nbeta)
  series = np.full([traces.sizes[d] for d in (*_CELL_DIMS, 'draw')], np.nan)
  for where, cell in _cells(traces, burn_in):
    if cell.has_enough():
      series[where][cell.draws] = nbeta * _paired(cell).mean(axis=0)
  labels = {name: traces[name].values for name in _CELL_DIMS}
  both = xr.DataArray(series, labels, (*_CELL_DIMS, 'draw'))
  sides = [both.sel(side).drop_vars(list(a)) for side in (a, b)]
  difference = sides[0] - sides[1]
  left = difference.isel(draw=0, drop=True)
  found = {
    name: left.copy(data=np.full(left.shape, np.nan))
    for name in errors.Mean._fields
  }
  for where in np.ndindex(left.shape):
    values = difference.values[where]
    values = values[np.isfinite(values)]
    if len(values) >= errors.MIN_DRAWS:
      for name, value in errors.mean_with_error(values)._asdict().items():
        found[name][where] = value
  return xr.Dataset({'llc': found.pop('value'), **found})


class _Cell(NamedTuple):
  """What is known of one refinement at one checkpoint on one data set.

  Attributes:
    kept: {name: [C, D]}, draws after the burn-in of the chains read.
    failed: [all chains], those that diverged.
    draws: which draws were kept.
    num_draws: how many draws each chain read has, the burn-in included.
    num_coordinates: d.
    baseline: [M], losses at the checkpoint.
  """

  kept: dict[str, np.ndarray]
  failed: np.ndarray
  draws: np.ndarray
  num_draws: int
  num_coordinates: int
  baseline: np.ndarray

  def has_enough(self) -> bool:
    """Whether there are draws for an error bar, of chains that lived."""
    chains, draws = self.kept['loss'].shape
    return chains > 0 and draws >= errors.MIN_DRAWS


def _cells(traces: xr.Dataset, burn_in: int | None):
  """Every cell of the traces: its place, and what is known of it."""
  settings = traces.attrs
  if burn_in is None:
    burn_in = errors.default_burn_in(
      settings['step_size'], settings['localization']
    )
  steps = traces.draw.values
  errors.check_num_draws(int((steps >= burn_in).sum()))
  arrays = {
    name: traces[name].transpose(*_TRACE_DIMS).values for name in _TRACES
  }
  recorded = traces.recorded.transpose(*_TRACE_DIMS[:4]).values
  # Of step numbers, so that traces may be a selection of draws.
  recorded = recorded * settings['num_steps_between_draws']
  baseline = np.zeros((*recorded.shape[:3], 0))
  if 'baseline_loss' in traces:
    baseline = traces.baseline_loss.transpose(*_CELL_DIMS, ...).values
  sizes = np.atleast_1d(traces.num_coordinates.values)
  for where in np.ndindex(recorded.shape[:3]):
    longest = recorded[where].max()
    chains = recorded[where] == longest
    there = steps < longest
    own = {name: x[where][chains][:, there] for name, x in arrays.items()}
    size = int(sizes[where[2]])
    lost = diagnostics.failed_chains(
      own, size, settings['localization'], settings['step_size']
    )
    failed = np.zeros(len(chains), bool)
    failed[chains] = lost
    draws = np.flatnonzero(there & (steps >= burn_in))
    late = steps[there] >= burn_in
    kept = {
      name: x[~lost][:, late].astype(np.float64) for name, x in own.items()
    }
    yield (
      where,
      _Cell(kept, failed, draws, int(there.sum()), size, baseline[where]),
    )


def _read_cells(
  traces: xr.Dataset,
  burn_in: int | None,
  names: tuple[str, ...],
  read: Callable[[_Cell], dict[str, Any]],
):
  """Applies `read` to every cell with enough draws; arrays over cells."""
  shape = tuple(traces.sizes[name] for name in _TRACE_DIMS[:4])
  values = {name: np.full(shape[:3], np.nan) for name in names}
  failed, num_draws = np.zeros(shape, bool), np.zeros(shape[:3], int)
  for where, cell in _cells(traces, burn_in):
    failed[where], num_draws[where] = cell.failed, cell.num_draws
    if cell.has_enough():
      for name, value in read(cell).items():
        values[name][where] = value
  return values, failed, num_draws


def _with_all_dims(traces: xr.Dataset) -> xr.Dataset:
  """Puts back dims that a selection of one coordinate dropped."""
  dropped = [name for name in _CELL_DIMS if name not in traces.dims]
  return traces.expand_dims(dropped) if dropped else traces


def _paired(cell: _Cell) -> np.ndarray:
  return cell.kept['loss'] - cell.kept['center_loss']


def _factor(traces, estimator_nbeta) -> float:
  nbeta = traces.attrs['nbeta'] if estimator_nbeta is None else estimator_nbeta
  if nbeta == 0:
    raise ValueError(
      'estimator_nbeta must be given for a run at nbeta 0, because the '
      'estimate is nbeta (E[loss] - loss*); got None.'
    )
  return float(nbeta)


def _from_pairs(cell: _Cell, nbeta: float) -> errors.Mean:
  """Against the loss at the checkpoint on each draw's own minibatch."""
  return errors.mean_with_error(nbeta * _paired(cell).mean(axis=0))


def _from_corpus(cell: _Cell, nbeta: float) -> errors.Mean:
  """Against the loss at the checkpoint on its own minibatches."""
  losses = cell.baseline.astype(np.float64)
  if len(losses) < 2:
    raise ValueError(
      "baseline='corpus' needs at least 2 minibatches at each checkpoint, for "
      f'a mean with an error (num_baseline_batches); got {len(losses)}.'
    )
  mean = errors.mean_with_error(nbeta * cell.kept['loss'].mean(axis=0))
  own_error = nbeta * losses.std(ddof=1) / np.sqrt(len(losses))
  return errors.with_interval(
    mean.value - nbeta * losses.mean(), np.hypot(mean.standard_error, own_error)
  )


def _as_devinterp(cell: _Cell, nbeta: float) -> errors.Mean:
  """Against the first 32 minibatches, with the spread between chains."""
  losses, center_losses = cell.kept['loss'], cell.kept['center_loss']
  if losses.shape[1] < DEVINTERP_BASELINE_DRAWS:
    return errors.Mean(*[np.array(np.nan)] * 4)
  baseline = center_losses[:, :DEVINTERP_BASELINE_DRAWS].mean()
  return errors.mean_of_chains(nbeta * (losses.mean(axis=1) - baseline))


def _check_devinterp(steps: np.ndarray, burn_in: int | None) -> None:
  """Raises unless the draws are those that devinterp would average."""
  if burn_in:
    raise ValueError(
      "burn_in must not be given with baseline='devinterp', because devinterp "
      f'averages every step, its burn-in included; got {burn_in}.'
    )
  if len(steps) < DEVINTERP_BASELINE_DRAWS:
    raise ValueError(
      f"baseline='devinterp' needs at least {DEVINTERP_BASELINE_DRAWS} draws, "
      'because their minibatches are those of the loss at the checkpoint; got '
      f'{len(steps)}.'
    )
  if steps[0]:
    raise ValueError(
      "baseline='devinterp' needs draws from the checkpoint on, because "
      'devinterp averages every step; got draws that begin at step '
      f'{steps[0]}.'
    )


_REDUCTIONS = {
  'paired': _from_pairs,
  'corpus': _from_corpus,
  'devinterp': _as_devinterp,
}


def _mixing(chains: np.ndarray, suffix: str) -> dict[str, float]:
  """R-hat and effective sample size of chains [C, D]; NaN if they stand."""
  rhat: Any = np.nan
  ess: Any = np.nan
  if np.ptp(chains) > 0:
    ess = array_stats.ess(chains, chain_axis=0, draw_axis=1)
    if len(chains) > 1:
      rhat = array_stats.rhat(chains, chain_axis=0, draw_axis=1)
  return {f'rhat{suffix}': rhat, f'ess{suffix}': ess}
