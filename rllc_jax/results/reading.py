"""A store's arrays, put together from pieces and files of blocks."""

from collections.abc import Iterable

import numpy as np

from rllc_jax.results import block_files
from rllc_jax.results import marks
from rllc_jax.results import pieces as all_pieces
from rllc_jax.results import store as stores
from rllc_jax.results import traces as tables


def read(
  pieces: all_pieces.Pieces,
  blocks: Iterable[block_files.BlockFile],
  extent: stores.Extent,
) -> dict[str, np.ndarray]:
  """Arrays over an extent, for `traces.dataset_of`.

  Args:
    pieces: the table.
    blocks: with draws that may not be in the table yet, by their first draw.
    extent: that of the table, with some of its checkpoints and data sets.

  Raises:
    StoreError: if something is not as it was written.
  """
  out = _Arrays(extent)
  by_piece: dict[all_pieces.Piece, list[stores.Row]] = {}
  for row in out.places:
    by_piece.setdefault(pieces.of(row), []).append(row)
  for piece, rows in by_piece.items():
    mark, values = pieces.sound(piece)
    for row in rows:
      out.take_row(row, pieces.place(row), mark, values)
  for block in blocks:
    for k, row in enumerate(block.rows):
      if row in out.places:
        for n, column in enumerate(block.columns):
          out.take_draws((*out.places[row], *pieces.at(column)), block, k, n)
  return out.arrays | {'made_with': out.arrays['made_with'].astype(str)}


def _there(name, recorded, shape) -> np.ndarray:
  """Which values of a row the mark speaks of: others may be of a kill."""
  if name == marks.BASELINE:
    return recorded.any(axis=1)
  return np.arange(shape[2]) < recorded[:, :, None]


class _Arrays:
  """Arrays that are filled row by row, then cell by cell."""

  def __init__(self, extent: stores.Extent):
    self._sizes = tables.sizes(extent)
    self.places = {
      (step, dataset): (i, j)
      for i, step in enumerate(extent.checkpoints)
      for j, dataset in enumerate(extent.datasets)
    }
    self.arrays: dict[str, np.ndarray] = {
      'recorded': np.zeros(self._sizes[:4], np.int32),
      'made_with': np.full(self._sizes[:3], '', object),
    }

  def take_row(self, row, place, mark, values) -> None:
    """What the table has of a row; it may lack chains that are asked for."""
    i, j = self.places[row]
    self.arrays['recorded'][i, j] = mark.recorded[place]
    self.arrays['made_with'][i, j] = mark.made_with[place]
    for name, array in values.items():
      own = array[place]
      array = self._array(name, own.shape, own.dtype)
      there = _there(name, mark.recorded[place], own.shape)
      array[i, j][there] = own[there]

  def take_draws(self, cell, block, k, n) -> None:
    """A chain's draws that the table has not got, unless some are missing."""
    if not block.first <= self.arrays['recorded'][cell] < block.stop:
      return
    for name, trace in block.traces.items():
      shape = (*self._sizes[2:], *trace.shape[3:])
      array = self._array(name, shape, trace.dtype)
      array[cell][block.first : block.stop] = trace[k, n]
    if block.baseline.shape[1]:
      shape = (self._sizes[2], block.baseline.shape[1])
      array = self._array(marks.BASELINE, shape, block.baseline.dtype)
      array[cell[:3]] = block.baseline[k]
    self.arrays['recorded'][cell] = block.stop
    self.arrays['made_with'][cell[:3]] = block.made_with

  def _array(self, name, shape, dtype) -> np.ndarray:
    if name not in self.arrays:
      fill = np.nan if np.issubdtype(dtype, np.inexact) else 0
      self.arrays[name] = np.full((*self._sizes[:2], *shape), fill, dtype)
    return self.arrays[name]
