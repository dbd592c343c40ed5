"""Properties of predicted tokens, and data sets that count some of them alone.

Every token of the corpus has a byte, one bit a property. A data set weights its
predictions by a table of 256 numbers, one a byte, so that any union of
properties is the same program on the same arrays. Weights average 1 over the
data set: they say on which tokens the loss is measured, not how much of it.

  train               every prediction
  train@repeated      those that a repetition tells
  train@bracket+code  those of either property
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from rllc_jax import types

# What each means is said by `classify`.
BITS: Mapping[str, int] = {
  'code': 1,
  'bracket': 2,
  'repeated': 4,
  'inside_word': 8,
  'number': 16,
  'space': 32,
  'late': 64,
}
_CLOSING = (')', ']', '}', '>')
_CHUNK = 4096  # Rows that are sorted at once.


def classify(
  tokens: np.ndarray, texts: Sequence[str], code: Sequence[types.Window]
) -> np.ndarray:
  """The properties of every token, as bits.

  code: it stands in a data set of code. bracket: it has a closing bracket, one
  of ) ] } >. repeated: it and the token before it stood together earlier in its
  row, so that an induction head could tell it. inside_word: it goes on with a
  word that the token before began. number: digits alone. space: white space
  alone. late: it stands in the second half of its row.

  Args:
    tokens: [N, T], integers.
    texts: of each id.
    code: data sets that are code.

  Returns:
    [N, T], uint8; a token that is not predicted, the first of a row, too.
  """
  found = _by_text(texts)[tokens]
  for start, length in code:
    found[start : start + length] |= BITS['code']
  found[:, tokens.shape[1] // 2 :] |= BITS['late']
  for start in range(0, len(tokens), _CHUNK):
    rows = slice(start, start + _CHUNK)
    again = repeated(tokens[rows])
    found[rows] |= (again * BITS['repeated']).astype(np.uint8)
  return found


def _by_text(texts: Sequence[str]) -> np.ndarray:
  """The properties that a token has by itself, [V] uint8."""
  found = np.zeros(len(texts), np.uint8)
  for i, text in enumerate(texts):
    if any(mark in text for mark in _CLOSING):
      found[i] |= BITS['bracket']
    if text and text[0].isalpha():
      found[i] |= BITS['inside_word']
    if text.strip().isdigit():
      found[i] |= BITS['number']
    if text and not text.strip():
      found[i] |= BITS['space']
  return found


def repeated(tokens: np.ndarray) -> np.ndarray:
  """Where a token and the one before it stood together earlier in the row.

  Args:
    tokens: [N, T], integers.

  Returns:
    [N, T], False in the first two columns.

  Examples:
    >>> repeated(np.array([[9, 1, 2, 1, 2, 2, 2]])).astype(int)
    array([[0, 0, 0, 0, 1, 0, 1]])
  """
  wide = tokens.astype(np.int64)
  pairs = wide[:, :-1] * (int(tokens.max()) + 1) + wide[:, 1:]
  order = np.argsort(pairs, axis=1, kind='stable')
  ordered = np.take_along_axis(pairs, order, axis=1)
  again = np.zeros(pairs.shape, bool)
  # Stable: of equal pairs the earliest comes first, and it alone is new.
  later = ordered[:, 1:] == ordered[:, :-1]
  np.put_along_axis(again, order[:, 1:], later, axis=1)
  found = np.zeros(tokens.shape, bool)
  found[:, 1:] = again
  return found


def window(
  place: types.Window, classes: np.ndarray, names: Sequence[str] = ()
) -> types.WeightedWindow:
  """A data set that counts tokens of certain properties.

  Args:
    place: its sequences.
    classes: [N, T], of the whole corpus, from `classify`.
    names: of properties, any of which counts; every token by default.

  Raises:
    ValueError: if there is no such property, or no token has any of them.
  """
  unknown = [name for name in names if name not in BITS]
  if unknown:
    raise ValueError(
      f'A property of tokens must be one of {", ".join(BITS)}; got '
      f'{unknown[0]!r}.'
    )
  table = np.ones(256, np.float32)
  if names:
    bits = np.bitwise_or.reduce([BITS[name] for name in names])
    chosen = (np.arange(256) & bits) != 0
    predicted = classes[place.start : place.start + place.length, 1:]
    share = chosen[predicted].mean()
    if not share:
      raise ValueError(
        f'At least one predicted token must be {" or ".join(names)}, or there '
        f'is no loss to measure; got none in {place.length} sequences.'
      )
    table = (chosen / share).astype(np.float32)
  return types.WeightedWindow(place.start, place.length, table)
