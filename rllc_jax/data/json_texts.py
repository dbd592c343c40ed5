"""Texts from JSON: one record per line, or one document of all records."""

from collections.abc import Iterable
from collections.abc import Iterator
import json
import pathlib
from typing import Any

from rllc_jax import visible
from rllc_jax.data import encodings
from rllc_jax.data import fields
from rllc_jax.data import unpacking

_MARK = b'\xef\xbb\xbf'  # Byte order mark, which some editors write.


def read_lines(
  path: pathlib.Path, field: str, skip_nulls: bool = False
) -> Iterator[str | None]:
  """Yields the text of the record on each line; skips empty lines.

  Args:
    path: of a file of JSON lines, or of such a file as gzip.
    field: of each object that holds its text, see `fields.get`; a record that
      is a string is the text.
    skip_nulls: yields None of null and of an object without the field.

  Raises:
    OSError: the file cannot be read.
    ValueError: a line is no record with a text.
  """
  encodings.check_head(path)
  yield from _texts(_line_records(path), path, field, skip_nulls)


def read_document(
  path: pathlib.Path, field: str, skip_nulls: bool = False
) -> Iterator[str | None]:
  """Yields the text of each record of a '.json' file, as `read_lines` does.

  The file may be an array of records, a single record, or records on lines. It
  has records on lines if the first line is a whole object.
  """
  encodings.check_head(path)
  if _is_lines(path):
    yield from read_lines(path, field, skip_nulls)
  else:
    yield from _texts(_document_records(path), path, field, skip_nulls)


def _is_lines(path: pathlib.Path) -> bool:
  """True if the first line with anything on it is a record, or none is."""
  with unpacking.open_bytes(path) as lines:
    bare = (line.removeprefix(_MARK).strip() for line in lines)
    line = next(filter(None, bare), b'0')
  if line.startswith(b'['):  # An array, even if it ends on this line.
    return False
  try:
    json.loads(line)
  except (ValueError, RecursionError):
    return False
  return True


def _line_records(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Yields the place and the value of each line."""
  with unpacking.open_bytes(path) as lines:
    for number, line in enumerate(lines, start=1):
      # On any line: joined files have a mark in the middle.
      line = line.removeprefix(_MARK)
      if line.strip():
        place = f'{path}:{number}'
        text = encodings.decode(line, path, place)
        try:
          yield place, json.loads(text)
        except (ValueError, RecursionError) as error:
          raise _not_json(path, place, line, error) from None


def _not_json(
  path: pathlib.Path, place: str, line: bytes, error: Exception
) -> ValueError:
  """Builds the error of a line that does not parse."""
  kind, remedy = encodings.signature(path)
  if isinstance(error, RecursionError):
    # Its own message is about Python's stack.
    got, remedy = 'one nested too deeply to parse', 'Mend or remove the line'
  else:  # Not JSON, or a number too long to read.
    got = f'{encodings.shown(line)} ({visible.short(error)})'
  suffix = unpacking.suffix(path)
  if kind == 'JSON':
    remedy = 'Mend or remove the line'
    if suffix != '.json':
      remedy += (
        ', or if one JSON value goes over several lines, rename the file to '
        'end in .json'
      )
  return ValueError(
    f'{place}: expected a JSON object, because the file ends in {suffix} and '
    f'each line is one; got {got}. {remedy or "Mend or remove the line"}'
  )


def _document_records(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Yields the place and the value of each record of one JSON document."""
  with unpacking.open_bytes(path) as file:
    # All at once, because json has no incremental parser.
    content = file.read().removeprefix(_MARK)
  text = encodings.decode(content, path, str(path))
  try:
    document = json.loads(text)
  except (ValueError, RecursionError) as error:
    deep = isinstance(error, RecursionError)
    got = 'one nested too deeply to parse' if deep else visible.short(error)
    _, remedy = encodings.signature(path)
    if not remedy or content.lstrip()[:1] in (b'{', b'['):
      remedy = 'Mend it there, or give one object a line in a file .jsonl'
    raise ValueError(
      f'{path}: expected a JSON array of objects, one object, or one a line, '
      f'because the file ends in .json; got {got}. {remedy}'
    ) from None
  if isinstance(document, list):
    for number, record in enumerate(document, start=1):
      yield f'{path}: record {number}', record
  else:
    yield str(path), document


def _texts(
  records: Iterable[tuple[str, Any]],
  path: pathlib.Path,
  field: str,
  skip_nulls: bool,
) -> Iterator[str | None]:
  """Yields the text of each record, or None for a record without one."""
  lacking: list[tuple[str, Any]] = []
  has_field = False
  for place, record in records:
    text = record if isinstance(record, str) else fields.get(record, field)
    if text is not fields.MISSING:
      has_field = True
      yield _checked(text, record, path, place, field, skip_nulls)
    elif skip_nulls and isinstance(record, dict):
      # The first is enough for a message; all could fill the memory.
      lacking = lacking or [(place, record)]
      yield None
    else:
      raise _no_field(record, path, place, field, has_field)
  if lacking and not has_field:  # The field's name is wrong; no row has it.
    raise _no_field(lacking[0][1], path, lacking[0][0], field, has_field)


def _checked(
  text: Any,
  record: Any,
  path: pathlib.Path,
  place: str,
  field: str,
  skip_nulls: bool,
) -> str | None:
  """Returns a text, or None for a null to skip; refuses other values."""
  if text is None and skip_nulls:
    return None
  if not isinstance(text, str):
    raise ValueError(
      f'{place}: expected a string in the field {field!r}, because it holds '
      f'the text; got {_kind(text)}. {_remedy(text, record, path, field)}'
    )
  return text


def _no_field(
  record: Any, path: pathlib.Path, place: str, field: str, has_field: bool
) -> ValueError:
  """Builds the error of a record without the field."""
  if not isinstance(record, dict):
    remedy = 'Give one JSON object, or one string, a record'
  elif has_field:  # Other records have it, so its name is right.
    remedy = fields.NULLS_REMEDY
  else:
    remedy = fields.remedy(path, fields.names(record, str))
  return ValueError(
    f'{place}: expected an object with the field {visible.short(field, 80)!r}, '
    f'because it holds the text; got {_kind(record)}. {remedy}'
  )


def _remedy(value: Any, record: Any, path: pathlib.Path, field: str) -> str:
  """The remedy for a field whose value is not a string."""
  if value is None:
    return fields.NULLS_REMEDY
  if isinstance(value, dict):
    inner = [f'{field}.{name}' for name in fields.names(value, str)]
    return fields.remedy(path, inner)
  return fields.remedy(path, fields.names(record, str))


def _kind(value: Any) -> str:
  """Names the kind of a JSON value, and the fields of an object."""
  if value is None:
    return 'null'
  if isinstance(value, dict):
    names = visible.short(', '.join(fields.names(value))) or '(none)'
    return f'an object with the fields {names}'
  return f'{type(value).__name__} {value!r:.40}'
