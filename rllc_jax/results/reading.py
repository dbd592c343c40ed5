"""A store's arrays, put together from pieces and files of blocks."""

from collections.abc import Iterable

import numpy as np

from rllc_jax.results import block_files
from rllc_jax.results import marks
from rllc_jax.results import pieces
from rllc_jax.results import store
from rllc_jax.results import traces


def read(
  store_pieces: pieces.Pieces,
  blocks: Iterable[block_files.BlockFile],
  extent: store.Extent,
) -> dict[str, np.ndarray]:
  """Arrays over an extent, for `traces.dataset_of`.

  Args:
    store_pieces: the table.
    blocks: block files with draws that may not be in the table yet, sorted by
      first draw.
    extent: that of the table, with some of its checkpoints, data sets and
      draws.

  Raises:
    StoreError: if something is not as it was written.
  """
  out = _Arrays(extent)
  by_piece: dict[pieces.Piece, list[store.Row]] = {}
  for row in out.places:
    by_piece.setdefault(store_pieces.of(row), []).append(row)
  for piece, rows in by_piece.items():
    mark, values = store_pieces.sound(piece)
    for row in rows:
      out.take_row(row, store_pieces.place(row), mark, values)
  # After the table: draws of a block may already have moved there.
  for block in blocks:
    for k, row in enumerate(block.rows):
      if row in out.places:
        for n, column in enumerate(block.columns):
          if store_pieces.has((row, column)):  # Else of a run that grows it.
            place = (*out.places[row], *store_pieces.at(column))
            out.take_draws(place, block, k, n)
  return out.arrays | {'made_with': out.arrays['made_with'].astype(str)}


class _Arrays:
  """Arrays that are filled row by row, then cell by cell."""

  def __init__(self, extent: store.Extent):
    self._sizes = traces.sizes(extent)
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
    """Copies a row from the table; chains may be missing there."""
    i, j = self.places[row]
    self.arrays['recorded'][i, j] = mark.recorded[place]
    self.arrays['made_with'][i, j] = mark.made_with[place]
    for name, array in values.items():
      stored = array[place]
      if name == marks.BASELINE:
        out = self._baseline(stored.shape[1], stored.dtype)[i, j]
        is_recorded = mark.recorded[place].any(axis=1)
      else:
        stored = stored[:, :, : self._sizes[4]]
        out = self._draws(name, stored.shape[3:], stored.dtype)[i, j]
        out = out[:, :, : stored.shape[2]]
        # Draws beyond the count may stem from a killed run.
        is_recorded = (
          np.arange(stored.shape[2]) < mark.recorded[place][:, :, None]
        )
      out[is_recorded] = stored[is_recorded]

  def take_draws(self, cell, block, k, n) -> None:
    """Copies a chain's draws that continue those of the table."""
    if not block.first <= self.arrays['recorded'][cell] < block.stop:
      return
    for name, trace in block.traces.items():
      out = self._draws(name, trace.shape[3:], trace.dtype)[cell]
      out = out[block.first : block.stop]
      out[...] = trace[k, n, : len(out)]
    if block.baseline.shape[1]:
      out = self._baseline(block.baseline.shape[1], block.baseline.dtype)
      out[cell[:3]] = block.baseline[k]
    self.arrays['recorded'][cell] = block.stop
    self.arrays['made_with'][cell[:3]] = block.made_with

  def _draws(self, name, extra, dtype) -> np.ndarray:
    return self._array(name, (*self._sizes, *extra), dtype)

  def _baseline(self, count, dtype) -> np.ndarray:
    return self._array(marks.BASELINE, (*self._sizes[:3], count), dtype)

  def _array(self, name, shape, dtype) -> np.ndarray:
    if name not in self.arrays:
      # Integers have no NaN.
      fill = np.nan if np.issubdtype(dtype, np.inexact) else 0
      self.arrays[name] = np.full(shape, fill, dtype)
    return self.arrays[name]
