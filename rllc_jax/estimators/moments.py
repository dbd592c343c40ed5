"""Sums of losses over batches of draws, from which covariances are made.

A chain keeps, for each of some functionals of its position (such as the loss
excess of a part) and each of many losses (such as those of the tokens of a
probe), the sum of products, and the sums of either. Draws fall into batches, so
that errors can be told; when all batches are full, neighbors are joined and
batches become twice as long. Memory does not depend on the number of draws.

All values are differences from those at the checkpoint: in float32 products of
the losses themselves would cancel.
"""

from typing import NamedTuple

import numpy as np

from rllc_jax.estimators import errors

# 24 to 48 batches: groups of at least 3 for each of the 8 that errors use.
MOST_BATCHES = 2 * errors.MIN_DRAWS


class Moments(NamedTuple):
  """Sums over batches of draws, of one chain or of many.

  Attributes:
    count: [..., B], draws of each batch.
    functional: [..., B], sums of the functional.
    losses: [..., B, Z], sums of the losses.
    products: [..., B, Z], sums of the functional times each loss.
    squares: [..., B], sums of the functional's square.
  """

  count: np.ndarray
  functional: np.ndarray
  losses: np.ndarray
  products: np.ndarray
  squares: np.ndarray


def of_draws(functional: np.ndarray, losses: np.ndarray) -> Moments:
  """Sums in as many batches as there are draws, up to 48.

  Args:
    functional: [..., D], by draw.
    losses: [..., D, Z].
  """
  made = Moments(
    np.ones(functional.shape),
    functional,
    losses,
    functional[..., None] * losses,
    functional**2,
  )
  while made.count.shape[-1] >= MOST_BATCHES:
    made = joined(made)
  return made


def joined(moments: Moments) -> Moments:
  """Joins neighboring batches; a last one without a neighbor stays alone."""
  return Moments(
    *(
      _join(x, axis=-1 if x.ndim == moments.count.ndim else -2) for x in moments
    )
  )


def _join(sums: np.ndarray, axis: int) -> np.ndarray:
  ends = np.arange(0, sums.shape[axis], 2)
  return np.add.reduceat(sums, ends, axis=axis)


class Response(NamedTuple):
  """A covariance with each loss, and how well it is known.

  Attributes:
    value: [Z], minus the covariance, mean over chains.
    standard_error: [Z], of batch means, as of `errors.mean_with_error`.
    by_chain: [C, Z], of single chains.
  """

  value: np.ndarray
  standard_error: np.ndarray
  by_chain: np.ndarray


def response(moments: Moments, against: np.ndarray | None = None) -> Response:
  r"""Minus the covariance of the functional with losses less their mean.

  Chains are centered one by one. A sample covariance of correlated draws is too
  small by the covariance of the two means, which batch means estimate and which
  is added back.

  Args:
    moments: over (chain, batch), [C, B, ...].
    against: [Z], shares of the losses in the mean that is subtracted; without
      it none is.

  Raises:
    ValueError: if there are fewer than 24 batches.
  """
  count = moments.count.shape[-1]
  errors.check_num_draws(count)
  losses, products = moments.losses, moments.products
  if against is not None:
    losses = losses - (losses @ against)[..., None]
    products = products - (products @ against)[..., None]
  draws = moments.count.sum(axis=-1)[:, None, None]
  phi = moments.functional[..., None]  # [C, B, 1].
  mean_phi = phi.sum(axis=1, keepdims=True) / draws
  mean_loss = losses.sum(axis=1, keepdims=True) / draws
  n = moments.count[..., None]
  # Sums of (phi - mean) (loss - mean) over the draws of each batch.
  centered = (
    products - mean_phi * losses - mean_loss * phi + n * mean_phi * mean_loss
  )
  covariance = centered.sum(axis=1) / draws[:, 0]
  covariance = covariance + _covariance_of_means(
    phi / n - mean_phi, losses / n - mean_loss
  )
  # Shared minibatches move all chains alike, so errors are of their mean.
  series = np.mean(centered / n, axis=0)  # [B, Z].
  error = np.sqrt(errors.long_run_variance(series.T) / count)
  return Response(-covariance.mean(axis=0), error, -covariance)


def _covariance_of_means(phi: np.ndarray, losses: np.ndarray) -> np.ndarray:
  """Of the means of a chain, from deviations of batch means, [C, Z].

  From 8 long batches, because short ones miss most of the autocorrelation.
  """
  size = phi.shape[1] // errors.NUM_BATCHES
  long = lambda x: (
    x[:, -size * errors.NUM_BATCHES :]
    .reshape(len(x), errors.NUM_BATCHES, size, -1)
    .mean(axis=2)
  )
  products = np.sum(long(phi) * long(losses), axis=1)
  return products / (errors.NUM_BATCHES * (errors.NUM_BATCHES - 1))


def reliability(by_chain: np.ndarray) -> float:
  """Correlation over losses between halves of the chains, for all chains.

  By Spearman and Brown's formula. Near 1 a pattern over losses is signal, near
  0 it is noise.

  Args:
    by_chain: [C, Z], of two chains or more; the last of an odd number is left
      out.
  """
  half = len(by_chain) // 2
  if not half:
    return float('nan')
  halves = by_chain[:half].mean(axis=0), by_chain[half : 2 * half].mean(axis=0)
  correlation = float(np.corrcoef(*halves)[0, 1])
  return 2 * correlation / (1 + correlation)
