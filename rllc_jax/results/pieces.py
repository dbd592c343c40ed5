"""Pieces of a store: their marks, places in the table, and repair.

A piece is a data set and some of its checkpoints. A process owns whole pieces,
and no other process writes to them.
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
from rllc_jax.results import store
from rllc_jax.results import table as zarr_table
from rllc_jax.results import traces

Piece = tuple[int, int]  # Places of a data set, and of its checkpoints.


@dataclasses.dataclass(frozen=True)
class Pieces:
  """The table of a store, with its marks.

  Attributes:
    path: of the store.
    extent: coordinates.
    length: checkpoints of a piece.
    owner: the identifier of the store, which all of its files hold.
  """

  path: pathlib.Path
  extent: store.Extent
  length: int
  owner: str

  @functools.cached_property
  def _places(self) -> tuple[dict[Any, int], ...]:
    """Index by name of checkpoints, data sets and refinements."""
    # A dictionary: a tuple's `index` is slow with thousands of checkpoints.
    dims = self.extent[:3]
    return tuple({name: i for i, name in enumerate(names)} for names in dims)

  @property
  def table(self) -> zarr_table.Table:
    """The values."""
    return zarr_table.Table(self.path / 'traces.zarr', self.extent, self.length)

  def all(self) -> list[Piece]:
    """All pieces, in an order that all processes agree on."""
    count = math.ceil(len(self.extent.checkpoints) / self.length)
    datasets = range(len(self.extent.datasets))
    return [(s, i) for i in range(count) for s in datasets]

  def share(self, index: int, count: int) -> list[Piece]:
    """The pieces that only process `index` of `count` writes to."""
    return self.all()[index::count]

  def of(self, row: store.Row) -> Piece:
    """The piece that a row is in."""
    checkpoints, datasets, _ = self._places
    return datasets[row[1]], checkpoints[row[0]] // self.length

  def of_block(self, block: block_files.BlockFile) -> set[Piece]:
    """The pieces that a block's rows are in."""
    return {self.of(row) for row in block.rows}

  def place(self, row: store.Row) -> int:
    """The index of a row's checkpoint within its piece."""
    return self._places[0][row[0]] % self.length

  def has(self, cell: block_files.Cell) -> bool:
    """True if the extent has the row and the column."""
    (step, dataset), (refinement, chain) = cell
    steps, datasets, refinements = self._places
    is_named = (
      step in steps and dataset in datasets and refinement in refinements
    )
    return is_named and 0 <= chain < self.extent.num_chains

  def at(self, column: store.Column) -> tuple[int, int]:
    """Places of a refinement and a chain."""
    return self._places[2][column[0]], column[1]

  def mark_path(self, piece: Piece) -> pathlib.Path:
    """The file of a piece's mark."""
    # One file per piece: one per refinement would be 80 million at full size.
    dataset = files.name_of(self.extent.datasets[piece[0]])
    return self.path / 'marks' / dataset / f'{piece[1]}.npz'

  def mark(self, piece: Piece) -> marks.Mark:
    """Reads a piece's mark.

    Raises:
      DamagedFileError: if it is not what was written.
    """
    _, _, refinements, chains, _ = traces.sizes(self.extent)
    shape = self.length, refinements, chains
    return marks.read(self.mark_path(piece), shape, self.owner)

  def sound_mark(self, piece: Piece) -> marks.Mark:
    """Reads a piece's mark; damage is an error of the store.

    Raises:
      StoreError: if it is not what was written.
    """
    try:
      return self.mark(piece)
    except files.DamagedFileError as error:
      raise damages.error(self.mark_path(piece), str(error)) from error

  def sound(self, piece: Piece) -> tuple[marks.Mark, dict[str, np.ndarray]]:
    """Reads a piece's mark and values, and verifies their checksums.

    Raises:
      StoreError: if they are not.
    """
    mark = self.sound_mark(piece)
    values = self.table.get(piece, mark.max_recorded)
    _check_layouts(mark, self.table.layouts(), self.table.path)
    for name, bad in _damaged(mark, values):
      if bad.any():
        problem = 'other draws than were written'
        raise damages.error(self.table.place(piece, name), problem)
    readable = {
      name: array
      for name, array in values.items()
      if not isinstance(array, Exception)
    }
    return mark, readable

  def check_layouts(self, pieces: Iterable[Piece]) -> None:
    """Raises unless all arrays open and have the layout of the marks.

    Raises:
      StoreError: naming one that is not.
    """
    self.table.check()
    layouts = self.table.layouts()
    for piece in pieces:
      with contextlib.suppress(files.DamagedFileError):
        _check_layouts(self.mark(piece), layouts, self.table.path)

  def repair_layouts(self) -> None:
    """Removes arrays whose layout differs from the marks."""
    layouts = self.table.layouts()
    for piece in self.all():
      with contextlib.suppress(files.DamagedFileError):
        for name, layout in self.mark(piece).layouts.items():
          if layouts.get(name, layout) != layout:
            self.table.remove(name, 'another layout')
            del layouts[name]

  def repair(self, pieces: Iterable[Piece]) -> None:
    """Removes damaged marks and values, to be sampled again."""
    for piece in pieces:
      try:
        mark = self.mark(piece)
      except files.DamagedFileError as error:
        damages.warn_recomputing(self.mark_path(piece), error)
        files.remove(self.mark_path(piece))
      else:
        self._repair_values(piece, mark)

  def _repair_values(self, piece, mark) -> None:
    if not mark.recorded.any():
      return
    values = self.table.get(piece, mark.max_recorded)
    damaged = [item for item in _damaged(mark, values) if item[1].any()]
    for name, bad in damaged:
      problem = f'{bad.sum()} chains with other draws'
      damages.warn_recomputing(self.table.place(piece, name), problem)
      mark.recorded[bad] = 0
      unreadable = isinstance(values.get(name), Exception)
      # Readable files stay: they hold sound chains, too.
      for path in self.table.files(piece, name):
        if unreadable or path.is_dir():
          files.remove(path)
    if damaged:
      marks.write(self.mark_path(piece), mark, self.owner)

  def fold(self, block: block_files.BlockFile) -> None:
    """Writes a block's draws to the table, then the marks of its pieces."""
    by_piece: dict[Piece, list[int]] = {}
    for k, row in enumerate(block.rows):
      by_piece.setdefault(self.of(row), []).append(k)
    for piece, rows in by_piece.items():
      self._fold_rows(piece, block, np.array(rows))

  def _fold_rows(self, piece, block, rows) -> None:
    mark = self.mark(piece)
    g = np.array([self.place(block.rows[k]) for k in rows])
    r, c = np.array([self.at(column) for column in block.columns]).T
    recorded = mark.recorded[g[:, None], r, c]
    # After a kill some or all draws may already be in the table.
    is_new = (block.first <= recorded) & (recorded < block.stop)
    if not is_new.any():
      return
    # A chain from draw 0 replaces all draws of its cell.
    first_draws = recorded if block.first else np.zeros_like(recorded)
    names_before = (
      {*mark.checks} - {marks.BASELINE} if mark.recorded.any() else None
    )
    for first in np.unique(first_draws[is_new]):
      k, n = np.nonzero(is_new & (first_draws == first))
      cells = g[k], r[n], c[n]
      self._fold_cells(piece, mark, cells, int(first), block, (rows[k], n))
    if names_before is not None:
      # Runs that record other arrays leave gaps, which need checksums, too.
      self._check_gaps(piece, mark, names_before ^ block.traces.keys())
    mark.layouts.update(self.table.layouts())
    # After the values: a mark never counts draws that are not written.
    marks.write(self.mark_path(piece), mark, self.owner)

  def _fold_cells(self, piece, mark, cells, first, block, places) -> None:
    """Writes a block's draws from `first` on to cells, with their checksums."""
    for name, trace in block.traces.items():
      values = trace[places][:, first - block.first :]
      self.table.put(piece, name, cells, first, values)
      checks = mark.check(name)
      counts = np.full(len(values), values.shape[1])
      checks_before = checks[cells] if first else None
      checks[cells] = marks.checksums(values, counts, checks_before)
    if block.baseline.shape[1]:
      self._fold_baseline(piece, mark, cells[:2], block.baseline[places[0]])
    mark.recorded[cells] = block.stop
    mark.made_with[cells[:2]] = block.made_with

  def _check_gaps(self, piece, mark, names) -> None:
    cells = np.nonzero(mark.recorded)
    for name in names:
      values = self.table.get(piece, mark.max_recorded)[name]
      if isinstance(values, Exception):
        raise values
      counts = mark.recorded[cells]
      mark.check(name)[cells] = marks.checksums(values[cells], counts)

  def _fold_baseline(self, piece, mark, cells, values) -> None:
    self.table.put(piece, marks.BASELINE, cells, 0, values)
    counts = np.full(len(values), values.shape[1])
    mark.check(marks.BASELINE)[cells] = marks.checksums(values, counts)


def _check_layouts(mark, layouts, path) -> None:
  for name, layout in layouts.items():
    if mark.layouts.get(name, layout) != layout:
      problem = 'another layout than was made'
      raise damages.error(path / name / '.zarray', problem)


def _damaged(
  mark: marks.Mark, values: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields each array's name, and [G, R, C], True where a checksum differs."""
  recorded = mark.recorded.copy()
  is_recorded = recorded > 0
  for name, checks in mark.checks.items():
    array = values.get(name, KeyError(name))
    if isinstance(array, Exception):
      yield name, is_recorded
    elif name == marks.BASELINE:
      counts = np.full(is_recorded.shape[:2], array.shape[2])
      bad = _differ(array, is_recorded.any(axis=2), counts, checks)
      yield name, bad[:, :, None] & is_recorded
    else:
      yield name, _differ(array, is_recorded, recorded, checks)


def _differ(values, is_present, counts, checks) -> np.ndarray:
  """True for cells that are present with another checksum."""
  cells, bad = np.nonzero(is_present), np.zeros(is_present.shape, bool)
  bad[cells] = marks.checksums(values[cells], counts[cells]) != checks[cells]
  return bad
