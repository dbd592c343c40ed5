"""Files that may be gzip, recognized by their first bytes and not their names.

A kilobyte of gzip can hold a megabyte, so the output is bounded.
"""

from collections.abc import Iterator
import contextlib
import gzip
import io
import os
import pathlib
import shutil
import tempfile
from typing import BinaryIO
import zlib

from rllc_jax import visible

_GZIP = b'\x1f\x8b'
_MOST_EXPANSION = 100  # Bytes a byte of gzip; text has 2 to 30.
_ALWAYS = 2**20  # Bytes allowed to any file: tiny ones can compress better.


def most_bytes(size: int) -> int:
  """Bytes that a compressed file of `size` bytes may unpack to.

  Examples:
    >>> most_bytes(200), most_bytes(2_000_000)
    (1048576, 200000000)
  """
  return max(_MOST_EXPANSION * size, _ALWAYS)


def suffix(path: str | pathlib.Path) -> str:
  """The suffix of a file, before any '.gz', in lower case.

  Examples:
    >>> suffix('a.JSONL.gz'), suffix('b.txt')
    ('.jsonl', '.txt')
  """
  return without_gz(path).suffix.lower()


def without_gz(path: str | pathlib.Path) -> pathlib.Path:
  """The path without a '.gz' at its end."""
  path = pathlib.Path(path)
  return path.with_suffix('') if path.suffix.lower() == '.gz' else path


def is_gzip(path: pathlib.Path) -> bool:
  """True if the file begins as gzip does."""
  with path.open('rb') as file:
    return file.read(len(_GZIP)) == _GZIP


def open_bytes(path: pathlib.Path) -> BinaryIO:
  """Opens a file for reading, unpacked if it is gzip.

  Raises:
    OSError: it cannot be opened.
    ValueError: while reading: it is damaged, or unpacks to more than
      `most_bytes`.
  """
  file = path.open('rb')
  if not is_gzip(path):
    return file
  # _Unpacked has only the methods that a BufferedReader calls.
  return io.BufferedReader(_Unpacked(file, path), 2**16)


class _Unpacked(io.RawIOBase):
  """The bytes inside a gzip file, up to a bound."""

  def __init__(self, file: BinaryIO, path: pathlib.Path):
    super().__init__()
    self._file, self._path = file, path
    self._unpacker = gzip.GzipFile(fileobj=file)
    self._size = os.fstat(file.fileno()).st_size
    self._budget = most_bytes(self._size)

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    try:
      data = self._unpacker.read(len(buffer))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
      raise ValueError(
        f'{self._path}: expected gzip, because of its first bytes; got '
        f'{visible.short(error)}. Put back a complete copy'
      ) from None
    self._budget -= len(data)
    if self._budget < 0:
      raise ValueError(
        f'{self._path}: expected at most {_MOST_EXPANSION} bytes a byte of '
        f'gzip, because more is rarely text; got {self._size} bytes that '
        'unfold to more. If it is text, unpack it with gunzip'
      )
    buffer[: len(data)] = data
    return len(data)

  def close(self) -> None:
    self._file.close()
    super().close()


@contextlib.contextmanager
def unpacked_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the path of an unpacked copy, for readers that seek.

  Raises:
    OSError: as `open_bytes`, or the folder of temporary files is full.
    ValueError: as `open_bytes`.
  """
  if not is_gzip(path):
    yield path
    return
  with tempfile.NamedTemporaryFile() as unpacked:
    with open_bytes(path) as source:
      shutil.copyfileobj(source, unpacked)
    unpacked.flush()  # The caller opens the file by its name.
    yield pathlib.Path(unpacked.name)
