"""Columns of strings in Arrow's tables, by name or by a name inside structs."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
from typing import Any

import pyarrow as pa
from pyarrow import compute

from rllc_jax import visible
from rllc_jax.data import fields

MOST_EXPANSION = 1_000  # Characters a byte of the file; real text has 2 to 30.
_LEAST = 64  # Characters a row counts for, so empty rows are bounded, too.


def find(schema: pa.Schema, name: str, path: pathlib.Path) -> tuple[str, ...]:
  """Finds the column of strings that has a name.

  Args:
    schema: of the table.
    name: of a column, or of a struct and its fields joined by dots. A column
      with the whole name comes first.
    path: of the file, for the message.

  Returns:
    The name of the column, and those of the fields inside it.

  Raises:
    ValueError: there is no such column or more than one, or it has no strings.

  Examples:
    >>> schema = pa.schema({'article': pa.struct({'text': pa.string()})})
    >>> find(schema, 'article.text', pathlib.Path('a.parquet'))
    ('article', 'text')
  """
  matches = _matches(list(schema), name)
  names = _leaves(list(schema), '')
  shown = visible.short(name, 80)
  if len(matches) != 1:
    listed = visible.short(', '.join(leaf for leaf, _ in names))
    raise ValueError(
      f'{path}: expected a column {shown!r}, because it holds the text; got '
      f'the columns {listed}. {fields.remedy(path, _texts_of(names))}'
    )
  [(parts, kind)] = matches
  if not _is_text(kind):
    inside = [x for x in _texts_of(names) if x.startswith(f'{name}.')]
    remedy = fields.remedy(path, inside or _texts_of(names))
    raise ValueError(
      f'{path}: expected strings in {shown!r}, because it holds the text; got '
      f'{visible.short(kind)}. {remedy}'
    )
  return parts


def check_names(schema: pa.Schema) -> None:
  """Reads all column names, so that one that is not UTF-8 fails here.

  Raises:
    UnicodeDecodeError: a name is not UTF-8.
  """
  _leaves(list(schema), '')


def _matches(
  columns: Sequence[pa.Field], name: str
) -> list[tuple[tuple[str, ...], pa.DataType]]:
  """Name parts and types of all columns and struct fields called `name`."""
  whole: list[tuple[tuple[str, ...], pa.DataType]]
  whole = [((name,), x.type) for x in columns if x.name == name]
  if whole:
    return whole
  for outer, inner in fields.splits(name):
    nested: list[tuple[tuple[str, ...], pa.DataType]]
    nested = [
      ((outer, *parts), kind)
      for x in columns
      if x.name == outer
      for parts, kind in _matches(_inside(x.type), inner)
    ]
    if nested:
      return nested
  return []


def _inside(kind: pa.DataType) -> list[pa.Field]:
  """The fields of a struct type; [] for any other type."""
  return list(kind.fields) if pa.types.is_struct(kind) else []


def _leaves(
  columns: Sequence[pa.Field], prefix: str
) -> list[tuple[str, pa.DataType]]:
  """Dotted names and types of the innermost fields."""
  return [
    leaf
    for x in columns
    for leaf in _leaves(_inside(x.type), f'{prefix}{x.name}.')
    or [(prefix + x.name, x.type)]
  ]


def _texts_of(names: Iterable[tuple[str, pa.DataType]]) -> list[str]:
  return [name for name, kind in names if _is_text(kind)]


def _is_text(kind: pa.DataType) -> bool:
  if pa.types.is_dictionary(kind):  # pandas' categories, for example.
    kind = kind.value_type
  return (
    pa.types.is_string(kind)
    or pa.types.is_large_string(kind)
    or pa.types.is_string_view(kind)
  )


def cells(batch: pa.RecordBatch, parts: Sequence[str]) -> Iterator[Any]:
  """Yields the values of a column one at a time, None of null.

  Args:
    batch: of the table, with that column.
    parts: from `find`.
  """
  column = batch.column(parts[0])
  if len(parts) > 1:  # Where the outer struct is null, so is the field.
    options = compute.StructFieldOptions(list(parts[1:]))
    column = compute.call_function('struct_field', [column], options)
  for cell in column:
    yield cell.as_py()


def bounded(
  texts: Iterable[str | None],
  path: pathlib.Path,
  name: str,
  size: int,
  skip_nulls: bool,
) -> Iterator[str | None]:
  """Yields texts until they exceed the size that the file makes plausible.

  Args:
    texts: None for null.
    path: of the file, for messages.
    name: of the column, for messages.
    size: bytes of the file.
    skip_nulls: yields None of null.

  Raises:
    ValueError: there is more text than `MOST_EXPANSION` characters a byte, or a
      null while `skip_nulls` is False.
  """
  budget = MOST_EXPANSION * size
  for row, text in enumerate(texts):
    if text is None and not skip_nulls:
      raise ValueError(
        f'{path}: expected a string in row {row} of {visible.short(name, 80)!r}'
        f', because it holds the text; got null. {fields.NULLS_REMEDY}'
      )
    # Dictionaries and runs let few bytes stand for endless rows.
    budget -= max(len(text or ''), _LEAST)
    if budget < 0:
      raise too_much(path, size)
    yield text


def too_much(path: pathlib.Path, size: int) -> ValueError:
  """Builds the error of a file that unpacks to more than text would."""
  return ValueError(
    f'{path}: expected at most {MOST_EXPANSION} characters a byte, because '
    f'more is no text; got {size} bytes that unfold to more. If it is text, '
    'write it as JSON lines, where nothing is shared'
  )
