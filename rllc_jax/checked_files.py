"""Files and directories that are there whole or not at all, and checked JSON.

What is read is what was written, or an error of one line that names the file
and says what to do.
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
  """Gives a path to write to; at the end the file there takes its place.

  Args:
    path: of the file; its directory is made if need be.
    beside: where it is written first; by default a name of this process's own.
      A name that is always the same is replaced after a kill.

  Raises:
    DiskError: if the disk does not take it. What was at `path` is still there.
  """
  own = path.with_name(f'{path.name}.{os.getpid()}{UNFINISHED}')
  beside = beside or own
  with told(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      yield beside
      os.replace(beside, path)
    finally:
      with contextlib.suppress(OSError):
        beside.unlink()


@contextlib.contextmanager
def replacing_directory(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a directory to make; at the end it takes the place of `path`.

  Its name is new each time: when one of Zarr's threads fails, the others go on
  writing for a moment, and a second attempt must not meet them. It is absolute,
  since xarray takes a relative one that begins with '~' for another place.

  Args:
    path: of the directory; what is there is removed once the new one is whole.

  Raises:
    DiskError: if the disk does not take it.
  """
  for left in path.parent.glob(f'{glob.escape(path.name)}.*{UNFINISHED[1:]}'):
    shutil.rmtree(left, ignore_errors=True)
  name = f'{path.name}.{secrets.token_hex(4)}{UNFINISHED}'
  beside = path.absolute().with_name(name)
  try:
    with told(path):
      yield beside
      shutil.rmtree(path, ignore_errors=True)
      beside.rename(path)
  finally:
    shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def told(path: pathlib.Path) -> Iterator[None]:
  """Says of a path what the disk refuses inside: a full one names none.

  Raises:
    DiskError: if it refuses.
  """
  try:
    yield
  except DiskError:  # Of a file within.
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
  whole = {**content, 'checksum': checksum(content)}
  text = json.dumps(whole, indent=1) + '\n'
  write_bytes(path, text.encode('utf-8'))


def read_json(
  path: pathlib.Path, names: Sequence[str], remedy: str
) -> dict[str, Any]:
  """Reads what `write_json` wrote.

  Args:
    path: of the file.
    names: of entries that it must have, or it is a file of another kind.
    remedy: what to do if it is not as it was written, as a sentence.

  Raises:
    ValueError: if it is not.
  """
  try:
    content = json.loads(path.read_bytes())
    came = _fault(content, names)
  except FileNotFoundError:
    content, came = {}, 'no such file'
  except (OSError, ValueError, RecursionError) as error:
    content, came = {}, visible.short(f'{type(error).__name__}: {error}')
  if came:
    raise ValueError(
      f'{path}: expected a JSON object with its checksum; got {came}. {remedy}'
    )
  return {name: x for name, x in content.items() if name != 'checksum'}


def _fault(content: Any, names: Sequence[str]) -> str:
  """What is wrong with a JSON value that was read; '' if nothing is."""
  if not isinstance(content, dict):
    return f'a {type(content).__name__}'
  rest = {name: x for name, x in content.items() if name != 'checksum'}
  if content.get('checksum') != checksum(rest):
    return 'one that is not as it was written'
  missing = [name for name in names if name not in rest]
  return f'one without {", ".join(missing)}' if missing else ''


def checksum(content: Any) -> str:
  """The CRC-32 of a JSON value, however it is laid out, as hexadecimal digits.

  Examples:
    >>> checksum({'a': 1, 'b': [2.0]}) == checksum({'b': [2.0], 'a': 1})
    True
  """
  read = json.loads(json.dumps(content))  # JSON has no tuples and no int keys.
  text = json.dumps(read, sort_keys=True)
  return f'{zlib.crc32(text.encode()):08x}'


def file_checksum(path: pathlib.Path) -> str:
  """The CRC-32 of a file, as hexadecimal digits."""
  found = 0
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      found = zlib.crc32(block, found)
  return f'{found:08x}'


def check_files(
  directory: pathlib.Path, checksums: Mapping[str, str], remedy: str
) -> None:
  """Checks that files are as they were written.

  Args:
    directory: where they lie.
    checksums: name -> `file_checksum` of when it was written. They come from a
      file, too, and may be anything.
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
      found = file_checksum(path)
    except OSError as error:
      found = error.strerror
    if found != expected:
      raise ValueError(
        f'{path}: expected the CRC-32 {visible.short(expected, 40)}, as it was '
        f'written; got {found}. {remedy}'
      )


def lies_in(directory: pathlib.Path, name: str) -> bool:
  """Whether a name is that of something in a directory, links followed.

  Examples:
    >>> [lies_in(pathlib.Path('runs'), name) for name in ('a/b', '../b')]
    [True, False]
  """
  parts = name.split('/')
  if not name.isprintable() or max(map(len, parts)) > _LONGEST_NAME:
    return False
  real = pathlib.Path(os.path.realpath(directory / name))
  return real.is_relative_to(os.path.realpath(directory))
