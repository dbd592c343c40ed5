"""Blocks of a report, as data; `template.html` gives them their look."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple


class Words(NamedTuple):
  """A paragraph.

  Attributes:
    text: plain text.
    kind: '' or 'note', for what a reader may skip.
    section: a section of the page that it leads to, or ''.
    link: the words of that link.
  """

  text: str
  kind: str = ''
  section: str = ''
  link: str = ''


class Heading(NamedTuple):
  """A title within a section."""

  text: str


class Bullets(NamedTuple):
  """A bulleted list, one line per entry."""

  lines: Sequence[str]


class Facts(NamedTuple):
  """Names and values, several side by side.

  Attributes:
    pairs: (name in parts that a line may end after, value).
  """

  pairs: Sequence[tuple[Sequence[str], str]]


class Picture(NamedTuple):
  """A figure inside the page itself.

  Attributes:
    data: of the SVG file, base64.
    words: a description for readers who cannot see it.
    caption: below it.
    narrow: whether it has one panel.
  """

  data: str
  words: str
  caption: str
  narrow: bool = False


class Folded(NamedTuple):
  """A block that a reader may open."""

  summary: str
  block: Any


Block = Any  # One of these, or a `tables.Table`.


def facts(values: Mapping[str, Any]) -> Facts:
  """Converts a mapping to facts; nested names are joined by dots."""
  flat = flatten(values)
  return Facts([(name.split('_'), _shown(x)) for name, x in flat.items()])


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Flattens nested mappings into one.

  Examples:
    >>> flatten({'model': {'num_heads': 4}, 'seed': 0})
    {'model.num_heads': 4, 'seed': 0}
  """
  flat = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      flat.update(flatten(value, f'{prefix}{name}.'))
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def listed(lines: Sequence[str], most: int = 8) -> Bullets | Folded:
  """Makes a list, folded if it is long."""
  bullets = Bullets(lines)
  if len(lines) <= most:
    return bullets
  return Folded(f'All {len(lines)} places', bullets)


def _shown(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.6g}'
  if isinstance(value, list | tuple):
    return ', '.join(_shown(part) for part in value)
  # Not `isinstance`: True is an int, too.
  return f'{value:,}' if type(value) is int else str(value)
