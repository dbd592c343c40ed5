"""Files that are there whole or not at all, whenever a run is killed.

What a store writes goes through here, or through Zarr, which replaces files in
the same way.
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

  Only one process writes it; what a kill leaves is what the next one replaces.

  Raises:
    checked_files.DiskError: if the disk does not take it.
  """
  with checked_files.replacing(path, path.with_name(path.name + '.new')) as new:
    new.write_bytes(content)


def write_arrays(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray], owner: str
) -> None:
  """Writes named arrays of a store, with a checksum each, in one move."""
  content = io.BytesIO()
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
    found = str(arrays.pop('owner'))
  except FileNotFoundError:
    return {}
  except Exception as error:  # NumPy and zipfile raise what comes.
    raise DamagedFileError(f'{type(error).__name__}: {error}') from error
  if found != owner:
    raise DamagedFileError('a file of another store')
  if strange := [name for name in arrays if not _is_plain(name)]:
    raise DamagedFileError(f'an array named {visible.short(strange[0], 40)}')
  return arrays


def array_names(path: pathlib.Path) -> list[str]:
  """Names of arrays in a file, which are not read; none if there is no file.

  Raises:
    DamagedFileError: if it cannot be seen.
  """
  try:
    with open(path, 'rb') as file, np.load(file, allow_pickle=False) as saved:
      return saved.files
  except FileNotFoundError:
    return []
  except Exception as error:  # NumPy and zipfile raise what comes.
    raise DamagedFileError(f'{type(error).__name__}: {error}') from error


def _is_plain(name: str) -> bool:
  """Whether it is NAME or KIND/NAME, and a NAME can be that of a directory."""
  parts = name.split('/')
  return len(parts) <= 2 and not {'', '.', '..'} & {*parts}


def remove(path: pathlib.Path) -> None:
  """Removes a file, or a directory in its place, or nothing."""
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink(missing_ok=True)


def name_of(name: str) -> str:
  """A name of a file that no other name has, whatever its length and letters.

  Examples:
    >>> name_of('0:3')
    '0%3A3-b13634a2'
  """
  digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
  return f'{parse.quote(name, safe="")[:80]}-{digest}'
