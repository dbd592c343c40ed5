"""Stops: the draws that cells shall have, from a number or a target error.

A target takes two stages. A pilot, the first draws of a cell, fixes its number
of draws; the run goes there, once, and the interval is that of all draws. To
look again and again and to end when the error is small would end where chance
makes it small: intervals of 95 % then cover as little as 62 %.
"""

import ast
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import special
import xarray as xr

from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors
from rllc_jax.results import store as stores

PILOT_DRAWS = 96
_PILOT_TIMES = 10.0  # Autocorrelation times that a pilot must hold.
# Eight batches know a variance badly: in one pilot of five it is this factor
# larger than it seems.
_SAFETY = (errors.NUM_BATCHES - 1) / special.chdtri(errors.NUM_BATCHES - 1, 0.8)
_LEVELS = 8  # An octave: cells that stop together are stored together.
TRACES = ('loss', 'center_loss', 'squared_distance', 'squared_gradient')


class Target(NamedTuple):
  """A standard error to reach: a share of the estimate, or what is larger.

  Attributes:
    share: of the estimate; 0 for an absolute error.
    least: in units of the estimate: less is not asked for.
  """

  share: float
  least: float

  def __str__(self) -> str:
    if not self.share:
      return f'{self.least:g}'
    least = f', least={self.least:g}' if self.least else ''
    return f'relative({self.share:g}{least})'

  def of(self, estimate: float) -> float:
    """The standard error that an estimate shall have."""
    return max(self.share * abs(estimate), self.least)


def relative(share: float, least: float = 0.0) -> Target:
  """A standard error that is a share of the estimate.

  Args:
    share: over 0; 0.03 for 3 %.
    least: an error that suffices whatever the estimate. Without it, estimates
      near 0 never reach their target, and the run ends at its `max_draws`.

  Examples:
    >>> relative(0.03).of(-2.0), relative(0.03, least=0.1).of(-2.0)
    (0.06, 0.1)
  """
  return _checked(Target(float(share), float(least)))


def absolute(error: float) -> Target:
  """A standard error in units of the estimate."""
  return _checked(Target(0.0, float(error)))


def target(value: Any) -> Target:
  """A target from a number, a target, or the text of either.

  Raises:
    ValueError: if it is none, or not over 0.

  Examples:
    >>> target('relative(0.03, least=0.1)')
    Target(share=0.03, least=0.1)
    >>> print(target(0.1))
    0.1
  """
  if isinstance(value, Target):
    return _checked(value)
  try:
    call = ast.parse(str(value).strip(), mode='eval').body
    if isinstance(call, ast.Call) and ast.unparse(call.func) == 'relative':
      # Literals alone: a config must not run code.
      named = {str(x.arg): ast.literal_eval(x.value) for x in call.keywords}
      return relative(*map(ast.literal_eval, call.args), **named)
    return absolute(float(ast.literal_eval(call)))
  except (SyntaxError, TypeError, ValueError) as error:
    raise ValueError(
      'target_error must be a standard error over 0, such as 0.1, or '
      f'relative(0.03), a share of the estimate; got {value!r}.'
    ) from error


def _checked(value: Target) -> Target:
  parts = value.share, value.least
  if not (max(parts) > 0 and min(parts) >= 0 and sum(parts) < math.inf):
    raise ValueError(
      'target_error must be a number over 0, because no finite run has an '
      f'error of 0; got {value}.'
    )
  return value


class Rule(NamedTuple):
  """The rule that fixes the draws of a cell.

  Attributes:
    target: the standard error to reach.
    burn_in: draws left out.
    max_draws: most draws after them.
    nbeta: the factor in front of the estimate.
    localization: gamma.
    step_size: epsilon.
  """

  target: Target
  burn_in: int
  max_draws: int
  nbeta: float
  localization: float
  step_size: float

  @property
  def first(self) -> int:
    """Draws of the shortest pilot, the burn-in included."""
    return self.burn_in + next(self._pilots())

  def stop(self, traces: Mapping[str, np.ndarray], num_coordinates: int) -> int:
    """Draws that a cell shall have, the burn-in included.

    A pilot holds ten autocorrelation times, as far as it can tell; while it
    does not, a cell shall have a pilot of twice the draws. The number depends
    on the pilot alone, so it stays as the run goes there, and a run that was
    stopped goes on to the same.

    Args:
      traces: {name: [C, D]}, all draws so far, the burn-in included.
      num_coordinates: d.
    """
    pilot, needed, variance = 0, 0.0, 0.0
    for pilot in self._pilots():
      stop = self.burn_in + pilot
      if traces['loss'].shape[1] < stop:
        return stop
      first = {name: trace[:, :stop] for name, trace in traces.items()}
      settings = num_coordinates, self.localization, self.step_size
      alive = ~diagnostics.failed_chains(first, *settings)
      if not alive.any():
        return stop  # More draws would fail as well.
      # The largest of all pilots': the one at which they end is the one that
      # looks small.
      paired = first['loss'].astype(np.float64) - first['center_loss']
      series = self.nbeta * paired[alive, self.burn_in :].mean(axis=0)
      variance = max(variance, errors.long_run_variance(series))
      error = self.target.of(series.mean())
      needed = _SAFETY * variance / error**2 if error else math.inf
      if pilot * series.var() >= _PILOT_TIMES * variance:
        break
    draws = min(max(pilot, needed), self.max_draws)
    return self.burn_in + min(level(draws), self.max_draws)

  def _pilots(self) -> Iterator[int]:
    """Lengths of pilots, each twice another, up to the most draws."""
    pilot = PILOT_DRAWS
    while pilot < self.max_draws:
      yield pilot
      pilot *= 2
    yield self.max_draws


def level(draws: float) -> int:
  """Rounds draws up to a ladder of eight rungs an octave, from 96 on.

  Examples:
    >>> level(90), level(97), level(192)
    (96, 105, 192)
  """
  rung = math.ceil(_LEVELS * math.log2(max(1.0, draws / PILOT_DRAWS)) - 1e-9)
  return math.ceil(PILOT_DRAWS * 2 ** (rung / _LEVELS) - 1e-9)


# read(extent): traces of a store, of a run that may be under way.
Read = Callable[[stores.Extent], xr.Dataset]


def of_row(
  rule: Rule,
  read: Read,
  row: stores.Row,
  names: Sequence[str],
  num_chains: int,
  num_draws: int,
) -> np.ndarray:
  """Draws that cells of a row shall have, [R]: at least what they have.

  Args:
    rule: of the run.
    read: reads what is stored.
    row: a checkpoint on a data set.
    names: R refinements.
    num_chains: C.
    num_draws: the most that any of their chains has.
  """
  if not num_draws:
    return np.full(len(names), rule.first)
  stored = _stored(read, row, names, num_chains, num_draws)
  return np.array([_of_cell(rule, stored.sel(refinement=x)) for x in names])


def lacking(
  rule: Rule,
  read: Read,
  row: stores.Row,
  names: Sequence[str],
  num_chains: int,
  num_draws: int,
) -> list[str]:
  """Names of the cells of a row that lack draws; arguments as of `of_row`."""
  stored = _stored(read, row, names, num_chains, num_draws)
  cells = {name: stored.sel(refinement=name) for name in names}
  return [
    name
    for name, cell in cells.items()
    if int(cell.recorded.min()) < _of_cell(rule, cell)
  ]


def _stored(
  read: Read,
  row: stores.Row,
  names: Sequence[str],
  num_chains: int,
  num_draws: int,
) -> xr.Dataset:
  step, dataset = row
  extent = stores.Extent(
    (step,), (dataset,), tuple(names), num_chains, num_draws
  )
  return read(extent).isel(checkpoint=0, dataset=0)


def _of_cell(rule: Rule, cell: xr.Dataset) -> int:
  """The same of one cell, from the chains that have as many draws as any."""
  recorded = cell.recorded.values
  most = int(recorded.max())
  if not most:
    return rule.first
  traces = {
    name: cell[name].transpose('chain', 'draw').values[recorded == most, :most]
    for name in TRACES
  }
  return max(most, rule.stop(traces, int(cell.num_coordinates)))
