"""The files of a store as an xarray data set, which reads them when asked."""

from collections.abc import Mapping
import itertools
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from rllc_jax.results import blocks
from rllc_jax.results import damages
from rllc_jax.results import files
from rllc_jax.results import index
from rllc_jax.results import store
from rllc_jax.results import traces

_TRIES = 5  # Files may be merged while they are read.


def dataset(
  directory: index.Index, identity: Mapping[str, Any], extent: store.Extent
) -> xr.Dataset:
  """Traces over an extent, NaN where missing, which are read when asked for.

  Args:
    directory: the files of traces.
    identity: of the run.
    extent: the coordinates, in the order that they shall have.
  """
  shapes: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
  longest = 1
  for kind in {id(x.kind): x.kind for x in directory.all()}.values():
    shapes |= kind.shapes
    longest = max(longest, len(kind.made_with))
  sizes = traces.sizes(extent)
  number, text = np.dtype(np.int32), np.dtype(f'U{longest}')
  lazy: dict[str, Any] = {
    'recorded': _Recorded(directory, extent, number, sizes[:4]),
    'made_with': _MadeWith(directory, extent, text, sizes[:3]),
  }
  for name, (dtype, axes) in sorted(shapes.items()):
    if name == blocks.BASELINE:
      shape = *sizes[:3], *axes
      lazy[name] = _Baseline(directory, extent, dtype, shape)
    else:
      lazy[name] = _Draws(directory, extent, dtype, (*sizes, *axes), name)
  arrays = {
    name: indexing.LazilyIndexedArray(array) for name, array in lazy.items()
  }
  return traces.dataset_of(arrays, identity, extent)


class _Lazy(BackendArray):
  """An array of which a part is put together from files, row by row."""

  def __init__(
    self,
    directory: index.Index,
    extent: store.Extent,
    dtype: np.dtype,
    shape: tuple[int, ...],
    name: str = '',
  ):
    self.dtype, self.shape = dtype, shape
    self._directory, self._extent, self._name = directory, extent, name

  def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
    return indexing.explicit_indexing_adapter(
      key, self.shape, indexing.IndexingSupport.OUTER, self._part
    )

  def _part(self, key: tuple[Any, ...]) -> np.ndarray:
    """A part, by an integer, a slice or an array of integers for each axis."""
    axes = [
      np.atleast_1d(np.arange(n)[k])
      for n, k in zip(self.shape, key, strict=True)
    ]
    rows = itertools.product(
      (self._extent.checkpoints[i] for i in axes[0]),
      (self._extent.datasets[i] for i in axes[1]),
    )
    names = [self._extent.refinements[i] for i in axes[2]]
    parts = [self._of_row(row, names, axes[3:]) for row in rows]
    shape = [len(axis) for axis in axes]
    out = np.array(parts, self.dtype).reshape(shape)
    # What was asked for by a number loses its axis.
    return out[
      tuple(
        0 if np.ndim(k) == 0 and not isinstance(k, slice) else slice(None)
        for k in key
      )
    ]

  def _of_row(self, row, names, axes) -> np.ndarray:
    """The part of a row, [names, *axes]."""
    for _ in range(_TRIES):
      try:
        return self._read(row, names, axes)
      except FileNotFoundError:
        self._directory.refresh()
    return self._read(row, names, axes)

  def _read(self, row, names, axes) -> np.ndarray:
    raise NotImplementedError

  def _arrays(self, row, columns, name, draws=(0, np.inf)):
    """Arrays of a name [N, ...] in files of a row, by age.

    Args:
      row: a checkpoint on a data set.
      columns: those that are asked for.
      name: of the array.
      draws: from the first one to the one after the last.

    Yields:
      (entry, array, positions in it, positions among the given columns).
    """
    places, (low, high) = index.Places(columns), draws
    for entry in self._directory.entries([row]):
      source, target = places.of(entry.kind.block.columns)
      if name not in entry.kind.shapes or not len(source):
        continue
      if entry.name.stop <= low or entry.name.first >= high:
        continue
      path = self._directory.path(entry)
      try:
        tensor = self._directory.checked(entry).tensors[name]
        k = entry.kind.block.rows.index(row)
        yield entry, files.read(path, tensor, k), source, target
      except files.DamagedFileError as error:
        raise damages.error(path, str(error)) from error


class _Recorded(_Lazy):
  """Draws of each cell, from names of files alone."""

  def _read(self, row, names, axes):
    columns = [(name, chain) for name in names for chain in axes[0]]
    counts = self._directory.covered([row], columns)
    return counts.reshape(len(names), -1).clip(max=self._extent.num_draws)


class _MadeWith(_Lazy):
  """Software and devices of the last draws of each cell."""

  def _read(self, row, names, axes):
    columns = [(n, c) for n in names for c in range(self._extent.num_chains)]
    texts, places = np.full(len(columns), '', object), index.Places(columns)
    for entry in self._directory.entries([row]):
      texts[places.of(entry.kind.block.columns)[1]] = entry.kind.made_with
    by_chain = texts.reshape(len(names), -1)
    return np.array([next(filter(None, x[::-1]), '') for x in by_chain], object)


class _Baseline(_Lazy):
  """Losses at the checkpoint, which all chains of a row share."""

  def _read(self, row, names, axes):
    out = np.full((len(names), self.shape[3]), np.nan, self.dtype)
    columns = [(n, c) for n in names for c in range(self._extent.num_chains)]
    losses = self._arrays(row, columns, blocks.BASELINE)
    for _, array, _, target in losses:
      out[target // self._extent.num_chains] = array
    return out[:, axes[0]]


class _Draws(_Lazy):
  """A trace."""

  def _read(self, row, names, axes):
    chains, draws, *further = axes
    columns = [(name, chain) for name in names for chain in chains]
    # Integers have no NaN.
    fill = np.nan if np.issubdtype(self.dtype, np.inexact) else 0
    low, high = (draws.min(), draws.max() + 1) if len(draws) else (0, 0)
    shape = len(columns), high - low, *self.shape[5:]
    out = np.full(shape, fill, self.dtype)
    arrays = self._arrays(row, columns, self._name, (low, high))
    for entry, array, source, target in arrays:
      first, stop = entry.name.first, entry.name.stop
      begin, end = max(first, low), min(stop, high)
      if begin < end:
        part = array[source, begin - first : end - first]
        out[target, begin - low : end - low] = part
    # Draws behind a gap do not count.
    covered = self._directory.covered([row], columns)[0]
    out[np.arange(low, high) >= covered[:, None]] = fill
    out = out.reshape(len(names), len(chains), *out.shape[1:])
    place = np.ix_(*map(np.arange, out.shape[:2]), draws - low, *further)
    return out[place]
