"""Pieces of a store: their marks, their places in the table, what is damaged.

A piece is a data set and some of its checkpoints. A process owns whole pieces,
and nobody else writes to them.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import math
import pathlib
from typing import Any

import numpy as np

from rllc_jax.results import block_files
from rllc_jax.results import damages
from rllc_jax.results import files
from rllc_jax.results import marks
from rllc_jax.results import store as stores
from rllc_jax.results import table as arrays
from rllc_jax.results import traces as tables

Piece = tuple[int, int]  # Places of a data set, and of its checkpoints.


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The table of a store, with its marks.

  Attributes:
    path: of the store.
    extent: coordinates.
    length: checkpoints of a piece.
    owner: what the store is known by: it is in all of its files.
  """

  path: pathlib.Path
  extent: stores.Extent
  length: int
  owner: str

  @functools.cached_property
  def _places(self) -> tuple[dict[Any, int], ...]:
    """Of checkpoints, data sets, refinements: there may be thousands."""
    dims = self.extent[:3]
    return tuple({name: i for i, name in enumerate(names)} for names in dims)

  @property
  def table(self) -> arrays.Table:
    """The values."""
    return arrays.Table(self.path / 'traces.zarr', self.extent, self.length)

  def all(self) -> list[Piece]:
    """All pieces, in an order that all processes agree on."""
    count = math.ceil(len(self.extent.checkpoints) / self.length)
    datasets = range(len(self.extent.datasets))
    return [(s, i) for i in range(count) for s in datasets]

  def share(self, index: int, count: int) -> list[Piece]:
    """Those that process `index` of `count` writes to, and nobody else."""
    return self.all()[index::count]

  def of(self, row: stores.Row) -> Piece:
    """The piece that a row is in."""
    checkpoints, datasets, _ = self._places
    return datasets[row[1]], checkpoints[row[0]] // self.length

  def of_block(self, block: block_files.BlockFile) -> set[Piece]:
    """Those that a block's rows are in."""
    return {self.of(row) for row in block.rows}

  def place(self, row: stores.Row) -> int:
    """Of a checkpoint in its piece."""
    return self._places[0][row[0]] % self.length

  def has(self, cell: block_files.Cell) -> bool:
    """Whether the extent has a row and a column."""
    (step, dataset), (refinement, chain) = cell
    steps, datasets, refinements = self._places
    there = step in steps and dataset in datasets and refinement in refinements
    return there and 0 <= chain < self.extent.num_chains

  def at(self, column: stores.Column) -> tuple[int, int]:
    """Places of a refinement and a chain."""
    return self._places[2][column[0]], column[1]

  def mark_path(self, piece: Piece) -> pathlib.Path:
    """The file of a piece's mark."""
    dataset = files.name_of(self.extent.datasets[piece[0]])
    return self.path / 'marks' / dataset / f'{piece[1]}.npz'

  def mark(self, piece: Piece) -> marks.Mark:
    """A piece's mark.

    Raises:
      DamagedFileError: if it is not what was written.
    """
    _, _, refinements, chains, _ = tables.sizes(self.extent)
    shape = self.length, refinements, chains
    return marks.read(self.mark_path(piece), shape, self.owner)

  def sound_mark(self, piece: Piece) -> marks.Mark:
    """A piece's mark, for a reader.

    Raises:
      StoreError: if it is not what was written.
    """
    try:
      return self.mark(piece)
    except files.DamagedFileError as error:
      raise damages.error(self.mark_path(piece), str(error)) from error

  def sound(self, piece: Piece) -> tuple[marks.Mark, dict[str, np.ndarray]]:
    """A piece's mark and its values, as they were written.

    Raises:
      StoreError: if they are not.
    """
    mark = self.sound_mark(piece)
    values = self.table.get(piece, mark.longest)
    _check_layouts(mark, self.table.layouts(), self.table.path)
    for name, bad in _damaged(mark, values):
      if bad.any():
        came = 'other draws than were written'
        raise damages.error(self.table.place(piece, name), came)
    read = {
      name: array
      for name, array in values.items()
      if not isinstance(array, Exception)
    }
    return mark, read

  def check_layouts(self, pieces: Iterable[Piece]) -> None:
    """Raises unless arrays can be opened, and are laid out as they were made.

    Raises:
      StoreError: naming one that is not.
    """
    self.table.check()
    layouts = self.table.layouts()
    for piece in pieces:
      with contextlib.suppress(files.DamagedFileError):
        _check_layouts(self.mark(piece), layouts, self.table.path)

  def repair_layouts(self) -> None:
    """Forgets arrays that are not cut and coded as they were made."""
    layouts = self.table.layouts()
    for piece in self.all():
      with contextlib.suppress(files.DamagedFileError):
        for name, layout in self.mark(piece).layouts.items():
          if layouts.get(name, layout) != layout:
            self.table.remove(name, 'another layout')
            del layouts[name]

  def repair(self, pieces: Iterable[Piece]) -> None:
    """Forgets what is not as it was written: it will be done again."""
    for piece in pieces:
      try:
        mark = self.mark(piece)
      except files.DamagedFileError as error:
        damages.say_again(self.mark_path(piece), error)
        files.remove(self.mark_path(piece))
      else:
        self._repair_values(piece, mark)

  def _repair_values(self, piece, mark) -> None:
    if not mark.recorded.any():
      return
    values = self.table.get(piece, mark.longest)
    damaged = [item for item in _damaged(mark, values) if item[1].any()]
    for name, bad in damaged:
      came = f'{bad.sum()} chains with other draws'
      damages.say_again(self.table.place(piece, name), came)
      mark.recorded[bad] = 0
      unreadable = isinstance(values.get(name), Exception)
      for path in self.table.files(piece, name):
        if unreadable or path.is_dir():
          files.remove(path)
    if damaged:
      marks.write(self.mark_path(piece), mark, self.owner)

  def fold(self, block: block_files.BlockFile) -> None:
    """Takes a block's draws into the table."""
    by_piece: dict[Piece, list[int]] = {}
    for k, row in enumerate(block.rows):
      by_piece.setdefault(self.of(row), []).append(k)
    for piece, own in by_piece.items():
      self._fold_rows(piece, block, np.array(own))

  def _fold_rows(self, piece, block, own) -> None:
    mark = self.mark(piece)
    g = np.array([self.place(block.rows[k]) for k in own])
    r, c = np.array([self.at(column) for column in block.columns]).T
    known = mark.recorded[g[:, None], r, c]
    # Some or all of it may be there, if it was taken before.
    wanted = (block.first <= known) & (known < block.stop)
    if not wanted.any():
      return
    # A chain from the beginning takes the place of all that was there.
    begun = known if block.first else np.zeros_like(known)
    before = {*mark.checks} - {marks.BASELINE} if mark.recorded.any() else None
    for first in np.unique(begun[wanted]):
      k, n = np.nonzero(wanted & (begun == first))
      cells = g[k], r[n], c[n]
      self._fold_cells(piece, mark, cells, int(first), block, (own[k], n))
    if before is not None:
      # Runs that do not record the same leave gaps, and these are checked, too.
      self._check_gaps(piece, mark, before ^ block.traces.keys())
    mark.layouts.update(self.table.layouts())
    marks.write(self.mark_path(piece), mark, self.owner)

  def _fold_cells(self, piece, mark, cells, first, block, places) -> None:
    """Takes a block's draws from `first` on, at places in it, into cells."""
    for name, trace in block.traces.items():
      values = trace[places][:, first - block.first :]
      self.table.put(piece, name, cells, first, values)
      checks = mark.check(name)
      counts = np.full(len(values), values.shape[1])
      begun = checks[cells] if first else None
      checks[cells] = marks.checksums(values, counts, begun)
    if block.baseline.shape[1]:
      self._fold_baseline(piece, mark, cells[:2], block.baseline[places[0]])
    mark.recorded[cells] = block.stop
    mark.made_with[cells[:2]] = block.made_with

  def _check_gaps(self, piece, mark, names) -> None:
    cells = np.nonzero(mark.recorded)
    for name in names:
      found = self.table.get(piece, mark.longest)[name]
      if isinstance(found, Exception):
        raise found
      counts = mark.recorded[cells]
      mark.check(name)[cells] = marks.checksums(found[cells], counts)

  def _fold_baseline(self, piece, mark, cells, values) -> None:
    self.table.put(piece, marks.BASELINE, cells, 0, values)
    counts = np.full(len(values), values.shape[1])
    mark.check(marks.BASELINE)[cells] = marks.checksums(values, counts)


def _check_layouts(mark, layouts, path) -> None:
  for name, layout in layouts.items():
    if mark.layouts.get(name, layout) != layout:
      came = 'another layout than was made'
      raise damages.error(path / name / '.zarray', came)


def _damaged(
  mark: marks.Mark, values: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """By array, which chains [G, R, C] are not what the mark says."""
  recorded = mark.recorded.copy()
  there = recorded > 0
  for name, checks in mark.checks.items():
    found = values.get(name, KeyError(name))
    if isinstance(found, Exception):
      yield name, there
    elif name == marks.BASELINE:
      counts = np.full(there.shape[:2], found.shape[2])
      bad = _differ(found, there.any(axis=2), counts, checks)
      yield name, bad[:, :, None] & there
    else:
      yield name, _differ(found, there, recorded, checks)


def _differ(values, there, counts, checks) -> np.ndarray:
  """Which cells are there, but of another checksum."""
  cells, bad = np.nonzero(there), np.zeros(there.shape, bool)
  bad[cells] = marks.checksums(values[cells], counts[cells]) != checks[cells]
  return bad
