"""Data sets of xarray as Zarr directories with a checksum of every file."""

from collections.abc import Iterable
import json
import os
import pathlib
from typing import Any

import xarray as xr

from rllc_jax import checked_files


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
  replace_record([record], path)


def replace_record(
  parts: Iterable[xr.Dataset], path: pathlib.Path, dim: str = ''
) -> None:
  """Writes parts, which follow one another along a dim, in place of a record.

  Raises:
    OSError: if the disk fails.
  """
  with checked_files.replacing_directory(path) as beside:
    for number, part in enumerate(parts):
      # Zarr format 2, because format 3 has no strings of fixed length. No fill
      # value, or xarray would read zeros as missing.
      encoding = {name: {'_FillValue': None} for name in part.variables}
      how: dict[str, Any] = {'mode': 'w', 'encoding': encoding}
      if number:
        how = {'mode': 'a', 'append_dim': dim}
      part.to_zarr(beside, consolidated=False, zarr_format=2, **how)
    if dim:
      import zarr  # Here: what only reads needs no Zarr.

      # Other programs read one file of metadata instead of one an array.
      zarr.consolidate_metadata(beside, zarr_format=2)
    # Last, because the checksums are of all other files.
    attributes = json.loads((beside / '.zattrs').read_bytes())
    attributes['files'] = _checksums(beside)
    checked_files.write_json(beside / '.zattrs', attributes)


def load_record(path: str | os.PathLike[str]) -> xr.Dataset:
  """Reads a record into memory and verifies every byte of it.

  Raises:
    ValueError: if the record at `path` is missing or damaged.
  """
  with open_record(pathlib.Path(os.path.expanduser(path))) as record:
    return record.load()


def open_record(path: pathlib.Path) -> xr.Dataset:
  """Verifies every byte of a record, and reads its arrays when asked for.

  Raises:
    ValueError: if the record at `path` is missing or damaged.
  """
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
  record = xr.open_zarr(path.absolute(), consolidated=False)
  # Entries of the file format, not of the record that was saved.
  del record.attrs['files'], record.attrs['checksum']
  return record


def _checksums(path: pathlib.Path) -> dict[str, str]:
  """Checksums of all files of a record but `.zattrs`, which holds them."""
  return {
    file.relative_to(path).as_posix(): checked_files.file_checksum(file)
    for file in sorted(path.rglob('*'))
    if file.is_file() and file != path / '.zattrs'
  }
