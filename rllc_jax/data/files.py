"""Documents from files of one's own: JSON lines, Parquet, plain text."""

from collections.abc import Callable
from collections.abc import Iterator
import json
import pathlib
from typing import Any

from rllc_jax import visible
from rllc_jax.data import documents
from rllc_jax.data import parquet_texts

_PASSAGE = 10_000  # Characters of a plain text that make one document.
_MARK = '\ufeff'  # Some editors begin a file with it.


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
  documents.check_name(name, f'{file} (say NAME={file})')
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
  text = _utf8(line, place).removeprefix(_MARK)
  try:
    record = json.loads(text)
  except ValueError as error:  # Not JSON, or a number too long to read.
    raise ValueError(
      f'{place}: expected a JSON object, because the file ends in .jsonl; '
      f'got {_shown(line)} ({visible.short(error)})'
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


def read_text(path: pathlib.Path, field: str) -> Iterator[str]:
  """Yields a text in passages of about 10,000 characters."""
  del field  # A plain text has no fields.
  with path.open('rb') as lines:
    decoded = [
      _utf8(line, f'{path}:{number}')
      for number, line in enumerate(lines, start=1)
    ]
  text = ''.join(decoded).removeprefix(_MARK)
  yield from documents.passages(text, _PASSAGE)


READERS: dict[str, Callable[[pathlib.Path, str], Iterator[str]]] = {
  '.jsonl': read_jsonl,
  '.parquet': parquet_texts.read,
  '.txt': read_text,
}


def _utf8(line: bytes, place: str) -> str:
  try:
    return line.decode('utf-8')
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
    fields = visible.short(', '.join(value)) or '(none)'
    return f'an object with the fields {fields}'
  return f'{type(value).__name__} {value!r:.40}'
