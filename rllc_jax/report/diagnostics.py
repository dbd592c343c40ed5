"""Diagnostics of all cells: which are out of bounds, and the table of them.

`estimators.faults` holds all limits; none is set here.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.estimators import faults
from rllc_jax.report import tables

# The faults that each diagnostic shows, by their kinds.
_KINDS: Mapping[str, set[str]] = {
  'equilibrium_ratio': {'spread', 'retreat'},
  'rhat': {'rhat'},
  'ess': {'ess', 'still'},
  'halves_difference': {'halves'},
  'step_bias_share': {'step bias', 'unknown bias'},
  'loss_rounding': {'rounding'},
  'num_failed': {'failed', 'all failed'},
}


class _Described(NamedTuple):
  """A diagnostic in words.

  Attributes:
    words: its name.
    meaning: a clause.
    form: how its numbers are written.
    worst_at: the value from which the farthest is the worst.
  """

  words: str
  meaning: str
  form: str
  worst_at: float


_DESCRIBED: Mapping[str, _Described] = {
  'equilibrium_ratio': _Described(
    'equilibrium ratio',
    '1 in equilibrium, within its error; below 1 while chains still spread',
    '.3f',
    1.0,
  ),
  'rhat': _Described(
    'R-hat of paired differences',
    'near 1 where chains agree with one another',
    '.3f',
    1.0,
  ),
  'ess': _Described(
    'ESS of paired differences',
    'how many independent draws all chains together are worth; where they '
    'share minibatches, fewer',
    ',.0f',
    np.inf,
  ),
  'halves_difference': _Described(
    'difference of halves',
    'first half of the draws less the second, in standard errors: a drift '
    'that is left shows here',
    '.2f',
    0.0,
  ),
  'step_bias_share': _Described(
    "share of the step's bias",
    'how much of an estimate the step size is predicted to add; not '
    'subtracted, and not in the error',
    '.2%',
    0.0,
  ),
  'loss_rounding': _Described(
    'rounding of the loss',
    'what the last place of the recorded loss is worth in an estimate',
    '.2g',
    0.0,
  ),
  'drift_to_noise': _Described(
    'drift to noise',
    "the drift of an SGLD step, squared, over its noise's; from about 1 on "
    'the step size decides the answer',
    '.3g',
    0.0,
  ),
  'negative_share': _Described(
    'negative differences',
    "share of draws whose loss is below the checkpoint's; about one half: "
    'noise or unfinished training hides the well',
    '.3f',
    0.0,
  ),
  'distance': _Described(
    'distance from w*',
    'how far the weights that move went, root mean square',
    '.3g',
    0.0,
  ),
  'mala_acceptance': _Described(
    'MALA acceptance',
    'how often a Metropolis test on the minibatch of the step would have let '
    'it pass; falls with the number of weights at the same accuracy',
    '.3g',
    1.0,
  ),
}


def marks(estimates: xr.Dataset) -> dict[str, xr.DataArray]:
  """Marks diagnostics that are out of bounds, cell by cell.

  Args:
    estimates: from `llc_from_traces`.

  Returns:
    Name of the diagnostic -> booleans over the dims of the estimates. A cell
    without an estimate has no other mark than that of failed chains.
  """
  dims = estimates.llc.dims
  arrays = {
    str(name): x.transpose(*dims).values
    for name, x in estimates.data_vars.items()
    if set(x.dims) == set(dims)
  }
  is_out = {name: np.zeros(estimates.llc.shape, bool) for name in _KINDS}
  # Some limits hold for one baseline alone.
  baseline = estimates.attrs.get('baseline')
  for where in np.ndindex(estimates.llc.shape):
    cell = {name: x[where] for name, x in arrays.items()}
    kinds = {x.kind for x in faults.faults({**cell, 'baseline': baseline})}
    for name, fault_kinds in _KINDS.items():
      is_out[name][where] = bool(fault_kinds & kinds)
  return {name: estimates.llc.copy(data=x) for name, x in is_out.items()}


def called(name: str) -> str:
  """The name of a diagnostic in words, for use within a sentence.

  Examples:
    >>> print(called('rhat'), '|', called('num_failed'))
    R-hat of paired differences | that all chains live
  """
  if name == 'num_failed':
    return 'that all chains live'
  return _DESCRIBED[name].words


def diagnostics_table(estimates: xr.Dataset) -> tables.Table:
  """Every diagnostic over all cells: middle, extreme, where, how many marked.

  Args:
    estimates: from `llc_from_traces`; what it lacks is left out.
  """
  marked = marks(estimates)
  rows = [
    _row(estimates[name], described, marked.get(name))
    for name, described in _DESCRIBED.items()
    if name in estimates and bool(np.isfinite(estimates[name]).any())
  ]
  header = ('diagnostic', 'what it says', 'where it is most extreme')
  return tables.Table(
    (*header, 'median', 'extreme', 'out of bounds'), rows, num_words=3
  )


def _row(
  values: xr.DataArray, described: _Described, marked: xr.DataArray | None
) -> tuple[tables.Cell, ...]:
  finite = values.where(np.isfinite(values))
  # Effective sizes have no best value: the smallest is the worst.
  badness = abs(finite - described.worst_at)
  if np.isinf(described.worst_at):
    badness = -finite
  extreme = finite.isel(badness.argmax(dim=finite.dims))
  where = f'{extreme.refinement.item()} at step {extreme.checkpoint.item():,}'
  if values.sizes['dataset'] > 1:
    where += f', {extreme.dataset.item()}'
  count = 0 if marked is None else int(marked.sum())
  share = f'{count} of {int(finite.notnull().sum())}'
  return (
    tables.Cell(described.words),
    tables.Cell(described.meaning),
    tables.Cell(where),
    tables.Cell(format(float(finite.median()), described.form)),
    tables.Cell(format(float(extreme), described.form), count > 0),
    tables.Cell('not judged' if marked is None else share, count > 0),
  )
