"""Texts from Arrow's IPC files and streams, of which nothing is relied on.

Compressed buffers say how large they will be, and that is read and bounded
before any is unpacked: 4 bytes of zstd can hold 128 kilobytes.
"""

from collections.abc import Iterator
import pathlib
import struct

import pyarrow as pa
from pyarrow import ipc

from rllc_jax.data import columns
from rllc_jax.data import encodings
from rllc_jax.data import unpacking

_MAGIC = b'ARROW1'
_FILE_HEAD = 8  # Bytes before the stream that a file contains.


def read(
  path: pathlib.Path, column: str, skip_nulls: bool = False
) -> Iterator[str | None]:
  """Yields a column of strings, a record batch in memory at a time.

  Args:
    path: of an IPC file or stream, or of one as gzip.
    column: its name, see `columns.find`.
    skip_nulls: yields None of null.

  Raises:
    OSError: the file cannot be opened.
    ValueError: it is neither, has no such column of strings, has a row without
      one, or unfolds to more than `unpacking.most_bytes`.
  """
  with unpacking.unpacked_path(path) as unpacked:
    size = unpacked.stat().st_size
    with encodings.as_value_error(
      path, 'an Arrow IPC file or stream', 'an Arrow table'
    ):
      schema, start = _checked_schema(unpacked, size)
    parts = columns.find(schema, column, path)
    cells = _cells(unpacked, path, start, schema, parts)
    yield from columns.bounded(cells, path, column, size, skip_nulls)


def _checked_schema(path: pathlib.Path, size: int) -> tuple[pa.Schema, int]:
  """Returns the schema, and where the stream begins.

  Raises:
    ValueError: the end is missing, or the batches unfold to too much.
  """
  with pa.memory_map(str(path)) as file:
    start = _FILE_HEAD if file.read(len(_MAGIC)) == _MAGIC else 0
    if start:
      file.seek(max(0, size - len(_MAGIC)))
      if file.read() != _MAGIC:
        raise ValueError('a file without its end')
    # Batches are read in the order of the stream: an index at the end of a
    # file could name one batch a million times.
    file.seek(start)
    schema = ipc.open_stream(file).schema
    columns.check_names(schema)
    file.seek(start)
    left = unpacking.most_bytes(size)
    for message in ipc.MessageReader.open_stream(file):
      left -= _unpacked_bytes(message)
      if left < 0:
        raise ValueError(f'{size} bytes that unfold to far more than a text')
  return schema, start


def _cells(
  unpacked: pathlib.Path,
  path: pathlib.Path,
  start: int,
  schema: pa.Schema,
  parts: tuple[str, ...],
) -> Iterator[str | None]:
  index = schema.get_field_index(parts[0])
  options = ipc.IpcReadOptions(included_fields=[index])
  with (
    encodings.as_value_error(
      path, 'an Arrow IPC file or stream', 'an Arrow table'
    ),
    pa.memory_map(str(unpacked)) as file,
  ):
    file.seek(start)
    for batch in ipc.open_stream(file, options=options):
      # Offsets that lead out of the buffers would read other memory.
      batch.validate(full=True)
      yield from columns.cells(batch, parts)


# Sizes of what is compressed. Messages are FlatBuffers, of which pyarrow shows
# no more than the bytes: a table is an offset to a list of its fields' places.


def _unpacked_bytes(message: ipc.Message) -> int:
  """Bytes that the buffers of a message will take in memory."""
  if message.type not in ('dictionary', 'record batch'):
    return 0
  body, metadata = memoryview(message.body), memoryview(message.metadata)
  batch = _follow(metadata, _field(metadata, _follow(metadata, 0), 2))
  if message.type == 'dictionary':
    batch = _follow(metadata, _field(metadata, batch, 1))
  if not _field(metadata, batch, 3):  # Of the compression.
    return len(body)
  buffers = _follow(metadata, _field(metadata, batch, 2))
  count = _number('<I', metadata, buffers)
  return sum(
    _buffer_bytes(metadata, body, buffers + 4 + 16 * i) for i in range(count)
  )


def _buffer_bytes(metadata: memoryview, body: memoryview, place: int) -> int:
  start, length = struct.unpack_from('<qq', metadata, place)
  if length < 8:
    return 0
  size = _number('<q', body, start)
  return length if size < 0 else size  # -1 of one that is not compressed.


def _number(kind: str, buffer: memoryview, place: int) -> int:
  if place < 0:  # Which struct would count from the end.
    raise ValueError('an offset before the beginning')
  return struct.unpack_from(kind, buffer, place)[0]


def _follow(metadata: memoryview, place: int) -> int:
  return place + _number('<I', metadata, place)


def _field(metadata: memoryview, table: int, index: int) -> int:
  """The place of a field of a table; 0 if it is left out."""
  places = table - _number('<i', metadata, table)
  if 4 + 2 * index >= _number('<H', metadata, places):
    return 0
  offset = _number('<H', metadata, places + 4 + 2 * index)
  return table + offset if offset else 0
