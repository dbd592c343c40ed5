"""The record of a training run: its losses, in xarray and Zarr."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
import pathlib
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax import checked_files


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


def save_record(record: xr.Dataset, path: str | os.PathLike[str]) -> None:
  """Writes a record as a Zarr directory, atomically.

  A leading `~` of the path is the home of the user.

  Raises:
    ValueError: if `path` exists.
    OSError: if the disk fails.
  """
  path = pathlib.Path(os.path.expanduser(path))
  if path.exists():
    raise ValueError(
      f'A new directory was expected at {path}, because a record is written '
      'once; got one that exists.'
    )
  # Zarr format 2, because format 3 has no strings of fixed length. No fill
  # value, or xarray would read zeros as missing.
  encoding = {name: {'_FillValue': None} for name in record.variables}
  with checked_files.replacing_directory(path) as beside:
    record.to_zarr(
      beside, mode='w', consolidated=False, zarr_format=2, encoding=encoding
    )
    # Last, because the checksums are of all other files.
    attributes = json.loads((beside / '.zattrs').read_bytes())
    attributes['files'] = _checksums(beside)
    checked_files.write_json(beside / '.zattrs', attributes)


def load_record(path: str | os.PathLike[str]) -> xr.Dataset:
  """Reads a record into memory and verifies every byte of it.

  Raises:
    ValueError: if the record at `path` is missing or damaged.
  """
  path = pathlib.Path(os.path.expanduser(path))
  remedy = (
    f'Put back a copy, or remove {path} and run the command that wrote it '
    'again: it gives the same.'
  )
  if not path.is_dir():
    raise ValueError(
      f'A record was expected at {path}, because a finished run writes one; '
      f'got no such directory. {remedy}'
    )
  attributes = checked_files.read_json(path / '.zattrs', ['files'], remedy)
  checked_files.check_files(path, attributes['files'], remedy)
  with xr.open_zarr(path.absolute(), consolidated=False) as record:
    loaded = record.load()
  # Entries of the file format, not of the record that was saved.
  del loaded.attrs['files'], loaded.attrs['checksum']
  return loaded


def _checksums(path: pathlib.Path) -> dict[str, str]:
  """Checksums of all files of a record but `.zattrs`, which holds them."""
  return {
    file.relative_to(path).as_posix(): checked_files.file_checksum(file)
    for file in sorted(path.rglob('*'))
    if file.is_file() and file != path / '.zattrs'
  }
