"""Properties of predicted tokens, and data sets weighted to some of them.

Every token of the corpus has a byte, one bit per property. A data set weights
its predictions by a table of 256 numbers, one per byte, so any union of
properties is the same program on the same arrays. Weights average 1 over the
data set: they select the tokens of the loss, and do not scale it.

  train               every prediction
  train@repeated      tokens predictable from an earlier repetition
  train@bracket+code  tokens of either property
"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from rllc_jax import types

# `classify` defines each property.
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
_CHUNK = 4096  # Rows sorted at once, which bounds the memory of the pairs.


def classify(
  tokens: np.ndarray, texts: Sequence[str], code: Sequence[types.Window]
) -> np.ndarray:
  """Computes the properties of every token, as bits.

  code: the token is in a data set of code. bracket: it has a closing bracket,
  one of ) ] } >. repeated: it and the token before it are adjacent earlier in
  its row, so an induction head can predict it. inside_word: it continues a word
  that the token before began. number: digits alone. space: white space alone.
  late: it is in the second half of its row.

  Args:
    tokens: [N, T], integers.
    texts: of each id.
    code: data sets that are code.

  Returns:
    [N, T], uint8; also for the first token of a row, which is not predicted.
  """
  classes = _by_text(texts)[tokens]
  for start, length in code:
    classes[start : start + length] |= BITS['code']
  classes[:, tokens.shape[1] // 2 :] |= BITS['late']
  for start in range(0, len(tokens), _CHUNK):
    rows = slice(start, start + _CHUNK)
    is_repeated = repeated(tokens[rows])
    classes[rows] |= (is_repeated * BITS['repeated']).astype(np.uint8)
  return classes


def _by_text(texts: Sequence[str]) -> np.ndarray:
  """Properties that depend on the token alone, [V] uint8."""
  classes = np.zeros(len(texts), np.uint8)
  for i, text in enumerate(texts):
    if any(mark in text for mark in _CLOSING):
      classes[i] |= BITS['bracket']
    # Byte-level BPE puts the space before a word into its first token.
    if text and text[0].isalpha():
      classes[i] |= BITS['inside_word']
    if text.strip().isdigit():
      classes[i] |= BITS['number']
    if text and not text.strip():
      classes[i] |= BITS['space']
  return classes


def repeated(tokens: np.ndarray) -> np.ndarray:
  """Marks tokens whose pair with the token before occurs earlier in the row.

  Args:
    tokens: [N, T], integers.

  Returns:
    [N, T], False in the first two columns.

  Examples:
    >>> repeated(np.array([[9, 1, 2, 1, 2, 2, 2]])).astype(int)
    array([[0, 0, 0, 0, 1, 0, 1]])
  """
  # A pair as one number; int64, because it can exceed 32 bits.
  wide = tokens.astype(np.int64)
  pairs = wide[:, :-1] * (int(tokens.max()) + 1) + wide[:, 1:]
  order = np.argsort(pairs, axis=1, kind='stable')
  ordered = np.take_along_axis(pairs, order, axis=1)
  is_later = np.zeros(pairs.shape, bool)
  # The sort is stable: of equal pairs the first is the earliest, a new one.
  later = ordered[:, 1:] == ordered[:, :-1]
  np.put_along_axis(is_later, order[:, 1:], later, axis=1)
  is_repeated = np.zeros(tokens.shape, bool)
  is_repeated[:, 1:] = is_later
  return is_repeated


def window(
  place: types.Window, classes: np.ndarray, names: Sequence[str] = ()
) -> types.WeightedWindow:
  """Builds a data set whose loss is over tokens of certain properties.

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
    # Column 0 is never predicted: weights average 1 over the others.
    predicted = classes[place.start : place.start + place.length, 1:]
    share = chosen[predicted].mean()
    if not share:
      raise ValueError(
        f'At least one predicted token must be {" or ".join(names)}, or there '
        f'is no loss to measure; got none in {place.length} sequences.'
      )
    table = (chosen / share).astype(np.float32)
  return types.WeightedWindow(place.start, place.length, table)
