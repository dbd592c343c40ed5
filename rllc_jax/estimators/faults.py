"""Rules that an estimate must pass, each with its number and its remedy.

A cell is healthy if no chain failed; R-hat is under 1.05, or what so few draws
allow; the halves of the run agree within 4 standard errors; the effective
sample size (ESS) is at least 2.5 a chain; the equilibrium ratio is 4 errors
within 0.97 and 1.03; the step size is predicted to add at most 5 %; and the
last place of the loss matters less than the standard error. Without a
prediction it is not healthy. Acceptance rates do not enter: they fall with the
number of coordinates at one and the same accuracy.

Limits are set by their rates of error, see `experiments.verdicts`: a run is
flagged for what is wrong with it and not for being short, which its interval
says. A healthy cell can miss a part of the posterior that no chain has found.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import numpy as np

from rllc_jax.estimators import baselines
from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import errors
from rllc_jax.estimators import stops

ESS_LIMIT = 2.5  # A chain: one that drifts all the way has 2.
RATIO_TOLERANCE, RATIO_ERRORS = 0.03, 4
HALVES_LIMIT = 4.0
STEP_BIAS_LIMIT = 0.05  # Of the estimate; see `diagnostics.step_bias_share`.

# The variables of `llc_from_traces` at one cell, and its attributes `baseline`
# and `step_size`.
Cell = Mapping[str, Any]
_LATER = 'raise burn_in or num_draws'
_LONGER = 'raise num_draws'


class Fault(NamedTuple):
  """One thing that is wrong with a cell.

  Attributes:
    kind: the same in all cells where the same is wrong.
    severity: the larger the worse, among those of a kind.
    finding: what it is, with its number.
    limit: what it should be, as a continuation; '' if that goes without saying.
    remedy: which knob to turn, and where to.
  """

  kind: str
  severity: float
  finding: str
  limit: str
  remedy: str

  def __str__(self) -> str:
    return f'{self.finding}{self.limit}: {self.remedy}'


def faults(cell: Cell) -> list[Fault]:
  """Lists the faults of a cell; [] if it is healthy."""
  if (absence := _absence(cell)) is not None:
    return [absence]
  rules = (_failed, _balance, _mixing, _halves, _step_bias, _rounding)
  return [fault for rule in rules for fault in rule(cell)]


def is_uncertain(cell: Cell) -> bool:
  """True if two errors of the equilibrium ratio exceed its tolerance."""
  return bool(2 * cell['equilibrium_ratio_error'] > RATIO_TOLERANCE)


def is_bias_visible(cell: Cell) -> bool:
  """True if the step's bias is larger than half the interval."""
  return bool(abs(cell['step_bias']) > cell['high'] - cell['llc'])


def target_error(cell: Cell) -> float:
  """The standard error that the run was asked for; infinite if none was."""
  text = cell.get('target_error')
  return stops.target(text).of(cell['llc']) if text else math.inf


def is_over_target(cell: Cell) -> bool:
  """True if the standard error is larger than the run was asked for."""
  return bool(cell['standard_error'] > target_error(cell))


def percent(share: float) -> str:
  """A share in words, to two digits.

  Examples:
    >>> percent(0.0213), percent(2.98)
    ('2.1 %', '298 %')
  """
  return f'{100 * share:{".0f" if share >= 0.1 else ".2g"}} %'


def ratio_with_error(cell: Cell) -> str:
  """The equilibrium ratio in words."""
  ratio, error = cell['equilibrium_ratio'], cell['equilibrium_ratio_error']
  return f'{ratio:.3f} ± {error:.3f}'


def _absence(cell: Cell) -> Fault | None:
  """The reason that there is no estimate, or None."""
  if not cell['num_draws']:
    words = 'no estimate: not sampled yet'
    return Fault('not sampled', 0.0, words, '', 'let the run go on')
  if cell['num_failed'] == cell['num_chains']:
    count = int(cell['num_chains'])
    which = f'all {count} chains' if count > 1 else 'the only chain'
    words = f'no estimate: {which} failed'
    return Fault('all failed', 0.0, words, '', _remedy_of_failure(cell))
  kept, needed = int(cell['num_kept']), errors.MIN_DRAWS
  if cell.get('baseline') == 'devinterp':
    needed = baselines.DEVINTERP_DRAWS
  if kept < needed:
    words = f'no estimate: {_draws(kept)}, {needed} needed'
    return Fault('few draws', -kept, words, '', _LONGER)
  return None


def _failed(cell: Cell) -> Iterator[Fault]:
  failed, count = int(cell['num_failed']), int(cell['num_chains'])
  if failed:
    words = f'{failed} of {count} chains failed'
    yield Fault('failed', failed, words, '', _remedy_of_failure(cell))


def _remedy_of_failure(cell: Cell) -> str:
  return diagnostics.remedy_of_failure(int(cell['failure_kind']))


def _balance(cell: Cell) -> Iterator[Fault]:
  """The equilibrium ratio: under 1 while chains spread, over 1 in retreat."""
  ratio = cell['equilibrium_ratio']
  low, high = 1 - RATIO_TOLERANCE, 1 + RATIO_TOLERANCE
  excess = max(low - ratio, ratio - high)
  if excess <= RATIO_ERRORS * cell['equilibrium_ratio_error']:
    return
  words = f'the equilibrium ratio is {ratio_with_error(cell)}'
  if ratio < low:
    limit = f', under {low:g}, so the chains still spread'
    remedy = 'raise burn_in or localization'
    yield Fault('spread', excess, words, limit, remedy)
  else:
    limit = f', over {high:g}, so the chains still draw in or the noise is wild'
    remedy = 'raise burn_in or lower step_size'
    yield Fault('retreat', excess, words, limit, remedy)


def rhat_limit(num_draws: float) -> float:
  """The limit of R-hat, which is farther from 1 by chance where draws are few.

  Args:
    num_draws: of a chain, after the burn-in.

  Examples:
    >>> rhat_limit(1000), rhat_limit(200)
    (1.05, 1.08)
  """
  return 1 + max(0.05, 16 / num_draws)


def _mixing(cell: Cell) -> Iterator[Fault]:
  """R-hat and the effective sample size of the paired differences."""
  ess, count = cell['ess'], num_alive(cell)
  if not np.isfinite(ess):
    words = 'the paired differences of the chains never change'
    yield Fault('still', 0.0, words, '', 'raise step_size')
    return
  rhat, limit = cell['rhat'], rhat_limit(int(cell['num_kept']))
  if count > 1 and not rhat < limit:
    words = f'R-hat is {rhat:.2f}'
    yield Fault('rhat', rhat, words, f', not under {limit:.2f}', _LATER)
  if ess < ESS_LIMIT * count:
    words = f'ESS is {ess:.0f}'
    limit = f', under {ESS_LIMIT} a chain, so the chains still drift'
    yield Fault('ess', -ess, words, limit, _LATER)


def num_alive(cell: Cell) -> int:
  """The number of chains that did not fail."""
  return int(cell['num_chains'] - cell['num_failed'])


def _halves(cell: Cell) -> Iterator[Fault]:
  """The difference between the two halves of the run; NaN under 48 draws."""
  if (difference := abs(cell['halves_difference'])) > HALVES_LIMIT:
    words = f'the halves of the run differ by {difference:.1f} standard errors'
    yield Fault('halves', difference, words, '', _LATER)


def _step_bias(cell: Cell) -> Iterator[Fault]:
  """The part of the estimate that the step size adds, less its error."""
  bias, share = cell['step_bias'], cell['step_bias_share']
  size = abs(bias)
  if not np.isfinite(bias):
    words = "the step size's bias is not predicted for this sampler or store"
    remedy = 'take leimkuhler_matthews(), or compare with half the step size'
    yield Fault('unknown bias', 0.0, words, '', remedy)
  elif share * (size - cell['step_bias_error']) > STEP_BIAS_LIMIT * size:
    words = f'the step size adds {bias:.3g} of {cell["llc"]:.3g}'
    limit = f', over {percent(STEP_BIAS_LIMIT)}'
    yield Fault('step bias', share, words, limit, _smaller_step(cell))


def _smaller_step(cell: Cell) -> str:
  """The remedy for a step's bias, with the step size that would do.

  In a bowl the share is x / (1 - x) with x proportional to the step size. A
  fifth less than the limit is aimed at: the share is known to some per cent.
  """
  if cell.get('step_size') is None:
    return 'lower step_size'
  share, aim = cell['step_bias_share'], 0.8 * STEP_BIAS_LIMIT
  step_size = cell['step_size'] * aim / (1 + aim) * (1 + share) / share
  return f'lower step_size to {step_size:.2g}'


def _rounding(cell: Cell) -> Iterator[Fault]:
  """The last place of the recorded loss, at this n beta."""
  rounding, error = cell['loss_rounding'], cell['standard_error']
  if rounding > error:
    words = f'the last place of the loss is worth {rounding:.2g}'
    limit = f', more than the standard error, {error:.2g}'
    remedy = 'enable float64, take constants out of the loss or lower nbeta'
    yield Fault('rounding', rounding / max(error, 1e-30), words, limit, remedy)


def _draws(count: int) -> str:
  return f'{count} draw{"" if count == 1 else "s"} after the burn-in'
