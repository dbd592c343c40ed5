"""Saved results made by hand: two layers of two heads at three checkpoints."""

import numpy as np
import xarray as xr

DIMS = ('checkpoint', 'dataset', 'refinement')
STEPS, HEADS = [0, 10, 100], ['0:0', '0:1', '1:0', '1:1']
HEALTHY = {
  'standard_error': 0.25,
  'equilibrium_ratio': 1.0,
  'equilibrium_ratio_error': 0.01,
  'rhat': 1.01,
  'ess': 400.0,
  'halves_difference': 0.5,
  'drift_to_noise': 0.05,
  'negative_share': 0.1,
  'distance': 9.0,
  'step_bias': 0.1,
  'step_bias_error': 0.0,
  'step_bias_share': 0.02,
  'loss_rounding': 1e-5,
  'failure_kind': 0,
  'num_chains': 4,
  'num_draws': 250,
  'num_kept': 200,
  'num_failed': 0,
}


def estimates():
  """Healthy estimates; heads separate in layer 0, not in layer 1."""
  llc = np.zeros((3, 1, 4)) + [
    [[1.0, 1, 1, 1]],
    [[5, 6, 5, 6]],
    [[9, 19, 8, 8]],
  ]
  values = {name: np.full(llc.shape, x) for name, x in HEALTHY.items()}
  values.update(llc=llc, low=llc - 0.5, high=llc + 0.5)
  return xr.Dataset(
    {
      **{name: (DIMS, x) for name, x in values.items()},
      'failed': ((*DIMS, 'chain'), np.zeros((*llc.shape, 4), bool)),
    },
    {
      **dict(zip(DIMS, (STEPS, ['<text>'], HEADS), strict=True)),
      'chain': range(4),
    },
    {'baseline': 'paired'},
  )


def changed(name, value, step=100, head='0:1'):
  """Estimates with another value in one cell."""
  dataset = estimates()
  dataset[name].loc[{'checkpoint': step, 'refinement': head}] = value
  return dataset
