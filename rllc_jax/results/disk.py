"""A store in a directory: one that survives kills, full disks and bad files.

  run.json      the identity and the extent
  traces.zarr   dims (checkpoint, dataset, refinement, chain, draw)
  marks/        a file a piece of the table: what is in it, with checksums
  blocks/       a file a block: chains, and draws not in the table yet
  owners/       a file a process that writes

A block's draws lie in its file until it is done; then they go to the table,
then the mark says so, then they leave the file. A kill between any two of these
leaves what the next run does again. Values that are not what was written are
never read: a run does them anew, and a reader is told.
"""

from collections import Counter
from collections.abc import Iterator
import json
import math
import os
import pathlib
from typing import Any
import warnings

import numpy as np

from rllc_jax.results import block_files
from rllc_jax.results import files
from rllc_jax.results import marks
from rllc_jax.results import owners
from rllc_jax.results import store as stores
from rllc_jax.results import table as arrays
from rllc_jax.results import traces as tables

_FORMAT = 2
_Piece = tuple[int, int]
_Cell = tuple[stores.Row, stores.Column]


def open_store(
  path: str | os.PathLike,
  *,
  process: tuple[int, int] = (0, 1),
  keep_chains: bool = True,
) -> 'DiskStore':
  """Opens the store in a directory, which need not exist yet.

  Args:
    path: the directory.
    process: (p, P): this is process p of P that share the work and nothing but
      the directory.
    keep_chains: whether chains stay when their draws are done, so that more
      draws can be asked for later without doing these again.

  Raises:
    StoreError: if there is something else in it.
  """
  path = pathlib.Path(path)
  if path.exists() and not (path / 'run.json').exists():
    ours = {'owners', 'traces.zarr', 'run.json.new'}  # Before run.json is.
    if not path.is_dir() or any(x.name not in ours for x in path.iterdir()):
      raise tables.StoreError(
        f'{path} must be a store of rllc_jax or not exist, so that nothing '
        'else is overwritten; got something without run.json.'
      )
  index, count = process
  if not 0 <= index < count:
    raise ValueError(
      'process must be a number from 0 and how many there are, because the '
      f'work is dealt to them in turns; got {process}.'
    )
  return DiskStore(path, owners.Process(index, count), keep_chains)


class DiskStore:
  """A `stores.Store` in a directory; see `open_store`."""

  def __init__(
    self, path: pathlib.Path, process: owners.Process, keep_chains: bool
  ):
    self.path = path
    self._process = process
    self._keep_chains = keep_chains
    self._identity: dict[str, Any] = {}
    self._extent: stores.Extent | None = None
    self._length = 1
    self._made_with = ''
    self._owner: owners.Owner | None = None
    self._chains: dict[_Cell, tuple[str, int]] = {}  # File, draws taken.
    self._current: dict[str, block_files.BlockFile] = {}
    self._load()

  @property
  def extent(self) -> stores.Extent:
    """What the store holds, or will."""
    if self._extent is None:
      raise tables.EmptyStoreError(
        f'{self.path} must hold results to read; got nothing there.'
      )
    return self._extent

  def begin(self, identity, extent, made_with):
    self.path.mkdir(parents=True, exist_ok=True)
    self._owner = owners.Owner(self.path / 'owners', self._process)
    try:
      if self._process.index:
        self._owner.wait_for_first()
        self._load()
        self._merged(identity)
      else:
        self._load()  # Somebody else may have added to it since.
        self._prepare(identity, extent)
      self._made_with = made_with
      self._repair(self._own_pieces())
      self._index_chains()
      if not self._process.index:
        self._owner.say('ready')
    except BaseException:
      self.end()
      raise

  def end(self):
    self._current = {}
    if self._owner is not None:
      self._owner.end()
      self._owner = None

  def own(self, rows):
    index, count = self._process
    pieces = {piece: i for i, piece in enumerate(self._pieces())}
    return [row for row in rows if pieces[self._piece(row)] % count == index]

  def recorded(self, rows, columns):
    pieces = {self._piece(row) for row in rows}
    known = {piece: self._mark(piece).recorded for piece in pieces}
    wanted = self.extent.num_draws

    def count(row, column):
      place = known[self._piece(row)][(self._place(row), *self._at(column))]
      taken = self._chains.get((row, column), ('', 0))[1]
      return int(place) if place == wanted or place == taken else 0

    return np.array(
      [[count(row, column) for column in columns] for row in rows]
    )

  def states(self, rows, columns):
    opened: dict[str, tuple[Any, dict[_Cell, int]]] = {}

    def leaves(cell):
      name = self._chains[cell][0]
      if name not in opened:
        block = block_files.read(self.path / 'blocks' / name)
        places = {cell: i for i, cell in enumerate(block.cells)}
        flat = [x.reshape(-1, *x.shape[2:]) for x in block.states]
        opened[name] = flat, places
      flat, places = opened[name]
      return [leaf[places[cell]] for leaf in flat]

    cells = [[leaves((row, column)) for column in columns] for row in rows]
    return [
      np.array([[cell[i] for cell in row] for row in cells])
      for i in range(len(cells[0][0]))
    ]

  def write(self, rows, columns, first, traces, states, baseline):
    begun = [
      (name, block)
      for name, block in self._current.items()
      if (block.rows, block.columns, block.stop) == (rows, columns, first)
    ]
    new = block_files.BlockFile(
      rows, columns, first, traces, states, baseline, self._made_with
    )
    if begun:
      name, block = begun[0]
      block = block.followed_by(new)
    else:
      name, block = block_files.name_of(rows, columns, first), new
    self._save(name, block)
    self._current = {name: block}

  def complete(self, rows, columns):
    for name, block in self._current.items():
      if (block.rows, block.columns) == (rows, columns):
        self._fold(block)
        self._settle(name, block)
    self._current = {}

  def read(self, extent=None):
    held = self.extent
    asked = held if extent is None else extent
    places = [
      (i, step, j, dataset)
      for i, step in enumerate(asked.checkpoints)
      for j, dataset in enumerate(asked.datasets)
    ]
    sizes = dict(zip(tables.DIMS, tables.sizes(held), strict=True))
    sizes |= {'checkpoint': len(asked.checkpoints)}
    sizes |= {'dataset': len(asked.datasets)}
    out = _Read(sizes)
    pieces: dict[_Piece, list[Any]] = {}
    for place in places:
      row = place[1], place[3]
      pieces.setdefault(self._piece(row), []).append(place)
    for piece, own in pieces.items():
      mark, values = self._sound(piece)
      for i, step, j, dataset in own:
        out.add(i, j, self._place((step, dataset)), mark, values)
    rows = {(step, dataset): (i, j) for i, step, j, dataset in places}
    for block in self._blocks_with_draws():
      out.overlay(rows, self._at, block)
    within = held._replace(
      checkpoints=asked.checkpoints, datasets=asked.datasets
    )
    found = tables.dataset_of(out.arrays(), self._identity, within)
    if extent is not None:
      return tables.select(found, extent)
    longest = int(found.recorded.max())
    return found.sortby('checkpoint').isel(draw=slice(longest))

  # The run.

  def _load(self):
    path = self.path / 'run.json'
    if path.exists():
      self._identity, self._extent, self._length = _load_run(path)

  def _prepare(self, identity, extent):
    """What process 0 does before the others begin."""
    merged = self._merged(identity)
    if self._extent is None:
      self._length = arrays.piece_length(extent)
    self._identity = merged
    self._extent = tables.grown(self._extent or extent, extent)
    self._table.fit(merged)
    run = {
      'format': _FORMAT,
      'checkpoints_of_a_piece': self._length,
      'identity': merged,
      'extent': self._extent._asdict(),
    }
    content = json.dumps(run, indent=1).encode()
    files.replace(self.path / 'run.json', content)
    left = [*self._block_files()]
    with_draws = [(name, block) for name, block in left if block.traces]
    self._repair(
      {self._piece(x) for _, block in with_draws for x in block.rows}
    )
    for name, block in sorted(with_draws, key=lambda item: item[1].first):
      self._fold(block)
      self._save(name, block.without_draws())

  def _merged(self, identity):
    merged, difference = tables.merge_identity(self._identity, identity)
    if difference:
      raise tables.StoreError(
        f'The store {self.path} must be of the same run, because its numbers '
        f'would not belong together; it was made with {difference}. Use '
        'another directory, or the same settings.'
      )
    return merged

  # Places.

  @property
  def _table(self) -> arrays.Table:
    return arrays.Table(self.path / 'traces.zarr', self.extent, self._length)

  def _pieces(self) -> list[_Piece]:
    """All pieces, in an order that all processes agree on."""
    count = math.ceil(len(self.extent.checkpoints) / self._length)
    datasets = range(len(self.extent.datasets))
    return [(s, i) for i in range(count) for s in datasets]

  def _own_pieces(self) -> list[_Piece]:
    index, count = self._process
    return self._pieces()[index::count]

  def _piece(self, row: stores.Row) -> _Piece:
    step, dataset = row
    place = self.extent.checkpoints.index(step)
    return self.extent.datasets.index(dataset), place // self._length

  def _place(self, row: stores.Row) -> int:
    """Of a checkpoint in its piece."""
    return self.extent.checkpoints.index(row[0]) % self._length

  def _at(self, column: stores.Column) -> tuple[int, int]:
    return self.extent.refinements.index(column[0]), column[1]

  # Pieces of the table.

  def _mark_path(self, piece: _Piece) -> pathlib.Path:
    dataset = files.name_of(self.extent.datasets[piece[0]])
    return self.path / 'marks' / dataset / f'{piece[1]}.npz'

  def _mark(self, piece: _Piece) -> marks.Mark:
    _, _, refinements, chains, _ = tables.sizes(self.extent)
    shape = self._length, refinements, chains
    return marks.read(self._mark_path(piece), shape)

  def _sound(self, piece) -> tuple[marks.Mark, dict[str, Any]]:
    """A piece's mark and its values, which are what was written."""
    try:
      mark = self._mark(piece)
    except files.DamagedFileError as error:
      raise self._damage(self._mark_path(piece), str(error)) from error
    values = self._table.get(piece)
    for name, bad in _damaged(mark, values):
      if bad.any():
        found = self._table.files(piece, name)
        path = found[0] if found else self._table.path / name
        raise self._damage(path, 'other draws than were written')
    return mark, values

  def _damage(self, path, came) -> tables.StoreError:
    return tables.StoreError(
      f'{path} must be as it was written, or its numbers would be wrong; got '
      f'{came}. Run the estimation again: it does what is damaged anew.'
    )

  def _repair(self, pieces) -> None:
    """Forgets what is not as it was written: it will be done again."""
    for piece in pieces:
      path = self._mark_path(piece)
      try:
        mark = self._mark(piece)
      except files.DamagedFileError as error:
        self._say_again(path, error)
        path.unlink()
        continue
      if not mark.recorded.any():
        continue
      bad = np.zeros(mark.recorded.shape, bool)
      values = self._table.get(piece)
      for name, own in _damaged(mark, values):
        if own.any():
          self._say_again(self._table.path / name, f'{own.sum()} other chains')
        if isinstance(values.get(name), Exception):
          for file in self._table.files(piece, name):
            file.unlink()
        bad |= own
      if bad.any():
        mark.recorded[bad] = 0
        marks.write(path, mark)

  def _say_again(self, path, came) -> None:
    warnings.warn(
      f'{path} was expected to be as it was written; got {came}. What is '
      'damaged is done again.',
      stacklevel=2,
    )

  def _fold(self, block: block_files.BlockFile) -> None:
    """Takes a block's draws into the table."""
    by_piece: dict[_Piece, list[int]] = {}
    for k, row in enumerate(block.rows):
      by_piece.setdefault(self._piece(row), []).append(k)
    for piece, own in by_piece.items():
      self._fold_rows(piece, block, np.array(own))

  def _fold_rows(self, piece, block, own) -> None:
    mark = self._mark(piece)
    g = np.array([self._place(block.rows[k]) for k in own])
    r, c = np.array([self._at(column) for column in block.columns]).T
    known = mark.recorded[g[:, None], r, c]
    # All of it may be there, if a run was killed just after.
    wanted = (known < block.stop) & (
      (known == block.first) | (block.first == 0)
    )
    k, n = np.nonzero(wanted)
    if not len(k):
      return
    cells = g[k], r[n], c[n]
    counts = np.full(len(k), block.stop - block.first)
    before = {*mark.checks} - {marks.BASELINE} if mark.recorded.any() else None
    for name, trace in block.traces.items():
      values = trace[own][k, n]
      self._table.put(piece, name, cells, block.first, values)
      checks = mark.check(name)
      begun = checks[cells] if block.first else None
      checks[cells] = marks.checksums(values, counts, begun)
    if block.baseline.shape[1]:
      self._fold_baseline(piece, mark, cells[:2], block.baseline[own][k])
    mark.recorded[cells] = block.stop
    mark.made_with[cells[:2]] = block.made_with
    if before is not None:
      # Runs that do not record the same leave gaps, and these are checked, too.
      self._check_gaps(piece, mark, before ^ block.traces.keys())
    marks.write(self._mark_path(piece), mark)

  def _check_gaps(self, piece, mark, names) -> None:
    cells = np.nonzero(mark.recorded)
    for name in names:
      found = self._table.get(piece)[name]
      mark.check(name)[cells] = marks.checksums(
        found[cells], mark.recorded[cells]
      )

  def _fold_baseline(self, piece, mark, cells, values) -> None:
    self._table.put(piece, marks.BASELINE, cells, 0, values)
    counts = np.full(len(values), values.shape[1])
    mark.check(marks.BASELINE)[cells] = marks.checksums(values, counts)

  # Files of blocks.

  def _block_files(self) -> Iterator[tuple[str, block_files.BlockFile]]:
    """What can be read of them; what cannot is said and removed."""
    for path in sorted((self.path / 'blocks').glob('*.npz')):
      try:
        yield path.name, block_files.read(path)
      except files.DamagedFileError as error:
        self._say_again(path, error)
        path.unlink(missing_ok=True)

  def _blocks_with_draws(self) -> list[block_files.BlockFile]:
    found = []
    for path in sorted((self.path / 'blocks').glob('*.npz')):
      try:
        found.append(block_files.read(path))
      except files.DamagedFileError as error:
        if path.exists():  # It may have been done in the meantime.
          raise self._damage(path, str(error)) from error
    return sorted((x for x in found if x.traces), key=lambda x: x.first)

  def _index_chains(self) -> None:
    self._chains = {}
    for name, block in self._block_files():
      for cell in block.cells:
        if block.stop > self._chains.get(cell, ('', 0))[1]:
          self._chains[cell] = name, block.stop

  def _save(self, name: str, block: block_files.BlockFile) -> None:
    """Writes a block's file, and removes those that it makes useless."""
    block_files.write(self.path / 'blocks' / name, block)
    old = {self._chains.get(cell, ('', 0))[0] for cell in block.cells}
    for cell in block.cells:
      self._chains[cell] = name, block.stop
    self._remove_unused(old - {name, ''})

  def _settle(self, name: str, block: block_files.BlockFile) -> None:
    """What is left of a block's file when its draws are in the table."""
    if self._keep_chains:
      self._save(name, block.without_draws())
      return
    for cell in block.cells:
      self._chains.pop(cell, None)
    self._remove_unused({name})

  def _remove_unused(self, names: set[str]) -> None:
    if names:
      used = Counter(name for name, _ in self._chains.values())
      for name in names:
        if not used[name]:
          (self.path / 'blocks' / name).unlink(missing_ok=True)


class _Read:
  """Arrays that are filled piece by piece."""

  def __init__(self, sizes: dict[str, int]):
    self._sizes = tuple(sizes[dim] for dim in tables.DIMS)
    self._arrays: dict[str, np.ndarray] = {
      'recorded': np.zeros(self._sizes[:4], np.int32),
      'made_with': np.full(self._sizes[:3], '', object),
    }

  def add(self, i, j, place, mark, values):
    """A row: checkpoint i and data set j, from its place in a piece."""
    self._arrays['recorded'][i, j] = mark.recorded[place]
    self._arrays['made_with'][i, j] = mark.made_with[place]
    for name, array in values.items():
      own = array[place]
      self._array(name, own.shape, own.dtype)[i, j][
        tuple(map(slice, own.shape))
      ] = own

  def overlay(self, rows, at, block):
    """Draws that are not in the table yet."""
    recorded, stop = self._arrays['recorded'], block.stop
    for (k, row), (n, column) in (
      (x, y) for x in enumerate(block.rows) for y in enumerate(block.columns)
    ):
      if row not in rows:
        continue
      cell = (*rows[row], *at(column))
      known = recorded[cell]
      if known < stop and known >= block.first:
        for name, trace in block.traces.items():
          own = trace[k, n]
          shape = (*self._sizes[2:], *own.shape[1:])
          out = self._array(name, shape, own.dtype)
          out[cell][block.first : stop] = own
        if block.baseline.shape[1]:
          shape = (self._sizes[2], block.baseline.shape[1])
          out = self._array(marks.BASELINE, shape, block.baseline.dtype)
          out[cell[:3]] = block.baseline[k]
        recorded[cell] = stop
        self._arrays['made_with'][cell[:3]] = block.made_with

  def arrays(self):
    """All of them by name."""
    made_with = self._arrays['made_with'].astype(str)
    return {**self._arrays, 'made_with': made_with}

  def _array(self, name, shape, dtype):
    if name not in self._arrays:
      fill = np.nan if np.issubdtype(dtype, np.inexact) else 0
      self._arrays[name] = np.full((*self._sizes[:2], *shape), fill, dtype)
    return self._arrays[name]


def _damaged(
  mark: marks.Mark, values: dict[str, Any]
) -> Iterator[tuple[str, np.ndarray]]:
  """By array, which chains [G, R, C] are not what the mark says."""
  there = mark.recorded > 0
  for name, checks in mark.checks.items():
    found = values.get(name, KeyError(name))
    if isinstance(found, Exception):
      yield name, there
    elif name == marks.BASELINE:
      cells = np.nonzero(there.any(axis=2))
      counts = np.full(len(cells[0]), found.shape[2])
      bad = np.zeros(there.shape[:2], bool)
      bad[cells] = marks.checksums(found[cells], counts) != checks[cells]
      yield name, bad[:, :, None] & there
    else:
      cells = np.nonzero(there)
      bad = np.zeros(there.shape, bool)
      came = marks.checksums(found[cells], mark.recorded[cells])
      bad[cells] = came != checks[cells]
      yield name, bad


def _load_run(path: pathlib.Path) -> tuple[dict[str, Any], Any, int]:
  try:
    run = json.loads(path.read_text())
    if run.get('format') != _FORMAT:
      raise tables.StoreError(
        f'{path} must be of format {_FORMAT}, which this version reads; got '
        f'{run.get("format", "an older one")}. Use another directory.'
      )
    entries: dict[str, Any] = {
      name: tuple(entry) if isinstance(entry, list) else entry
      for name, entry in run['extent'].items()
    }
    length = int(run['checkpoints_of_a_piece'])
    return run['identity'], stores.Extent(**entries), length
  except tables.StoreError:
    raise
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise tables.StoreError(
      f'{path} must be what this library wrote, an identity and an extent; got '
      f'{type(error).__name__}: {error}.'
    ) from error
