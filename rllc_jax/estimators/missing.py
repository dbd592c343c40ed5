"""What a store lacks of a run, as blocks of work."""

from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rllc_jax import types
from rllc_jax.estimators import settings
from rllc_jax.estimators import stops
from rllc_jax.results import store as stores


class Work(NamedTuple):
  """A block by its coordinates: cells that miss the draws from `first` on.

  Attributes:
    family: of its refinements.
    rows: K of them.
    columns: N of them.
    first: the draw.
    stops: [K, N], draws that each shall have, as far as is known: with a target
      error those of the pilot, at first.
  """

  family: types.Refinements
  rows: list[stores.Row]
  columns: list[stores.Column]
  first: int
  stops: np.ndarray

  @property
  def num_chains(self) -> int:
    """Chains in the block, without padding."""
    return len(self.rows) * len(self.columns)

  @property
  def num_missing(self) -> int:
    """Draws that are missing, of all chains."""
    return int((self.stops - self.first).sum())


class Held(NamedTuple):
  """The draws of a store.

  Attributes:
    recorded: `recorded(rows, columns) -> [K, N]`, draws.
    read: `read(extent)`, their traces.
  """

  recorded: Callable[
    [Sequence[stores.Row], Sequence[stores.Column]], np.ndarray
  ]
  read: stops.Read


def plan(
  held: Held,
  refinements: Sequence[types.Refinements],
  sampling: settings.Sampling,
  rows: Sequence[stores.Row],
  rows_per_block: int,
  names: Sequence[str] | None = None,
) -> tuple[list[Work], int]:
  """Plans blocks of the cells that lack draws, family by family.

  Args:
    held: the draws that there are.
    refinements: families.
    sampling: settings of the chains.
    rows: checkpoints on data sets.
    rows_per_block: at most so many rows a block.
    names: of the refinements to plan for; all by default.

  Returns:
    (blocks, draws of all chains that there are already).
  """
  works, num_held = [], 0
  for family in refinements:
    chains = range(sampling.num_chains)
    planned = [x for x in family.names if names is None or x in names]
    columns = [(name, chain) for name in planned for chain in chains]
    counts = held.recorded(rows, columns)
    wanted = _planned_stops(held, planned, sampling, rows, counts)
    num_held += int(np.minimum(counts, wanted).sum())
    for piece in pieces(counts, wanted, rows_per_block):
      piece_rows = [rows[k] for k in piece.rows]
      piece_columns = [columns[n] for n in piece.columns]
      there = wanted[np.ix_(piece.rows, piece.columns)]
      work = Work(family, piece_rows, piece_columns, piece.first, there)
      works.append(work)
  return works, num_held


def _planned_stops(held, names, sampling, rows, counts) -> np.ndarray:
  """Draws that chains shall have, [K, N], before any is taken."""
  rule = sampling.stop_rule
  if rule is None:
    return np.full(counts.shape, sampling.num_recorded)
  of_cells = [
    stops.of_row(rule, held.read, row, names, sampling.num_chains, int(most))
    for row, most in zip(rows, counts.max(axis=1), strict=True)
  ]
  return np.repeat(np.stack(of_cells), sampling.num_chains, axis=1)


def grown_stops(
  work: Work,
  sampling: settings.Sampling,
  read: stops.Read,
  wanted: np.ndarray,
  count: int,
) -> np.ndarray:
  """Draws that the chains of a block shall have, once they have so many.

  Args:
    work: the block.
    sampling: settings of the chains.
    read: reads what is stored.
    wanted: [K, N], as far as was known.
    count: draws; rows of which a pilot ends there are looked at.
  """
  rule = sampling.stop_rule
  if rule is None:
    return wanted
  grown = wanted.copy()
  chains, names = sampling.num_chains, work.family.names
  places = [names.index(name) for name, _ in work.columns]
  for k in np.flatnonzero((wanted == count).any(axis=1)):
    of_cells = stops.of_row(rule, read, work.rows[k], names, chains, count)
    grown[k] = np.maximum(wanted[k], of_cells[places])
  return grown


class Piece(NamedTuple):
  """A piece of work: some rows, some columns, from the same draw on.

  Attributes:
    rows: positions in the list of rows.
    columns: positions in the list of columns.
    first: the first draw that is missing, the same for all.
  """

  rows: tuple[int, ...]
  columns: tuple[int, ...]
  first: int


def pieces(
  recorded: np.ndarray, wanted: np.ndarray | int, rows_per_block: int
) -> list[Piece]:
  """Cells that lack draws, as blocks in the order of their rows.

  A run that was killed leaves some rows done, one half done and the rest
  untouched; one that is asked for more chains leaves some columns done. Cells
  that miss the same draws go together.

  Args:
    recorded: [rows, columns], draws that each cell has.
    wanted: [rows, columns] or [], draws that each shall have.
    rows_per_block: at most so many rows a block.

  Examples:
    >>> recorded = np.array([[9, 9], [4, 4], [0, 0], [0, 0]])
    >>> for piece in pieces(recorded, wanted=9, rows_per_block=2):
    ...   print(piece)
    Piece(rows=(1,), columns=(0, 1), first=4)
    Piece(rows=(2, 3), columns=(0, 1), first=0)
  """
  groups: dict[tuple[int, tuple[int, ...]], list[int]] = {}
  lacking = recorded < wanted
  for row, counts in enumerate(recorded):
    for first in np.unique(counts[lacking[row]]):
      at_first = lacking[row] & (counts == first)
      columns = tuple(np.flatnonzero(at_first).tolist())
      groups.setdefault((int(first), columns), []).append(row)
  planned = [
    Piece(tuple(rows[i : i + rows_per_block]), columns, first)
    for (first, columns), rows in groups.items()
    for i in range(0, len(rows), rows_per_block)
  ]
  return sorted(planned)
