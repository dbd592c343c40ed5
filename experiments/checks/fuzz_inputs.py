"""Damages valid files at random, or as an attacker would."""

from collections.abc import Callable
from collections.abc import Sequence
import copy
import json
import math
import re
from typing import Any

import numpy as np

BAIT = '../bait'  # No parser may open a file of this name.

_WORDS: Sequence[bytes] = (
  b'',
  b'\x00',
  b'\xff\xfe',
  b'\xc3\x28',
  b'\xed\xa0\x80',  # Half of a surrogate pair.
  b'\xef\xbb\xbf',
  b'\n',
  b'\r\n\x0b\x85',
  b'\x1b[2J',
  '\u202e\u2028'.encode(),
  b'NaN',
  b'-Infinity',
  b'1e999',
  b'9' * 5_000,
  b'[' * 50_000,
  b'{"a":' * 20_000,
  b'"',
  b'\\u0000',
  b'\\ud800',
  b'%s%n{}',
  b'$\\frac{',
  b'<script>',
  BAIT.encode(),
  b'x' * 10_000,
)
_NUMBERS = (0, -1, 1, 255, 65_536, 2**31, 2**63, -(2**63) - 1, 10**30)
_VALUES: Sequence[Any] = (
  None,
  True,
  math.nan,
  math.inf,
  1e308,
  0.5,
  10**4_000,
  '',
  'x',
  '\x00',
  '\ud800',
  'a\nb\u202e',
  'x' * 10_000,
  BAIT,
  '/etc/hostname',
  [],
  {},
  [0, 0],
  [BAIT],
  {BAIT: BAIT},
  {'type': 'Precompiled', 'precompiled_charsmap': 'AAAA'},
  *_NUMBERS,
)


def change(
  content: bytes, donors: Sequence[bytes], rng: np.random.Generator
) -> bytes:
  """Damages a file in one to three ways.

  Args:
    content: of the file.
    donors: files that a part may be taken from.
    rng: chooses the damage.
  """
  for _ in range(_draw_count(rng)):
    damage = _CHANGES[int(rng.integers(len(_CHANGES)))]
    content = damage(content, donors, rng)
  return content


def _draw_count(rng: np.random.Generator) -> int:
  return int(rng.choice([1, 1, 1, 2, 3]))


def change_json(content: bytes, rng: np.random.Generator) -> bytes:
  """Changes one to three values or names in a JSON file, keeping it valid."""
  value = json.loads(content)
  for _ in range(_draw_count(rng)):
    places = list(_places(value))
    if not places:
      break
    _change_at(*places[rng.integers(len(places))], rng)
  return json.dumps(value).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
  """All pairs (object or list, name or index) inside a JSON value."""
  places, waiting = [], [value]
  while waiting:
    holder = waiting.pop()
    keys = holder if isinstance(holder, dict) else range(len(holder))
    places += [(holder, key) for key in keys]
    waiting += [x for key in keys if isinstance(x := holder[key], dict | list)]
  return places


def _change_at(holder: Any, key: Any, rng: np.random.Generator) -> None:
  action = rng.integers(4)
  if action == 0:
    del holder[key]
  elif action == 1 and isinstance(holder, dict):
    holder[['', BAIT, 'x\n\x1b', key + '_'][rng.integers(4)]] = holder.pop(key)
  elif action == 2 and type(holder[key]) is int:
    holder[key] += int(rng.choice([-1, 1]))
  else:
    # A copy: the next change must not reach into the constants.
    holder[key] = copy.deepcopy(_VALUES[int(rng.integers(len(_VALUES)))])


def _flip(content, donors, rng):
  del donors
  damaged = bytearray(content)
  for _ in range(rng.integers(1, 9) if damaged else 0):
    damaged[_place(content, rng)] ^= 1 << int(rng.integers(8))
  return bytes(damaged)


def _cut(content, donors, rng):
  del donors
  return content[: _place(content, rng)]


def _remove(content, donors, rng):
  del donors
  start = _place(content, rng)
  return content[:start] + content[start + int(rng.integers(1, 64)) :]


def _insert(content, donors, rng):
  del donors
  place = _place(content, rng)
  return content[:place] + rng.bytes(rng.integers(1, 64)) + content[place:]


def _insert_word(content, donors, rng):
  del donors
  place = _place(content, rng)
  return content[:place] + _WORDS[rng.integers(len(_WORDS))] + content[place:]


def _duplicate(content, donors, rng):
  del donors
  start, place = _place(content, rng), _place(content, rng)
  part = content[start : start + int(rng.integers(1, 256))]
  return content[:place] + part * int(rng.integers(1, 4)) + content[place:]


def _splice(content, donors, rng):
  donor = donors[rng.integers(len(donors))]
  return content[: _place(content, rng)] + donor[_place(donor, rng) :]


def _number(content, donors, rng):
  """Replaces a number, in digits or in four bytes."""
  del donors
  digits = [*re.finditer(rb'\d+', content)]
  number = _NUMBERS[rng.integers(len(_NUMBERS))]
  if digits and rng.integers(2):
    match = digits[rng.integers(len(digits))]
    return content[: match.start()] + b'%d' % number + content[match.end() :]
  place = _place(content, rng)
  word = (number % 2**32).to_bytes(4, 'little')
  return content[:place] + word + content[place + 4 :]


def _place(content: bytes, rng: np.random.Generator) -> int:
  """Draws a position, in half of the cases near an end, where sizes are."""
  size = max(len(content), 1)
  edge = min(size, 256)
  anywhere = (0, size), (0, edge), (size - edge, size), (0, size)
  return int(rng.integers(*anywhere[rng.integers(4)]))


_CHANGES: Sequence[
  Callable[[bytes, Sequence[bytes], np.random.Generator], bytes]
] = (_flip, _cut, _remove, _insert, _insert_word, _duplicate, _splice, _number)
