"""The record of a training run: its losses, in xarray and Zarr."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax.zarr_records import load_record as load_record
from rllc_jax.zarr_records import save_record as save_record


def training_record(
  losses: np.ndarray,
  checkpoint_steps: Sequence[int],
  evaluation: Mapping[str, Sequence[float]],
  identity: Mapping[str, Any],
) -> xr.Dataset:
  """Builds the data set of the losses of a training run.

  Args:
    losses: [steps], that of each step's batch, before its update.
    checkpoint_steps: [checkpoints], steps made before each checkpoint.
    evaluation: name -> [checkpoints], losses on fixed sequences.
    identity: JSON values that define the run.

  Returns:
    `loss` (step) and `NAME_loss` (checkpoint), float32, mean nats per predicted
    token. Entry s of `loss` and the checkpoint of step s are of the same
    weights. The identity is the attribute 'identity', as JSON text.

  Examples:
    >>> record = training_record(np.ones(3), [0, 3], {'train': [2, 1]}, {})
    >>> sorted(record), dict(record.sizes)
    (['loss', 'train_loss'], {'step': 3, 'checkpoint': 2})
  """
  units = {'units': 'nats per predicted token'}
  variables = {'loss': ('step', np.asarray(losses, np.float32), units)}
  for name, values in evaluation.items():
    values = np.asarray(values, np.float32)
    variables[f'{name}_loss'] = ('checkpoint', values, units)
  coordinates = {
    'step': np.arange(len(losses)),
    'checkpoint': np.array(checkpoint_steps, np.int64),
  }
  attributes = {'identity': json.dumps(identity)}
  return xr.Dataset(variables, coordinates, attributes)
