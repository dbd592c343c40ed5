"""Atomic writes of files and directories, and JSON with checksums.

Reading returns exactly the written content, or raises an error of one line with
the path and the remedy.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import glob
import json
import os
import pathlib
import secrets
import shutil
from typing import Any
import zlib

from rllc_jax import visible

UNFINISHED = '.unfinished'  # The end of names that a kill may leave.
_BLOCK = 2**20  # Bytes read at a time.
_LONGEST_NAME = 255  # Characters.


class DiskError(OSError):
  """A disk that does not take a file; the text says which, and what to do."""


@contextlib.contextmanager
def replacing(
  path: pathlib.Path, beside: pathlib.Path | None = None
) -> Iterator[pathlib.Path]:
  """Yields a temporary path; at the end its file replaces `path`.

  Args:
    path: of the file; its directory is made if need be.
    beside: the temporary path; by default unique to this process. A fixed one
      is overwritten after a kill.

  Raises:
    DiskError: if it cannot be written. `path` is then unchanged.
  """
  default = path.with_name(f'{path.name}.{os.getpid()}{UNFINISHED}')
  beside = beside or default
  with with_path_in_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield beside
      os.replace(beside, path)
    finally:
      with contextlib.suppress(OSError):
        beside.unlink()


@contextlib.contextmanager
def replacing_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields a temporary directory path; at the end it replaces `path`.

  Args:
    path: of the directory; an old one is removed once the new one is whole.

  Raises:
    DiskError: if the disk does not take it.
  """
  for unfinished in path.parent.glob(
    f'{glob.escape(path.name)}.*{UNFINISHED[1:]}'
  ):
    shutil.rmtree(unfinished, ignore_errors=True)
  # New each time: after one of Zarr's threads fails, the others still write for
  # a moment, and a second attempt must not meet them.
  name = f'{path.name}.{secrets.token_hex(4)}{UNFINISHED}'
  # Absolute: xarray expands a relative path that begins with '~'.
  beside = path.absolute().with_name(name)
  try:
    with with_path_in_errors(path):
      yield beside
      shutil.rmtree(path, ignore_errors=True)
      beside.rename(path)
  finally:
    shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def with_path_in_errors(path: pathlib.Path) -> Iterator[None]:
  """Re-raises OSError with the path, because ENOSPC carries none.

  Raises:
    DiskError: for any OSError inside.
  """
  try:
    yield
  except DiskError:  # It already names an inner file.
    raise
  except OSError as error:
    raise DiskError(
      f'{path}: expected a disk that takes it; got {error}. Make room, or see '
      'that its directory can be written to, and run the same command again.'
    ) from None


def write_bytes(path: pathlib.Path, content: bytes) -> None:
  """Writes a file whole or not at all.

  Raises:
    DiskError: if the disk does not take it.
  """
  with replacing(path) as beside:
    beside.write_bytes(content)


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON object and, as its entry 'checksum', the CRC-32 of the rest.

  Raises:
    DiskError: if the disk does not take it.
  """
  checked = {**content, 'checksum': checksum(content)}
  text = json.dumps(checked, indent=1) + '\n'
  write_bytes(path, text.encode('utf-8'))


def read_json(
  path: pathlib.Path, names: Sequence[str], remedy: str
) -> dict[str, Any]:
  """Reads a JSON object and verifies its checksum; see `write_json`.

  Args:
    path: of the file.
    names: of required entries, which tell this kind of file from others.
    remedy: what to do about a damaged file, as a sentence.

  Raises:
    ValueError: if it is missing, damaged or of another kind.
  """
  try:
    content = json.loads(path.read_bytes())
    fault = _fault(content, names)
  except FileNotFoundError:
    content, fault = {}, 'no such file'
  except (OSError, ValueError, RecursionError) as error:
    content, fault = {}, visible.short(f'{type(error).__name__}: {error}')
  if fault:
    raise ValueError(
      f'{path}: expected a JSON object with its checksum; got {fault}. {remedy}'
    )
  return {name: x for name, x in content.items() if name != 'checksum'}


def _fault(content: Any, names: Sequence[str]) -> str:
  """Describes the fault of a JSON value that was read; '' if there is none."""
  if not isinstance(content, dict):
    return f'a {type(content).__name__}'
  entries = {name: x for name, x in content.items() if name != 'checksum'}
  if content.get('checksum') != checksum(entries):
    return 'one that is not as it was written'
  missing = [name for name in names if name not in entries]
  return f'one without {", ".join(missing)}' if missing else ''


def checksum(content: Any) -> str:
  """The CRC-32 of a JSON value, whatever its layout, as hexadecimal digits.

  Examples:
    >>> checksum({'a': 1, 'b': [2.0]}) == checksum({'b': [2.0], 'a': 1})
    True
  """
  # JSON has no tuples and no int keys.
  normalized = json.loads(json.dumps(content))
  text = json.dumps(normalized, sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def file_checksum(path: pathlib.Path) -> str:
  """The CRC-32 of a file, as hexadecimal digits."""
  crc = 0
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      crc = zlib.crc32(block, crc)
  return f'{crc:08x}'


def check_files(
  directory: pathlib.Path, checksums: Mapping[str, str], remedy: str
) -> None:
  """Checks files against their checksums.

  Args:
    directory: where they lie.
    checksums: name -> `file_checksum` at the time of writing. They come from a
      file, so they may be of any type.
    remedy: what to do if one is not, as a sentence.

  Raises:
    ValueError: if one is missing or damaged, or does not lie there.
  """
  if not isinstance(checksums, dict):
    raise ValueError(
      f'{directory}: expected checksums of files by name; got '
      f'{visible.short(checksums, 40)}. {remedy}'
    )
  for name, expected in checksums.items():
    if not lies_in(directory, name):
      raise ValueError(
        f'{directory}: expected names of files in it; got '
        f'{visible.short(name, 80)}. {remedy}'
      )
    path = directory / name
    try:
      actual = file_checksum(path)
    except OSError as error:
      actual = error.strerror
    if actual != expected:
      raise ValueError(
        f'{path}: expected the CRC-32 {visible.short(expected, 40)}, as it was '
        f'written; got {actual}. {remedy}'
      )


def lies_in(directory: pathlib.Path, name: str) -> bool:
  """True if a name leads to a path inside a directory, links followed.

  Examples:
    >>> [lies_in(pathlib.Path('runs'), name) for name in ('a/b', '../b')]
    [True, False]
  """
  parts = name.split('/')
  if not name.isprintable() or max(map(len, parts)) > _LONGEST_NAME:
    return False
  real = pathlib.Path(os.path.realpath(directory / name))
  return real.is_relative_to(os.path.realpath(directory))
