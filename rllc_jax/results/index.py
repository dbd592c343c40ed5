"""The files of a folder of a store: which cells and draws each holds."""

from collections.abc import Iterable
from collections.abc import Sequence
import os
from typing import Any, NamedTuple

import numpy as np

from rllc_jax.results import blocks
from rllc_jax.results import files
from rllc_jax.results import store


class Entry(NamedTuple):
  """A file.

  Attributes:
    name: its parts.
    kind: what it holds.
  """

  name: files.Name
  kind: blocks.Kind


class Index:
  """An index of a folder, which is read again where it may have changed."""

  def __init__(self, folder: Any, identity_of: blocks.IdentityOf):
    self.folder = folder
    self.identity_of = identity_of
    self.damaged: dict[str, str] = {}  # Reasons by name.
    self._entries: dict[str, Entry] = {}
    self._rows: dict[store.Row, dict[str, Entry]] = {}
    self._kinds: dict[str, blocks.Kind] = {}
    self._others: set[str] = set()  # Whole files of which no cell is known.
    # Whole files: bytes do not change, so they are verified once.
    self._checked: dict[str, files.Header] = {}

  def refresh(self) -> None:
    """Reads which files there are, and the headers of keys that are new."""
    present = names(self.folder)
    self.damaged = {
      name: x for name, x in self.damaged.items() if name in present
    }
    for name in self._entries.keys() - present:
      self._forget(name)
    for name in sorted(present - self._entries.keys() - self.damaged.keys()):
      try:
        self._meet(name)
      except files.DamagedFileError as error:
        self.damaged[name] = str(error)
      except FileNotFoundError:  # Another process has merged it.
        pass

  def write(self, part: blocks.Part, writer: str) -> None:
    """Writes a part as a new file."""
    name, data = blocks.encoded(part, writer, self.identity_of)
    files.put(self.folder / str(name), data)
    self._meet(str(name))

  def entries(
    self,
    rows: Iterable[store.Row],
    columns: Iterable[store.Column] | None = None,
  ) -> list[Entry]:
    """Files with any of some rows and columns, by age, then by first draw.

    Args:
      rows: some.
      columns: all by default.
    """
    wanted = None if columns is None else frozenset(columns)
    near = {
      name: entry
      for row in rows
      for name, entry in self._rows.get(row, {}).items()
      if wanted is None or not wanted.isdisjoint(entry.kind.block.columns)
    }
    age = lambda entry: (entry.name.writer, entry.name.first)
    return sorted(near.values(), key=age)

  def all(self) -> list[Entry]:
    """All files."""
    return [*self._entries.values()]

  def covered(
    self, rows: Sequence[store.Row], columns: Sequence[store.Column]
  ) -> np.ndarray:
    """Draws of cells from draw 0 on without a gap, [K, N]."""
    counts, places = _zeros(rows, columns), Places(columns)
    for k, row in enumerate(rows):
      for entry in sorted(self.entries([row]), key=lambda x: x.name.first):
        at = places.of(entry.kind.block.columns)[1]
        grows = at[counts[k, at] >= entry.name.first]
        counts[k, grows] = np.maximum(counts[k, grows], entry.name.stop)
    return counts

  def latest(
    self,
    rows: Sequence[store.Row],
    columns: Sequence[store.Column],
    most: np.ndarray,
  ) -> np.ndarray:
    """Draws after the last of which a file has the chain, [K, N], or 0.

    Args:
      rows: K of them.
      columns: N of them.
      most: [K, N]; files of later draws do not count.
    """
    counts, places = _zeros(rows, columns), Places(columns)
    for k, row in enumerate(rows):
      for entry in self.entries([row]):
        at = places.of(entry.kind.block.columns)[1]
        at = at[most[k, at] >= entry.name.stop]
        counts[k, at] = np.maximum(counts[k, at], entry.name.stop)
    return counts

  def checked(self, entry: Entry) -> files.Header:
    """Verifies a file, unless this was done, and returns its header.

    Raises:
      DamagedFileError: if it is not what was written.
      FileNotFoundError: if it is gone.
    """
    name = str(entry.name)
    if name not in self._checked:
      self._checked[name] = blocks.check(
        self.path(entry), entry.name, entry.kind
      )
    return self._checked[name]

  def path(self, entry: Entry) -> Any:
    """The path of a file."""
    return self.folder / str(entry.name)

  def remove(self, entry: Entry) -> None:
    """Removes a file whose cells and draws others hold."""
    self.path(entry).unlink(missing_ok=True)
    self._forget(str(entry.name))

  def put_aside(self, name: str) -> None:
    """Takes a damaged file out of the store."""
    files.put_aside(self.folder / name)
    self.damaged.pop(name, None)
    self._forget(name)

  def _meet(self, text: str) -> None:
    name = files.parse_name(text)
    if name.key not in self._kinds:
      kind = blocks.kind(self.folder / text, name, self.identity_of)
      if kind is None:  # Of a run that makes the store larger, if it is whole.
        if text not in self._others:
          files.verify(self.folder / text)
          self._others.add(text)
        return
      self._kinds[name.key] = kind
    entry = Entry(name, self._kinds[name.key])
    self._entries[text] = entry
    for row in entry.kind.block.rows:
      self._rows.setdefault(row, {})[text] = entry

  def _forget(self, text: str) -> None:
    self._checked.pop(text, None)
    entry = self._entries.pop(text, None)
    for row in entry.kind.block.rows if entry else ():
      self._rows[row].pop(text, None)


class Places:
  """Where columns of files are among given ones."""

  def __init__(self, columns: Sequence[store.Column]):
    self._numbers = {column: n for n, column in enumerate(columns)}
    self._of: dict[int, tuple[Any, np.ndarray, np.ndarray]] = {}

  def of(
    self, columns: tuple[store.Column, ...]
  ) -> tuple[np.ndarray, np.ndarray]:
    """Positions in a file's columns, and the same among the given ones."""
    # By identity: files share the tuple, which may have thousands of columns.
    if id(columns) not in self._of:
      pairs = [
        (n, self._numbers[column])
        for n, column in enumerate(columns)
        if column in self._numbers
      ]
      source, target = np.array(pairs, np.int64).reshape(-1, 2).T
      self._of[id(columns)] = columns, source, target
    return self._of[id(columns)][1:]


def _zeros(
  rows: Sequence[store.Row], columns: Sequence[store.Column]
) -> np.ndarray:
  return np.zeros((len(rows), len(columns)), np.int64)


def names(folder: Any) -> set[str]:
  """Names of the files of a folder, without unfinished and other ones."""
  try:
    if files.is_local(folder):
      names = os.listdir(folder)
    else:
      folder.fs.invalidate_cache()  # Others write there.
      names = [path.name for path in folder.iterdir()]
  except (FileNotFoundError, NotADirectoryError):
    return set()
  return {name for name in names if name.endswith(files.SUFFIX)}
