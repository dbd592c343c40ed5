"""A store in a directory: Zarr that survives a kill.

  traces.zarr   dims (checkpoint, dataset, refinement, chain, draw)
  run.json      the identity and the extent
  marks/        a file a (checkpoint, dataset, refinement), see `marks`
  lock          held by the run that writes

Values are written first and the mark last; arrays grow before `run.json`.
"""

import fcntl
import hashlib
import json
import os
import pathlib
from typing import Any
from urllib import parse

import numpy as np

from rllc_jax.results import marks
from rllc_jax.results import store as stores
from rllc_jax.results import traces as tables

# Draws of a chunk at most: few files, and small ones to rewrite.
_CHUNK_DRAWS = 256


def open_store(path: str | os.PathLike) -> 'DiskStore':
  """Opens the store in a directory, which need not exist yet.

  Args:
    path: the directory.

  Raises:
    StoreError: if there is something else in it.
  """
  path = pathlib.Path(path)
  if path.exists() and not (path / 'run.json').exists():
    ours = {'lock', 'traces.zarr', 'run.json.new'}  # Before run.json is.
    if not path.is_dir() or any(x.name not in ours for x in path.iterdir()):
      raise tables.StoreError(
        f'{path} must be a store of rllc_jax or not exist, so that nothing '
        'else is overwritten; got something without run.json.'
      )
  return DiskStore(path)


class DiskStore:
  """A `stores.Store` in a directory; see `open_store`."""

  def __init__(self, path: pathlib.Path):
    self.path = path
    self._identity: dict[str, Any] = {}
    self._extent: stores.Extent | None = None
    self._made_with = ''
    self._lock: Any = None
    self._load()

  @property
  def extent(self) -> stores.Extent:
    """What the store holds, or will."""
    if self._extent is None:
      raise tables.StoreError(
        f'{self.path} must hold results to read; got nothing there.'
      )
    return self._extent

  def begin(self, identity, extent, made_with):
    self.path.mkdir(parents=True, exist_ok=True)
    self._lock = _locked(self.path / 'lock')
    try:
      self._load()  # Somebody else may have added to it since.
      self._identity = self._merged(identity)
      self._extent = tables.grown(self._extent or extent, extent)
      self._made_with = made_with
      self._fit_arrays()
      self._save_run()
    except BaseException:
      self.end()
      raise

  def end(self):
    if self._lock is not None:
      self._lock.close()
      self._lock = None

  def recorded(self, rows, columns):
    count = lambda row, name, chain: self._counts(row, name)[chain]
    return np.array(
      [[count(row, *column) for column in columns] for row in rows]
    )

  def states(self, rows, columns):
    def leaves(row, name, chain):
      return [leaf[chain] for leaf in marks.read_states(self._mark(row, name))]

    cells = [[leaves(row, *column) for column in columns] for row in rows]
    count = len(cells[0][0])
    return [
      np.array([[cell[i] for cell in row] for row in cells])
      for i in range(count)
    ]

  def write(self, rows, columns, first, traces, states):
    stop = first + next(iter(traces.values())).shape[2]
    refinements = [self.extent.refinements.index(name) for name, _ in columns]
    chains = [chain for _, chain in columns]
    for name, trace in traces.items():
      array = self._array(name, tables.DIMS, trace.shape[3:], trace.dtype)
      for k, row in enumerate(rows):
        at = (*self._place(row), slice(None), slice(None), slice(first, stop))
        part = array[at]
        part[refinements, chains] = trace[k]
        array[at] = part
    for k, row in enumerate(rows):
      self._write_marks(row, columns, stop, [leaf[k] for leaf in states])

  def write_baseline(self, rows, refinements, losses):
    array = self._array(
      'baseline_loss', tables.DIMS[:3], losses.shape[1:], losses.dtype
    )
    for row, values in zip(rows, losses, strict=True):
      for name in refinements:
        refinement = self.extent.refinements.index(name)
        array[(*self._place(row), refinement)] = values

  def read(self, extent=None):
    held = self.extent
    sizes = dict(zip(tables.DIMS, tables.sizes(held), strict=True))
    arrays: dict[str, np.ndarray] = {}
    for name, array in self._group().arrays():
      if name not in tables.DIMS:
        # After a kill between two changes an array may be longer than held.
        dims = array.attrs['_ARRAY_DIMENSIONS']
        arrays[name] = array[tuple(slice(sizes.get(dim)) for dim in dims)]
    arrays['recorded'] = np.zeros(tables.sizes(held)[:4], np.int32)
    made_with = np.full(tables.sizes(held)[:3], '', object)
    for k, step in enumerate(held.checkpoints):
      for s, dataset in enumerate(held.datasets):
        for r, name in enumerate(held.refinements):
          mark = self._mark((step, dataset), name)
          counts = marks.read_counts(mark, held.num_chains)
          arrays['recorded'][k, s, r] = counts
          made_with[k, s, r] = marks.read_made_with(mark)
    arrays['made_with'] = made_with.astype(str)
    found = tables.dataset_of(arrays, self._identity, held)
    if extent is not None:
      return tables.select(found, extent)
    longest = int(found.recorded.max())
    return found.sortby('checkpoint').isel(draw=slice(longest))

  def _load(self):
    if (self.path / 'run.json').exists():
      self._identity, self._extent = _load_run(self.path / 'run.json')

  def _merged(self, identity):
    merged, difference = tables.merge_identity(self._identity, identity)
    if difference:
      raise tables.StoreError(
        f'The store {self.path} must be of the same run, because its numbers '
        f'would not belong together; it was made with {difference}. Use '
        'another directory, or the same settings.'
      )
    return merged

  def _save_run(self):
    run = {'identity': self._identity, 'extent': self.extent._asdict()}
    content = json.dumps(run, indent=1).encode()
    marks.replace_file(self.path / 'run.json', content)

  def _group(self) -> Any:
    # Not at the top: estimating in memory does not need Zarr.
    import zarr

    return zarr.open_group(self.path / 'traces.zarr', mode='a', zarr_format=2)

  def _fit_arrays(self):
    """Grows all arrays, and the copy of the coordinates, to the extent."""
    group = self._group()
    sizes = dict(zip(tables.DIMS, tables.sizes(self.extent), strict=True))
    for name, array in group.arrays():
      if name not in tables.DIMS:
        dims = zip(array.attrs['_ARRAY_DIMENSIONS'], array.shape, strict=True)
        shape = tuple(max(sizes.get(dim, 0), old) for dim, old in dims)
        array.resize(shape)
    coordinates = tables.dataset_of({}, self._identity, self.extent).coords
    for name in tables.DIMS:
      values = coordinates[name].values
      # Without fill value: xarray takes values equal to it as missing.
      array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        fill_value=None,
        overwrite=True,
      )
      array.attrs['_ARRAY_DIMENSIONS'] = [name]
      array[:] = values

  def _array(self, name, dims, extra, dtype) -> Any:
    """An array of the group, made on first use."""
    group = self._group()
    if name in group:
      return group[name]
    shape = (*tables.sizes(self.extent)[: len(dims)], *extra)
    chunks = [*shape[2:], *extra][: len(shape) - 2]
    if len(dims) == len(tables.DIMS):
      chunks[2] = min(chunks[2], _CHUNK_DRAWS)
    array = group.create_array(
      name,
      shape=shape,
      chunks=(1, 1, *chunks),
      dtype=dtype,
      fill_value=float('nan'),
    )
    own = tables.own_dims(name, len(extra))
    array.attrs['_ARRAY_DIMENSIONS'] = [*dims, *own]
    return array

  def _place(self, row: stores.Row) -> tuple[int, int]:
    checkpoint, dataset = row
    held = self.extent
    return held.checkpoints.index(checkpoint), held.datasets.index(dataset)

  def _mark(self, row: stores.Row, refinement: str) -> pathlib.Path:
    names = [_file_name(str(part)) for part in (*row, refinement)]
    return self.path.joinpath('marks', *names[:2], names[2] + '.npz')

  def _counts(self, row, refinement) -> np.ndarray:
    return marks.read_counts(
      self._mark(row, refinement), self.extent.num_chains
    )

  def _write_marks(self, row, columns, count, states):
    for name in dict.fromkeys(name for name, _ in columns):
      places = [n for n, column in enumerate(columns) if column[0] == name]
      marks.write(
        self._mark(row, name),
        self.extent.num_chains,
        [columns[n][1] for n in places],
        count,
        [leaf[places] for leaf in states],
        self._made_with,
      )


def _load_run(path: pathlib.Path) -> tuple[dict[str, Any], Any]:
  try:
    run = json.loads(path.read_text())
    entries: dict[str, Any] = {
      name: tuple(entry) if isinstance(entry, list) else entry
      for name, entry in run['extent'].items()
    }
    return run['identity'], stores.Extent(**entries)
  except (json.JSONDecodeError, KeyError, TypeError) as error:
    raise tables.StoreError(
      f'{path} must be what this library wrote, an identity and an extent; got '
      f'{type(error).__name__}: {error}.'
    ) from error


def _file_name(name: str) -> str:
  """A name of a file that no other name has, whatever its length and letters.

  Examples:
    >>> _file_name('0:3')
    '0%3A3-b13634a2'
  """
  digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
  return f'{parse.quote(name, safe="")[:80]}-{digest}'


def _locked(path: pathlib.Path) -> Any:
  """An open file that this process alone holds, until it is closed or ends.

  Raises:
    StoreError: if somebody else holds it.
  """
  file = open(path, 'wb')
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    file.close()
    raise tables.StoreError(
      f'{path.parent} must be written by one run at a time; got another that '
      'is still going on. Wait for it, or use another directory.'
    ) from error
  except OSError:
    pass  # A file system without locks: go on, as before there were any.
  return file
