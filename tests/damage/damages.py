"""Kinds of damage to a file, and what must be true of every one of them."""

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
  start = _written(data)[len(_written(data)) // 2]
  yield data[:start] + bytes(16) + data[start + 16 :]


def _flipped(data, rng):
  for place in rng.choice(_written(data), _NUM_BITS):
    bit = 1 << int(rng.integers(8))
    yield data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def _written(data):
  """Where bytes are not zero: array_record pads its files with many zeros."""
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
  """Damages a file in one way after another, and puts it back at the end.

  Args:
    path: of the file.
    kind: one of `KINDS`.
    other: the same file of another run.
  """
  whole = path.read_bytes()
  try:
    for damaged in _contents(whole, kind, path.name, other):
      remove(path)
      if kind == 'directory':
        path.mkdir()
      elif kind != 'missing':
        path.write_bytes(damaged)
      yield
  finally:
    remove(path)
    path.write_bytes(whole)


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
  """Whatever the damage to a file, the result is the same or the error is good.

  And when the file is put back the result is the same.

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
  found = []
  for _ in each(path, kind, other):
    message, result = outcome(root, attempt, named or str(path))
    assert message or result == expected
    found.append(message)
  assert attempt() == expected
  return found


def outcome(
  root: pathlib.Path, attempt: Callable[[], Any], named: str
) -> tuple[str, Any]:
  """(the text of a good error, None) or ('', the result) of an attempt."""
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
  """All that lies in a directory, but for locks: path -> bytes or None."""
  return {
    path.relative_to(root).as_posix(): path.read_bytes()
    if path.is_file()
    else None
    for path in sorted(root.rglob('*'))
    if 'owners' not in path.parts
  }


def _contents(whole, kind, name, other) -> Iterable[bytes]:
  if kind in ('missing', 'directory', 'another'):
    return [other]
  if not whole:
    return [b'x']
  return _CONTENTS[kind](whole, np.random.default_rng([*name.encode()]))


def replace_directory(path, kind, other):
  """Leaves nothing where a directory was, or what does not belong there."""
  remove(path)
  if kind == 'empty':
    path.mkdir()
  elif kind == 'file':
    path.write_text('Somebody else wrote this.')
  elif kind == 'another':
    shutil.copytree(other, path)
