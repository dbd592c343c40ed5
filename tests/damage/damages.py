"""Kinds of damage to a file, and a check of the reaction to each."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import pathlib
import re
import shutil
from typing import Any

import numpy as np

_NUM_BITS = 4  # Flipped one at a time.
_REMEDY = re.compile('again|first|[Pp]ut back|[Rr]emove|[Uu]se another')


def _cut(data, rng):
  del rng
  yield data[: len(data) // 2]
  yield data[:-3]


def _zeroed(data, rng):
  del rng
  start = _nonzero_places(data)[len(_nonzero_places(data)) // 2]
  yield data[:start] + bytes(16) + data[start + 16 :]


def _flipped(data, rng):
  for place in rng.choice(_nonzero_places(data), _NUM_BITS):
    bit = 1 << int(rng.integers(8))
    yield data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def _nonzero_places(data):
  """Places of bytes that are not zero: array_record pads with many zeros."""
  return np.flatnonzero(np.frombuffer(data, np.uint8))


_CONTENTS = {
  'cut': _cut,
  'zeroed': _zeroed,
  'flipped': _flipped,
  'empty': lambda data, rng: [b''],
  'text': lambda data, rng: [b'Somebody else wrote this.\n'],
}
KINDS = (*_CONTENTS, 'missing', 'directory', 'another')


def each(path: pathlib.Path, kind: str, other: bytes = b'') -> Iterator[None]:
  """Damages a file in one way after another, and restores it at the end.

  Args:
    path: of the file.
    kind: one of `KINDS`.
    other: the same file of another run.
  """
  original = path.read_bytes()
  try:
    for damaged in _contents(original, kind, path.name, other):
      remove(path)
      if kind == 'directory':
        path.mkdir()
      elif kind != 'missing':
        path.write_bytes(damaged)
      yield
  finally:
    remove(path)
    path.write_bytes(original)


def remove(path: pathlib.Path) -> None:
  """Removes a file or a directory, or nothing."""
  shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def check(
  root: pathlib.Path,
  path: pathlib.Path,
  kind: str,
  attempt: Callable[[], Any],
  expected: Any,
  *,
  other: bytes = b'',
  named: str | None = None,
) -> list[str]:
  """Checks that damage to a file changes no result, or gives a good error.

  When the file is restored the result must be the same.

  Args:
    root: nothing in it may change where there is an error.
    path: of the file, in it.
    kind: of damage, one of `KINDS`.
    attempt: `attempt() -> result`.
    expected: the result without damage.
    other: the same file of another run.
    named: what an error must name; the path by default.

  Returns:
    The texts of the errors; '' where the result was the same.
  """
  messages = []
  for _ in each(path, kind, other):
    message, result = outcome(root, attempt, named or str(path))
    assert message or result == expected
    messages.append(message)
  assert attempt() == expected
  return messages


def outcome(
  root: pathlib.Path, attempt: Callable[[], Any], named: str
) -> tuple[str, Any]:
  """Runs an attempt: (text of a good error, None) or ('', result)."""
  before = content(root)
  try:
    return '', attempt()
  except (ValueError, OSError) as error:
    message = str(error)
  assert '\n' not in message
  assert named in message, message
  assert _REMEDY.search(message), message
  assert content(root) == before
  return message, None


def content(root: pathlib.Path) -> dict[str, bytes | None]:
  """Content of a directory without locks: path -> bytes or None."""
  return {
    path.relative_to(root).as_posix(): path.read_bytes()
    if path.is_file()
    else None
    for path in sorted(root.rglob('*'))
    if 'at_work' not in path.parts
  }


def _contents(original, kind, name, other) -> Iterable[bytes]:
  if kind in ('missing', 'directory', 'another'):
    return [other]
  if not original:
    return [b'x']
  return _CONTENTS[kind](original, np.random.default_rng([*name.encode()]))


def replace_directory(path, kind, other):
  """Replaces a directory by nothing, an empty one, a file or another one."""
  remove(path)
  if kind == 'empty':
    path.mkdir()
  elif kind == 'file':
    path.write_text('Somebody else wrote this.')
  elif kind == 'another':
    shutil.copytree(other, path)
