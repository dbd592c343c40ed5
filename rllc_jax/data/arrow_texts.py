"""Texts from Arrow IPC files and streams, which may be damaged or hostile.

Compressed buffers state their unpacked size. It is read and bounded before any
is unpacked, because 4 bytes of zstd can hold 128 kilobytes.
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
_FILE_HEAD = 8  # Bytes of the padded magic number before a file's stream.


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
    ValueError: it is no Arrow data, lacks the column of strings, has a null
      row, or unpacks to more than `unpacking.most_bytes`.
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
  """Returns the schema and the offset at which the stream begins.

  Raises:
    ValueError: the end is missing, or the batches unpack to too many bytes.
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
    budget = unpacking.most_bytes(size)
    # Only sizes are read here: a bomb is refused before it is unpacked.
    for message in ipc.MessageReader.open_stream(file):
      budget -= _unpacked_bytes(message)
      if budget < 0:
        raise ValueError(f'{size} bytes that unfold to far more than a text')
  return schema, start


def _cells(
  unpacked: pathlib.Path,
  path: pathlib.Path,
  start: int,
  schema: pa.Schema,
  parts: tuple[str, ...],
) -> Iterator[str | None]:
  """Yields the values of the column `parts`, batch by batch."""
  index = schema.get_field_index(parts[0])
  # Only the text column is unpacked; the others may be large.
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


# Sizes of compressed buffers. pyarrow exposes a message's metadata only as the
# bytes of a FlatBuffer, where a table is an offset to a list of field offsets.


def _unpacked_bytes(message: ipc.Message) -> int:
  """Bytes that the buffers of a message take once unpacked."""
  if message.type not in ('dictionary', 'record batch'):
    return 0
  body, metadata = memoryview(message.body), memoryview(message.metadata)
  # Field 2 of a Message is its header: a RecordBatch or a DictionaryBatch.
  batch = _follow(metadata, _field(metadata, _follow(metadata, 0), 2))
  if message.type == 'dictionary':
    batch = _follow(metadata, _field(metadata, batch, 1))
  if not _field(metadata, batch, 3):  # No compression.
    return len(body)
  buffers = _follow(metadata, _field(metadata, batch, 2))
  count = _number('<I', metadata, buffers)
  return sum(
    _buffer_bytes(metadata, body, buffers + 4 + 16 * i) for i in range(count)
  )


def _buffer_bytes(metadata: memoryview, body: memoryview, place: int) -> int:
  """Unpacked bytes of one buffer, whose (offset, length) is at `place`."""
  start, length = struct.unpack_from('<qq', metadata, place)
  if length < 8:  # Too short for the 8 bytes that state the size.
    return 0
  size = _number('<q', body, start)
  return length if size < 0 else size  # -1: not compressed.


def _number(kind: str, buffer: memoryview, place: int) -> int:
  """Reads one number in the format `kind` of `struct`."""
  if place < 0:  # struct would count it from the end.
    raise ValueError('an offset before the beginning')
  return struct.unpack_from(kind, buffer, place)[0]


def _follow(metadata: memoryview, place: int) -> int:
  """The target of the relative offset that is stored at `place`."""
  return place + _number('<I', metadata, place)


def _field(metadata: memoryview, table: int, index: int) -> int:
  """The offset of a field of a table; 0 if the field is absent."""
  places = table - _number('<i', metadata, table)
  if 4 + 2 * index >= _number('<H', metadata, places):
    return 0
  offset = _number('<H', metadata, places + 4 + 2 * index)
  return table + offset if offset else 0
