"""Baselines of an estimate: three readings of one cell.

Each is `reduction(cell, nbeta) -> Mean`, by its name in `REDUCTIONS`.
"""

from collections.abc import Callable
from collections.abc import Mapping

import numpy as np

from rllc_jax.estimators import cells
from rllc_jax.estimators import errors

Reduction = Callable[[cells.Cell, float], errors.Mean]
# Minibatches, of the steps they begin with, that devinterp 2 takes for it.
DEVINTERP_DRAWS = 32


def paired(cell: cells.Cell, nbeta: float) -> errors.Mean:
  """Against the loss at the checkpoint on each draw's own minibatch."""
  return errors.mean_with_error(nbeta * cell.paired().mean(axis=0))


def corpus(cell: cells.Cell, nbeta: float) -> errors.Mean:
  """Against the loss at the checkpoint on its own minibatches.

  Its error adds to that of the draws in quadrature, and the interval has the
  degrees of freedom of the sum (Welch-Satterthwaite): where the loss at the
  checkpoint is the larger error, 7 would make it a fifth too wide.

  Raises:
    ValueError: if there are fewer than two of those.
  """
  losses = cell.baseline.astype(np.float64)
  if len(losses) < 2:
    raise ValueError(
      "baseline='corpus' needs at least 2 minibatches at each checkpoint, for "
      f'a mean with an error (num_baseline_batches); got {len(losses)}.'
    )
  mean = errors.mean_with_error(nbeta * cell.kept['loss'].mean(axis=0))
  own_error = nbeta * losses.std(ddof=1) / np.sqrt(len(losses))
  both = np.hypot(mean.standard_error, own_error)
  fourth = mean.standard_error**4 / (errors.NUM_BATCHES - 1)
  fourth += own_error**4 / (len(losses) - 1)
  degrees = both**4 / fourth if fourth else errors.NUM_BATCHES - 1
  return errors.with_interval(mean.value - nbeta * losses.mean(), both, degrees)


def devinterp(cell: cells.Cell, nbeta: float) -> errors.Mean:
  """Against the first 32 minibatches, with the spread between chains.

  NaN if a cell has fewer draws.
  """
  losses, center_losses = cell.kept['loss'], cell.kept['center_loss']
  if losses.shape[1] < DEVINTERP_DRAWS:
    return errors.Mean(*[np.array(np.nan)] * 4)
  baseline = center_losses[:, :DEVINTERP_DRAWS].mean()
  return errors.mean_of_chains(nbeta * (losses.mean(axis=1) - baseline))


def check_devinterp(steps: np.ndarray, burn_in: int | None) -> None:
  """Raises unless the draws are those that devinterp would average."""
  if burn_in:
    raise ValueError(
      "burn_in must not be given with baseline='devinterp', because devinterp "
      f'averages every step, its burn-in included; got {burn_in}.'
    )
  if len(steps) < DEVINTERP_DRAWS:
    raise ValueError(
      f"baseline='devinterp' needs at least {DEVINTERP_DRAWS} draws, because "
      'their minibatches are those of the loss at the checkpoint; got '
      f'{len(steps)}.'
    )
  if steps[0]:
    raise ValueError(
      "baseline='devinterp' needs draws from the checkpoint on, because "
      'devinterp averages every step; got draws that begin at step '
      f'{steps[0]}.'
    )


REDUCTIONS: Mapping[str, Reduction] = {
  'paired': paired,
  'corpus': corpus,
  'devinterp': devinterp,
}
