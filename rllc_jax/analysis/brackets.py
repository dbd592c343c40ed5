"""Tokens that close an open bracket or quote.

In text a token has the brackets () [] {} and the quotes " and ' that it spells;
< and > are operators. A quote ends at a line end at the latest. Backslashes are
not read, and an apostrophe opens a quote, too. Brackets inside a quote don't
count. In a planted language a token is a delimiter only if its whole spelling
is one, <> are brackets, and no bracket stands inside a quote.

Nothing stays open beyond a special token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_PAIRS = {')': '(', ']': '[', '}': '{', '>': '<'}
_TEXT_BRACKETS = '()[]{}'
_WORD_BRACKETS = f'{_TEXT_BRACKETS}<>'
_QUOTES = '"\''


class Delimiters(NamedTuple):
  """The delimiters of a tokenizer.

  Attributes:
    marks: of each token id, its brackets, quotes and line ends, in order.
    special: the token id that closes all that is open.
  """

  marks: tuple[str, ...]
  special: int


def of_text(spellings: Sequence[str], special: int) -> Delimiters:
  """The delimiters inside the spellings of a tokenizer of text.

  Args:
    spellings: of each token id.
    special: the token id at which a document ends.
  """
  counted = {*_TEXT_BRACKETS, *_QUOTES, '\n'}
  marks = tuple(''.join(x for x in text if x in counted) for text in spellings)
  return Delimiters(marks, special)


def of_words(spellings: Sequence[str], special: int) -> Delimiters:
  """The tokens of a planted language that are one delimiter each."""
  # A bracket ends a quote: its end was taken for a beginning, because the row
  # begins inside it.
  marks = {x: f'\n{x}' for x in _WORD_BRACKETS} | {x: x for x in _QUOTES}
  return Delimiters(
    tuple(marks.get(text.strip(), '') for text in spellings), special
  )


def closing(row: np.ndarray, delimiters: Delimiters) -> dict[int, int]:
  """Finds tokens that close a delimiter, {place: delimiters open before it}.

  Only the innermost open one counts. A token with several marks closes if its
  first bracket or quote does.

  Args:
    row: [T], tokens.
    delimiters: of the tokenizer.

  Examples:
    >>> words = of_words(['(', ')', '[', ']', '<eos>'], special=4)
    >>> closing(np.array([4, 0, 2, 3, 1]), words)
    {3: 2, 4: 1}
  """
  stack: list[str] = []
  depths = {}
  for place, token in enumerate(row):
    if token == delimiters.special:
      stack.clear()
    is_first = True
    for mark in delimiters.marks[token]:
      depth = _read(stack, mark)
      if depth and is_first:
        depths[place] = depth
      is_first &= mark == '\n'
  return depths


def _read(stack: list[str], mark: str) -> int:
  """Opens or closes a mark; delimiters open before it closed one, else 0."""
  depth = len(stack)
  quote = stack[-1] if stack and stack[-1] in _QUOTES else ''
  if mark == '\n':
    if quote:
      stack.pop()
    return 0
  if quote:
    closes = mark == quote
  else:
    closes = bool(stack) and stack[-1] == _PAIRS.get(mark)
  if closes:
    stack.pop()
    return depth
  if not quote and mark not in _PAIRS:
    stack.append(mark)
  return 0


def depths_of(rows: np.ndarray, delimiters: Delimiters) -> np.ndarray:
  """Delimiters open before each token that closes one, else 0, [N, T]."""
  depths = np.zeros(rows.shape, int)
  for row, tokens in enumerate(rows):
    for place, depth in closing(tokens, delimiters).items():
      depths[row, place] = depth
  return depths
