r"""The derivative of estimates by ln n beta, from draws at one n beta.

With the estimate :math:`\hat\lambda = n\beta (E L - L^*)`, differentiation of
the posterior's mean gives, on any model and at any localization,

.. math:: \frac{d\hat\lambda}{d \ln n\beta}
    = \hat\lambda - (n\beta)^2 \operatorname{Var} L

so a response of 0 says that L scales as if :math:`\hat\lambda` were the
learning coefficient itself: for :math:`L = \sum_k w_k^{p_k}` without
localization, :math:`n\beta L` has mean and variance :math:`\sum_k 1 / p_k`.

L is the loss on all data. The variance of minibatch losses is not its variance:
it has the noise of the minibatches on top, 115 instead of 3.3 in a regression
of ten weights at batches of 8.
"""

import numpy as np
import xarray as xr

from rllc_jax.estimators import cells
from rllc_jax.estimators import errors


def nbeta_response(
  traces: xr.Dataset, *, burn_in: int | None = None
) -> xr.Dataset:
  r"""Reads the variance of the loss and the response to n beta.

  Args:
    traces: from `estimate_trajectory` or a store, of chains that saw all data
      at every step, `full(data)`.
    burn_in: steps left out; by default those of the run.

  Returns:
    Over (checkpoint, dataset, refinement), with `..._error` beside each:
    `heat_capacity`, :math:`(n\beta)^2 \operatorname{Var} L`, and `response`,
    :math:`d\hat\lambda / d \ln n\beta`. NaN under 24 draws after the burn-in.

  Raises:
    ValueError: if the chains saw minibatches, or cells have too few draws.

  Examples:
    See tests/estimators/nbeta_response_test.py.
  """
  traces = cells.with_all_dims(traces)
  shape = tuple(traces.sizes[name] for name in cells.DIMS)
  names = ('heat_capacity', 'response')
  values = {
    name + suffix: np.full(shape, np.nan)
    for name in names
    for suffix in ('', '_error')
  }
  for where, cell in cells.cells(traces, burn_in):
    if not cell.has_enough():
      continue
    _check_full(cell)
    means = _of_cell(traces.attrs['nbeta'] * cell.paired())
    for name, mean in zip(names, means, strict=True):
      values[name][where] = mean.value
      values[f'{name}_error'][where] = mean.standard_error
  return xr.Dataset(
    {name: (cells.DIMS, array) for name, array in values.items()},
    {name: traces[name] for name in cells.DIMS},
    traces.attrs,
  )


def _check_full(cell: cells.Cell) -> None:
  """Raises if the loss at the checkpoint differs between draws."""
  center = cell.kept['center_loss']
  if np.ptp(center):
    raise ValueError(
      'The response to n beta needs chains that see all data at every step, '
      'because the variance of minibatch losses is not that of the loss; got a '
      f'loss at the checkpoint from {center.min():.6g} to {center.max():.6g}. '
      'Give rllc_jax.full(data), which is batch_size=None in estimate_llc.'
    )


def _of_cell(energy: np.ndarray) -> tuple[errors.Mean, errors.Mean]:
  """Heat capacity and response, from n beta (L - L*), [C, D]."""
  mean = errors.mean_with_error(energy.mean(axis=0))
  square = (energy - mean.value) ** 2
  # About the mean of the draws it is too small by the variance of that mean.
  capacity = errors.mean_with_error(
    square.mean(axis=0) + mean.standard_error**2
  )
  response = errors.mean_with_error(
    (energy - square).mean(axis=0) - mean.standard_error**2
  )
  return capacity, response
