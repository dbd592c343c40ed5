"""Untrusted text made safe to show: invisible characters are spelled out.

Text from data is shown on terminals, in figures and on pages, where control
characters could move the cursor and marks of direction the words around them.
"""

from typing import Any
import unicodedata


def text(value: Any) -> str:
  r"""Spells out each invisible character.

  Spaces and all letters stay; controls, line ends, marks of direction and
  halves of surrogate pairs do not.

  Examples:
    >>> print(text('caf\u00e9 \x1b[2J\u202e\n'))
    café \x1b[2J\u202e\n
  """
  return ''.join(
    character if _is_seen(character) else ascii(character)[1:-1]
    for character in str(value)
  )


def _is_seen(character: str) -> bool:
  return character.isprintable() or unicodedata.category(character) == 'Zs'


def short(value: Any, most: int = 200) -> str:
  r"""The beginning of a text on one line, for a message.

  Args:
    value: anything.
    most: characters.

  Examples:
    >>> short('three  words,\nmore to come', 14)
    'three words, …'
  """
  # Cut before it is split: the value may be long.
  line = text(' '.join(str(value)[: 8 * most].split()))
  return line if len(line) <= most else f'{line[: most - 1]}…'
