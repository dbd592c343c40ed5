"""Documents from files of one's own: JSON lines, Parquet, plain text."""

from collections.abc import Callable
from collections.abc import Iterator
import json
import pathlib
import re
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from rllc_jax.data import documents

_PASSAGE = 10_000  # Characters of a plain text that make one document.
_ROWS = 1_024  # Of a Parquet file, in memory at a time.


def source(path: str, text_field: str = 'text') -> documents.Source:
  """A source that reads one file.

  Args:
    path: 'FILE' or 'NAME=FILE'; the suffix decides how it is read: one JSON
      object a line (.jsonl), a table (.parquet), or text (.txt) that is cut at
      line ends into documents of about 10,000 characters. The domain is
      called NAME, or else FILE without folder and suffix.
    text_field: the field or column that holds the text; .txt has none.

  Raises:
    ValueError: the suffix is unknown or the name cannot be part of a path.
      While reading: the file is not what its suffix says.

  Examples:
    >>> source('web=shard_0.jsonl').name, source('notes.txt').name
    ('web', 'notes')
  """
  name, equals, file = path.partition('=')
  file = pathlib.Path(file if equals else path)
  name = name if equals else file.stem
  if not re.fullmatch(r'[\w.-]+', name):
    raise ValueError(
      'expected a domain name of letters, digits and _.-, because it becomes '
      f'part of a path; got {name!r} (say NAME={file})'
    )
  if file.suffix not in READERS:
    raise ValueError(
      f'{file}: expected a file ending in {", ".join(READERS)}, because the '
      f'suffix says how to read it; got {file.suffix!r}'
    )
  read = READERS[file.suffix]
  return documents.Source(
    name, "the user's own", None, lambda: read(file, text_field)
  )


def read_jsonl(path: pathlib.Path, field: str) -> Iterator[str]:
  """Yields `field` of the object on each line; empty lines are passed over."""
  with path.open('rb') as lines:
    for number, line in enumerate(lines, start=1):
      if line.strip():
        yield _json_text(line, field, f'{path}:{number}')


def _json_text(line: bytes, field: str, place: str) -> str:
  try:
    record = json.loads(_utf8(line, place))
  except json.JSONDecodeError as error:
    raise ValueError(
      f'{place}: expected a JSON object, because the file ends in .jsonl; '
      f'got {_shown(line)} ({error.msg})'
    ) from None
  except RecursionError:
    raise ValueError(
      f'{place}: expected a JSON object; got one nested too deeply to parse'
    ) from None
  if not isinstance(record, dict) or field not in record:
    raise ValueError(
      f'{place}: expected an object with the field {field!r}, because it holds '
      f'the text; got {_kind(record)}'
    )
  if not isinstance(record[field], str):
    raise ValueError(
      f'{place}: expected a string in the field {field!r}; '
      f'got {_kind(record[field])}'
    )
  return record[field]


def read_parquet(path: pathlib.Path, column: str) -> Iterator[str]:
  """Yields a column of strings, a thousand rows in memory at a time."""
  try:
    with path.open('rb') as file:  # So that a missing file says just that.
      yield from _column(parquet.ParquetFile(file), path, column)
  except (pa.ArrowInvalid, pa.ArrowException) as error:
    raise ValueError(
      f'{path}: expected a Parquet file, because of its suffix; '
      f'got {_first_line(error)}'
    ) from None


def _column(
  table: parquet.ParquetFile, path: pathlib.Path, column: str
) -> Iterator[str]:
  names = table.schema_arrow.names
  if column not in names:
    raise ValueError(
      f'{path}: expected a column {column!r}, because it holds the text; '
      f'got the columns {", ".join(names)}'
    )
  kind = table.schema_arrow.field(column).type
  if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
    raise ValueError(f'{path}: expected strings in {column!r}; got {kind}')
  row = 0
  for batch in table.iter_batches(batch_size=_ROWS, columns=[column]):
    for text in batch.column(0).to_pylist():
      if text is None:
        raise ValueError(
          f'{path}: expected a string in row {row} of {column!r}; got null'
        )
      row += 1
      yield text


def read_text(path: pathlib.Path, field: str) -> Iterator[str]:
  """Yields a text in passages of about 10,000 characters."""
  del field  # A plain text has no fields.
  with path.open('rb') as lines:
    decoded = [
      _utf8(line, f'{path}:{number}')
      for number, line in enumerate(lines, start=1)
    ]
  yield from documents.passages(''.join(decoded), _PASSAGE)


READERS: dict[str, Callable[[pathlib.Path, str], Iterator[str]]] = {
  '.jsonl': read_jsonl,
  '.parquet': read_parquet,
  '.txt': read_text,
}


def _utf8(line: bytes, place: str) -> str:
  try:
    return line.decode('utf-8-sig')  # Some editors begin a file with a mark.
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{place}: expected UTF-8 text; '
      f'got the byte 0x{line[error.start]:02x} at column {error.start + 1}'
    ) from None


def _shown(line: bytes) -> str:
  """The beginning of a line, safe to print."""
  return repr(line[:40].decode('utf-8', 'replace'))


def _kind(value: Any) -> str:
  """What a JSON value is: an object is told by its fields."""
  if isinstance(value, dict):
    return f'an object with the fields {", ".join(value) or "(none)"}'
  return f'{type(value).__name__} {value!r:.40}'


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [type(error).__name__])[0]
