"""Texts from a Parquet file, of which not even its sizes can be relied on.

A few hundred bytes can hold a text of megabytes that a million rows share.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import itertools
import os
import pathlib
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import parquet

from rllc_jax import visible

_ROWS = 1_024  # In memory at a time.
_MOST_EXPANSION = 1_000  # Characters a byte of the file; real text has 2 to 30.
_LEAST = 64  # That a row counts for, or empty ones could go on for ever.


def read(path: pathlib.Path, column: str) -> Iterator[str]:
  """Yields a column of strings, a thousand rows in memory at a time.

  Args:
    path: of the file.
    column: its name.

  Raises:
    OSError: the file cannot be opened.
    ValueError: it is no Parquet file, has no such column of strings, has a row
      without one, or unfolds to more than a thousand times its size.
  """
  with path.open('rb') as file:
    size = os.fstat(file.fileno()).st_size
    left = _MOST_EXPANSION * size
    for row, text in enumerate(_cells(file, path, column)):
      if text is None:
        raise ValueError(
          f'{path}: expected a string in row {row} of {column!r}; got null'
        )
      left -= max(len(text), _LEAST)
      if left < 0:
        raise _too_much(path, size)
      yield text


def _cells(
  file: BinaryIO, path: pathlib.Path, column: str
) -> Iterator[str | None]:
  """Yields the values of a column, one at a time as a string of its own."""
  with _told(path):
    table = parquet.ParquetFile(file)
    fields = [(field.name, field.type) for field in table.schema_arrow]
    size, claimed = file.seek(0, os.SEEK_END), _claimed_bytes(table.metadata)
  _check(fields, path, column)
  if claimed > _MOST_EXPANSION * size:
    raise _too_much(path, size)
  with _told(path):
    yield from _lean(file, table.metadata, column)


def _claimed_bytes(metadata: parquet.FileMetaData) -> int:
  """Of all pages unpacked; what rows share counts once.

  No more is asked of what a file says of itself: of a damaged column it would
  end the process.
  """
  groups = map(metadata.row_group, range(metadata.num_row_groups))
  return sum(group.total_byte_size for group in groups)


def _lean(
  file: BinaryIO, metadata: parquet.FileMetaData, column: str
) -> Iterator[str | None]:
  """Yields values such that what rows share is in memory once.

  A dictionary is read as one. Strings that are told by how they differ from the
  one before, which is rare, cannot be, and are read one by one.
  """
  shared = {'read_dictionary': [column]}
  done = 0
  try:
    for cell in _read(file, metadata, column, _ROWS, shared):
      yield cell
      done += 1
    return
  except OSError as error:
    if 'Not yet implemented' not in str(error):
      raise
  yield from itertools.islice(_read(file, metadata, column, 1, {}), done, None)


def _read(
  file: BinaryIO,
  metadata: parquet.FileMetaData,
  column: str,
  rows: int,
  options: Mapping[str, Any],
) -> Iterator[str | None]:
  table = parquet.ParquetFile(
    file, metadata=metadata, page_checksum_verification=True, **options
  )
  for batch in table.iter_batches(batch_size=rows, columns=[column]):
    for cell in batch.column(0):
      yield cell.as_py()


def _check(
  fields: Sequence[tuple[str, Any]], path: pathlib.Path, column: str
) -> None:
  found = [kind for name, kind in fields if name == column]
  if len(found) != 1:
    names = visible.short(', '.join(name for name, _ in fields))
    raise ValueError(
      f'{path}: expected a column {column!r}, because it holds the text; '
      f'got the columns {names}'
    )
  if not (pa.types.is_string(found[0]) or pa.types.is_large_string(found[0])):
    raise ValueError(
      f'{path}: expected strings in {column!r}; got {visible.short(found[0])}'
    )


def _too_much(path: pathlib.Path, size: int) -> ValueError:
  return ValueError(
    f'{path}: expected at most {_MOST_EXPANSION} characters a byte, because '
    f'more is no text; got {size} bytes that unfold to more'
  )


@contextlib.contextmanager
def _told(path: pathlib.Path) -> Iterator[None]:
  """Makes one line that names the file of whatever the library raises."""
  try:
    yield
  except Exception as error:  # Its parts have no common one.
    raise ValueError(
      f'{path}: expected a Parquet file, because of its suffix; '
      f'got {visible.short(error)}'
    ) from None
