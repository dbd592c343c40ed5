"""The table of a store: its arrays in Zarr, and their division into files.

A file holds a piece (some checkpoints on one data set) or a stretch of its
draws. The piece length grows with the run to keep the file count below 60,000.
"""

from collections.abc import Mapping
import contextlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rllc_jax.results import damages
from rllc_jax.results import files
from rllc_jax.results import marks
from rllc_jax.results import store
from rllc_jax.results import traces

_CHUNK_BYTES = 2**26
_LEAST_CHUNK_DRAWS = 256
_MOST_FILES = 60_000
_ARRAYS = 8  # A run has about as many.


def piece_length(extent: store.Extent) -> int:
  """Checkpoints of a piece: as few as keep a store below 60,000 files.

  Examples:
    >>> heads = tuple(map(str, range(400)))
    >>> texts = tuple(map(str, range(20)))
    >>> piece_length(store.Extent(tuple(range(107)), texts, heads, 4, 250))
    1
    >>> piece_length(store.Extent(tuple(range(10_000)), texts, heads, 4, 250))
    32
  """
  length = 1
  while num_files(extent, length) > _MOST_FILES:
    length *= 2
  return length


def num_files(extent: store.Extent, length: int) -> int:
  """Approximate number of files: samplers differ in what they record."""
  pieces = -(-len(extent.checkpoints) // length) * len(extent.datasets)
  draws = -(-extent.num_draws // chunk_draws(extent, length))
  if length >= len(extent.checkpoints):
    draws = 1  # A longer piece would not reduce the files any more.
  return pieces * draws * _ARRAYS


def chunk_draws(extent: store.Extent, length: int) -> int:
  """Draws of a file: all, or as many as fit into 64 MB of float32."""
  cells = length * len(extent.refinements) * extent.num_chains
  # Four bytes per draw: float32.
  most = max(_LEAST_CHUNK_DRAWS, _CHUNK_BYTES // (4 * cells))
  return min(extent.num_draws, most)


class Table(NamedTuple):
  """The arrays of a store.

  A piece is (dataset, number): places of a data set in the extent, and of its
  checkpoints, `length` at a time.

  Attributes:
    path: of the Zarr group.
    extent: coordinates.
    length: checkpoints of a piece.
  """

  path: pathlib.Path
  extent: store.Extent
  length: int

  def fit(self, identity: Mapping[str, Any]) -> None:
    """Grows all arrays, and the copy of the coordinates, to the extent."""
    self._remove_unreadable_metadata()
    group = self._group('a')
    sizes = dict(zip(traces.DIMS, traces.sizes(self.extent), strict=True))
    for name, array in self.arrays('a').items():
      if isinstance(array, Exception):
        self.remove(name, array)
        continue
      dims = _dims(name, array.ndim)
      if array.attrs.get('_ARRAY_DIMENSIONS') != dims:  # Lost by a kill.
        array.attrs['_ARRAY_DIMENSIONS'] = dims
      lengths = zip(dims, array.shape, strict=True)
      shape = tuple(max(sizes.get(dim, 0), current) for dim, current in lengths)
      if shape != array.shape:
        array.resize(shape)
    coordinates = traces.dataset_of({}, identity, self.extent).coords
    for name in traces.DIMS:
      values = coordinates[name].values
      if self._has_coordinate(group, name, values):
        continue
      # No fill value: xarray reads values equal to it as missing.
      array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        fill_value=None,
        overwrite=True,
        attributes={'_ARRAY_DIMENSIONS': [name]},
      )
      array[:] = values

  def check(self) -> None:
    """Raises unless all arrays open, for processes that do not repair them.

    Raises:
      StoreError: naming one that does not.
    """
    try:
      self._group('r')
    except Exception as error:  # JSON and Zarr raise anything.
      raise damages.error(self.path / '.zgroup', str(error)) from error
    for name, array in self.arrays().items():
      if isinstance(array, Exception):
        raise damages.error(self.path / name, str(array)) from array

  def put(
    self,
    piece: tuple[int, int],
    name: str,
    cells: tuple[np.ndarray, ...],
    first: int,
    values: np.ndarray,
  ) -> None:
    """Writes cells of a piece.

    Args:
      piece: the piece.
      name: of the array.
      cells: [n] each: places of checkpoints in the piece, of refinements, and,
        unless these are losses at checkpoints, of chains.
      first: the first draw, if there are draws.
      values: [n, draws, ...] or [n, M].
    """
    with_draws = len(_shared_dims(name)) == len(traces.DIMS)
    extra = values.shape[2 if with_draws else 1 :]
    array = self._array(name, extra, values.dtype)
    low, high = int(cells[0].min()), int(cells[0].max()) + 1
    at = self._slices(piece, low, high)
    if with_draws:
      stop = first + values.shape[1]
      at = (*at, slice(None), slice(None), slice(first, stop))
    try:
      self._put(array, at, (cells[0] - low, *cells[1:]), values)
    except Exception:  # Codecs raise anything; these bytes have no checksum.
      if not self._remove_unreadable(array, piece, name):
        raise
      self._put(array, at, (cells[0] - low, *cells[1:]), values)

  def get(
    self, piece: tuple[int, int], num_draws: int
  ) -> dict[str, np.ndarray | Exception]:
    """Reads a piece, by array; an unreadable array is its exception.

    Args:
      piece: the piece.
      num_draws: of each chain, from the first one on.

    Returns:
      [G, R, C, draws, ...], or losses at the checkpoint [G, R, M].
    """
    arrays = self.arrays().items()
    return {
      name: self._read(name, array, piece, num_draws) for name, array in arrays
    }

  def _put(self, array, at, cells, values) -> None:
    slab = array[at]
    slab[cells] = values
    array[at] = slab

  def _remove_unreadable(self, array, piece, name) -> int:
    """Removes files of a piece that are not readable chunks, and counts them.

    Raises:
      OSError, MemoryError: if one may be sound, but could not be read just now.
    """
    count = 0
    for path in self.files(piece, name):
      try:
        chunk = zip(map(int, path.name.split('.')), array.chunks, strict=True)
        array[tuple(slice(k * length, (k + 1) * length) for k, length in chunk)]
        problem: object = 'a directory' if path.is_dir() else ''
      except (OSError, MemoryError):
        if not path.is_dir():
          raise
        problem = 'a directory'
      except Exception as error:  # Codecs raise anything.
        problem = error
      if problem:
        damages.warn_recomputing(path, problem)
        files.remove(path)
        count += 1
    return count

  def arrays(self, mode: str = 'r') -> dict[str, Any]:
    """Arrays by name, without coordinates; an unreadable one is its exception.

    An array whose `layouts` differ from the marks must not be read.
    """
    # Zarr's own list warns about arrays that a kill left half created.
    names = {path.parent.name for path in self.path.glob('*/.zarray')}
    names -= {*traces.DIMS}
    if not names:
      return {}
    return {name: self._open(name, mode) for name in sorted(names)}

  def layouts(self) -> dict[str, str]:
    """Chunks, dtype, codecs, order and fill value of each array."""
    return {
      name: _layout(array)
      for name, array in self.arrays().items()
      if not isinstance(array, Exception)
    }

  def remove(self, name: str, reason: object) -> None:
    """Removes an array, to be sampled again, with a warning."""
    damages.warn_recomputing(self.path / name / '.zarray', reason)
    files.remove(self.path / name)

  def files(self, piece: tuple[int, int], name: str) -> list[pathlib.Path]:
    """The files of a piece of an array."""
    dataset, number = piece
    return sorted((self.path / name).glob(f'{number}.{dataset}.*'))

  def place(self, piece: tuple[int, int], name: str) -> pathlib.Path:
    """Path of a piece of an array: its file, or 'A.B.*' for several."""
    paths = self.files(piece, name)
    if len(paths) == 1:
      return paths[0]
    dataset, number = piece
    return self.path / name / (f'{number}.{dataset}.*' if paths else '')

  def _has_coordinate(self, group, name, values) -> bool:
    """True if a coordinate is stored with the given values."""
    try:
      return np.array_equal(group[name][:], values) and group[name].attrs
    except Exception:  # Codecs raise anything.
      return False

  def _read(self, name, array, piece, num_draws) -> np.ndarray | Exception:
    if isinstance(array, Exception):
      return array
    try:
      # A run that grows the store may have enlarged the array.
      refinements, chains = traces.sizes(self.extent)[2:4]
      window = (slice(refinements), slice(chains), slice(num_draws))
      window = window[: len(_shared_dims(name)) - 2]
      slab = array[(*self._slices(piece, 0, self.length), *window)]
    except Exception as error:  # Codecs raise anything.
      return error
    short = self.length - slab.shape[0]  # The last piece may be shorter.
    if short < 0:
      return ValueError(f'an array of shape {array.shape}')
    return np.pad(slab, [(0, short)] + [(0, 0)] * (slab.ndim - 1))

  def _slices(self, piece, low, high) -> tuple[Any, ...]:
    dataset, number = piece
    start = number * self.length
    return slice(start + low, start + high), dataset

  def _remove_unreadable_metadata(self) -> None:
    """Removes metadata that Zarr can neither read nor replace."""
    group = self.path / '.zgroup'
    with contextlib.suppress(OSError, ValueError):
      if json.loads(group.read_bytes()) == {'zarr_format': 2}:
        group = self.path / 'none'
    files.remove(group)
    for path in (self.path / '.zattrs', *self.path.glob('*/.z*')):
      if path.is_dir():
        files.remove(path)

  def _open(self, name, mode) -> Any:
    # Imported here: estimates in memory do not need Zarr.
    import zarr

    try:
      return zarr.open_array(self.path / name, mode=mode, zarr_format=2)
    except Exception as error:  # JSON and codecs raise anything.
      return error

  def _group(self, mode) -> Any:
    import zarr

    # Format 3 has no specification of fixed-length strings, and Zarr warns.
    return zarr.open_group(self.path, mode=mode, zarr_format=2)

  def _array(self, name, extra, dtype) -> Any:
    """An array of the group, made on first use."""
    import zarr

    group = self._group('a')
    if name not in group:
      with contextlib.suppress(zarr.errors.ContainsArrayError):
        self._create(group, name, extra, dtype)  # If no other process has.
    return group[name]

  def _create(self, group, name, extra, dtype) -> None:
    extent, dims = self.extent, _shared_dims(name)
    chunks = (
      self.length,
      1,
      len(extent.refinements),
      extent.num_chains,
      chunk_draws(extent, self.length),
    )
    group.create_array(
      name,
      shape=(*traces.sizes(extent)[: len(dims)], *extra),
      chunks=(*chunks[: len(dims)], *extra),
      dtype=dtype,
      fill_value=float('nan'),
      attributes={'_ARRAY_DIMENSIONS': _dims(name, len(dims) + len(extra))},
    )


def _layout(array: Any) -> str:
  parts = array.chunks, array.dtype, array.compressors, array.filters
  return repr((*parts, array.order, array.fill_value))


def _shared_dims(name: str) -> tuple[str, ...]:
  """The dims of `traces.DIMS` that an array has."""
  return traces.DIMS[:3] if name == marks.BASELINE else traces.DIMS


def _dims(name: str, count: int) -> list[str]:
  """Names of all `count` axes of an array."""
  shared = _shared_dims(name)
  return [*shared, *traces.own_dims(name, count - len(shared))]
