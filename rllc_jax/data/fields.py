"""Fields of records by dotted name: `text`, or `article.text` in a dict."""

from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
from typing import Any, Final

from rllc_jax import visible

MISSING: Final = object()  # None is a value: JSON has null.

_USUAL = (  # Names under which published data sets hold their text.
  'text',
  'content',
  'contents',
  'body',
  'raw_content',
  'document',
  'article',
  'story',
  'passage',
  'abstract',
  'markdown',
  'code',
  'completion',
  'sentence',
)
_DEEPEST = 8  # Levels that are listed; foreign records can have thousands.
_MOST_NAMES = 100  # Bounds the work for records with very many fields.


def get(record: Any, name: str) -> Any:
  """Returns the value of a field of nested dicts, or `MISSING`.

  A key that is the whole name comes before nested ones.

  Args:
    record: a dict, whose values may be dicts.
    name: a key, or keys joined by dots.

  Examples:
    >>> get({'article': {'text': 'nested'}}, 'article.text')
    'nested'
    >>> get({'article.text': 'flat', 'article': {'text': 'x'}}, 'article.text')
    'flat'
  """
  # A null in the place of an outer dict makes the inner text null, too.
  if not isinstance(record, dict):
    return record if record is None else MISSING
  if name in record:
    return record[name]
  for outer, inner in splits(name):
    if outer in record:
      value = get(record[outer], inner)
      if value is not MISSING:
        return value
  return MISSING


def splits(name: str) -> Iterator[tuple[str, str]]:
  """Yields the two parts of a name at each of its dots, the last dot first.

  Examples:
    >>> list(splits('a.b.c'))
    [('a.b', 'c'), ('a', 'b.c')]
  """
  place = name.rfind('.')
  while place > 0:
    yield name[:place], name[place + 1 :]
    place = name.rfind('.', 0, place)


def names(record: Any, kind: type = object) -> list[str]:
  """Lists the dotted names of the innermost fields, a hundred at most.

  Args:
    record: a dict, whose values may be dicts.
    kind: of the values that are listed.

  Examples:
    >>> names({'id': 3, 'article': {'text': 'a', 'by': {}}})
    ['id', 'article.text', 'article.by']
    >>> names({'id': 3, 'article': {'text': 'a', 'by': {}}}, str)
    ['article.text']
  """
  listed: list[str] = []
  _add_names(record, '', kind, _DEEPEST, listed)
  return listed


def _add_names(
  record: Any, prefix: str, kind: type, levels: int, listed: list[str]
) -> None:
  """Appends the names in `record` to `listed`, up to the bounds above."""
  for key, value in record.items():
    if len(listed) >= _MOST_NAMES:
      return
    if isinstance(value, dict) and value and levels:
      _add_names(value, f'{prefix}{key}.', kind, levels - 1, listed)
    elif isinstance(value, kind):
      listed.append(prefix + key)


def remedy(path: pathlib.Path, texts: Sequence[str]) -> str:
  """The remedy for a wrong field name: the setting and a likely field.

  Args:
    path: of the file.
    texts: names of its fields that hold strings.

  Examples:
    >>> print(remedy(pathlib.Path('a.jsonl'), ['id', 'article.body']))
    If 'article.body' holds it, set text_field (config.corpus.text_field) to \
article.body, or write a.jsonl#article.body for this file alone
  """
  usual = [x for x in texts if x.rpartition('.')[2].lower() in _USUAL]
  usual.sort(key=lambda x: _USUAL.index(x.rpartition('.')[2].lower()))
  # Among several fields without a usual name none is likelier.
  if likely := usual or (texts if len(texts) == 1 else ()):
    field = visible.short(likely[0], 80)
    return (
      f'If {field!r} holds it, set text_field (config.corpus.text_field) to '
      f'{field}, or write {path}#{field} for this file alone'
    )
  return (
    'Set text_field (config.corpus.text_field) to the field that holds it, or '
    f'write {path}#FIELD for this file alone'
  )


NULLS_REMEDY: Final = (
  "Set nulls='skip' (config.corpus.nulls) to pass over such rows and count "
  'them, or remove them'
)
