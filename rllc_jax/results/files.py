"""Atomic writes: a file is whole or absent, whenever a run is killed.

A store writes through this module, or through Zarr, which replaces files in the
same way.
"""

from collections.abc import Mapping
import hashlib
import io
import pathlib
import shutil
from urllib import parse

import numpy as np

from rllc_jax import checked_files
from rllc_jax import visible


class DamagedFileError(ValueError):
  """A file is not what was written; the text is the reason."""


def replace(path: pathlib.Path, content: bytes) -> None:
  """Writes a file in one move: whole, or not at all.

  Only one process writes it. A temporary file that a kill leaves is replaced by
  the next call.

  Raises:
    checked_files.DiskError: if the disk does not take it.
  """
  with checked_files.replacing(path, path.with_name(path.name + '.new')) as new:
    new.write_bytes(content)


def write_arrays(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray], owner: str
) -> None:
  """Writes named arrays of a store, with a checksum each, in one move."""
  content = io.BytesIO()  # In memory first, so that the file is one move.
  np.savez(content, allow_pickle=False, owner=np.array(owner), **arrays)
  replace(path, content.getvalue())


def read_arrays(path: pathlib.Path, owner: str) -> dict[str, np.ndarray]:
  """Reads what `write_arrays` wrote; none if there is no such file.

  Raises:
    DamagedFileError: if it is not what was written, or is of another store.
  """
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as saved:
      arrays = dict(saved)
    file_owner = str(arrays.pop('owner'))
  except FileNotFoundError:
    return {}
  except Exception as error:  # NumPy and zipfile raise what comes.
    raise DamagedFileError(f'{type(error).__name__}: {error}') from error
  if file_owner != owner:
    raise DamagedFileError('a file of another store')
  if strange := [name for name in arrays if not _is_plain(name)]:
    raise DamagedFileError(f'an array named {visible.short(strange[0], 40)}')
  return arrays


def array_names(path: pathlib.Path) -> list[str]:
  """Names of a file's arrays, without reading these; none if it is missing.

  Raises:
    DamagedFileError: if the file cannot be parsed.
  """
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as saved:
      return saved.files
  except FileNotFoundError:
    return []
  except Exception as error:  # NumPy and zipfile raise what comes.
    raise DamagedFileError(f'{type(error).__name__}: {error}') from error


def _is_plain(name: str) -> bool:
  """True for NAME or KIND/NAME, each usable as the name of a directory."""
  # A hostile store could lead out of the directory: names become paths.
  parts = name.split('/')
  return len(parts) <= 2 and not {'', '.', '..'} & {*parts}


def remove(path: pathlib.Path) -> None:
  """Removes a file, or a directory in its place, or nothing."""
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def name_of(name: str) -> str:
  """A unique file name for any name, whatever its length and letters.

  Examples:
    >>> name_of('0:3')
    '0%3A3-b13634a2'
  """
  # Cut names may agree in 80 letters; the hash still differs.
  digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
  return f'{parse.quote(name, safe="")[:80]}-{digest}'
