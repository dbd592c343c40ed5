"""Texts from a Parquet file, whose stated sizes may be wrong or hostile.

A few hundred bytes can hold a text of megabytes that a million rows share.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import itertools
import os
import pathlib
from typing import Any, BinaryIO

from pyarrow import parquet

from rllc_jax.data import columns
from rllc_jax.data import encodings
from rllc_jax.data import unpacking

_ROWS = 1_024  # In memory at a time.


def read(
  path: pathlib.Path, column: str, skip_nulls: bool = False
) -> Iterator[str | None]:
  """Yields a column of strings, a thousand rows in memory at a time.

  Args:
    path: of the file, or of such a file as gzip.
    column: its name, see `columns.find`.
    skip_nulls: yields None of null.

  Raises:
    OSError: the file cannot be opened.
    ValueError: it is no Parquet file, lacks the column of strings, has a null
      row, or unpacks to more than a thousand times its size.
  """
  with unpacking.unpacked_path(path) as unpacked, unpacked.open('rb') as file:
    size = os.fstat(file.fileno()).st_size
    cells = _cells(file, path, column)
    yield from columns.bounded(cells, path, column, size, skip_nulls)


def _cells(
  file: BinaryIO, path: pathlib.Path, column: str
) -> Iterator[str | None]:
  """Yields the values of a column, one Python string at a time."""
  with encodings.as_value_error(path, 'a Parquet file', 'a Parquet table'):
    table = parquet.ParquetFile(file)
    schema = table.schema_arrow
    columns.check_names(schema)
    size, claimed = file.seek(0, os.SEEK_END), _claimed_bytes(table.metadata)
  parts = columns.find(schema, column, path)
  # A cheap first check; `columns.bounded` counts what is really unpacked.
  if claimed > columns.MOST_EXPANSION * size:
    raise columns.too_much(path, size)
  with encodings.as_value_error(path, 'a Parquet file', 'a Parquet table'):
    yield from _shared_once(file, table.metadata, parts)


def _claimed_bytes(metadata: parquet.FileMetaData) -> int:
  """Bytes of all unpacked pages, as stated; shared values count once.

  Metadata of single columns is not read, because pyarrow aborts the process if
  it is damaged.
  """
  groups = map(metadata.row_group, range(metadata.num_row_groups))
  return sum(group.total_byte_size for group in groups)


def _shared_once(
  file: BinaryIO, metadata: parquet.FileMetaData, parts: Sequence[str]
) -> Iterator[str | None]:
  """Yields values while a value that rows share is in memory once.

  Dictionaries are read as such. pyarrow cannot read delta-encoded strings as a
  dictionary; these are rare, and are read row by row.
  """
  shared = {'read_dictionary': ['.'.join(parts)]}
  done = 0
  try:
    for cell in _read(file, metadata, parts, _ROWS, shared):
      yield cell
      done += 1
    return
  except OSError as error:
    # pyarrow reports delta encodings by this text alone.
    if 'Not yet implemented' not in str(error):
      raise
  # Rows that the first attempt yielded are read again and skipped.
  yield from itertools.islice(_read(file, metadata, parts, 1, {}), done, None)


def _read(
  file: BinaryIO,
  metadata: parquet.FileMetaData,
  parts: Sequence[str],
  rows: int,
  options: Mapping[str, Any],
) -> Iterator[str | None]:
  """Yields the values of the column `parts`, `rows` in memory at a time."""
  table = parquet.ParquetFile(
    file, metadata=metadata, page_checksum_verification=True, **options
  )
  # Another column may be called 'a.b', too, so `cells` selects by the parts.
  for batch in table.iter_batches(batch_size=rows, columns=['.'.join(parts)]):
    yield from columns.cells(batch, parts)
