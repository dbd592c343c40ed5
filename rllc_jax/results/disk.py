"""A store in a directory: one that survives kills, full disks and bad files.

  run.json      the identity and the extent; run_copy.json is its copy
  traces.zarr   dims (checkpoint, dataset, refinement, chain, draw)
  marks/        a file a piece of the table: what is in it, with checksums
  blocks/       a file a block: chains, and draws not in the table yet
  owners/       a file a process that writes

A block's draws lie in its file until it is done; then they go to the table,
then the mark says so, then they leave the file. A kill between any two of these
leaves what the next run does again. Values that are not what was written are
never read: a run does them anew, and a reader is told.
"""

import functools
import itertools
import os
import pathlib
from typing import Any

import numpy as np

from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.results import block_files
from rllc_jax.results import files
from rllc_jax.results import owners
from rllc_jax.results import pieces
from rllc_jax.results import reading
from rllc_jax.results import store as stores
from rllc_jax.results import table
from rllc_jax.results import traces as tables

_FORMAT, _COPY = 2, 'run_copy.json'
_PREPARED = ('ready', 'ended')  # What process 0 says when it has prepared.


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
  if path.is_symlink() and not path.exists():
    raise tables.StoreError(
      f'{path} must be a directory or not exist; got a link to nothing.'
    )
  if path.exists() and not (path / 'run.json').exists():
    if not path.is_dir() or not all(map(_is_ours, path.iterdir())):
      if (path / _COPY).exists():
        _load_run(path / 'run.json')  # Says that it is gone, if it is.
      elif not (path / 'run.json').exists():  # Else it has come just now.
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
    self._held: pieces.Pieces | None = None
    self._made_with, self._num_draws = '', 0
    self._owner: owners.Owner | None = None
    self._blocks = block_files.Directory(path / 'blocks', '')
    self._current: tuple[str, block_files.BlockFile] | None = None
    self._load()

  @property
  def extent(self) -> stores.Extent:
    """What the store holds, or will."""
    return self._pieces.extent

  def begin(self, identity, extent, made_with):
    self._made_with, self._num_draws = made_with, extent.num_draws
    try:
      with checked_files.told(self.path):
        self.path.mkdir(parents=True, exist_ok=True)
        self._owner = owners.Owner(self.path / 'owners', self._process)
        self._take_up(self._owner, identity, extent)
    except BaseException:
      self.end()
      raise

  def end(self):
    self._current = None
    if self._owner is not None:
      self._owner.end()
      self._owner = None

  def own(self, rows):
    own = {*self._pieces.share(*self._process)}
    return [row for row in rows if self._pieces.of(row) in own]

  def recorded(self, rows, columns):
    held = self._pieces
    asked = {held.of(row) for row in rows}
    known = {piece: held.mark(piece).recorded for piece in asked}

    def count(row, column):
      found = known[held.of(row)][(held.place(row), *held.at(column))]
      # Short of draws, and the chain is gone: from the beginning.
      goes_on = found == self._blocks.taken((row, column))
      return int(found) if goes_on or found >= self._num_draws else 0

    return np.array(
      [[count(row, column) for column in columns] for row in rows]
    )

  def missing(self, extent: stores.Extent) -> list[tuple[int, str, str]]:
    """Cells (step, data set, refinement) of an extent that lack draws.

    Draws of blocks that are not done do not count.
    """
    self._look()
    held, names = self._pieces, extent.refinements
    steps, datasets, known = map(frozenset, held.extent[:3])
    there = np.array([name in known for name in names])
    places = [held.at((name, 0))[0] for name in names if name in known]
    marked = functools.cache(lambda piece: held.sound_mark(piece).recorded)
    found = []
    for row in itertools.product(extent.checkpoints, extent.datasets):
      short = np.ones(len(names), bool)
      if row[0] in steps and row[1] in datasets:
        counts = marked(held.of(row))[held.place(row)][places]
        few = (counts[:, : extent.num_chains] < extent.num_draws).any(axis=1)
        short[there] = few | (extent.num_chains > held.extent.num_chains)
      found += [(*row, names[i]) for i in np.flatnonzero(short)]
    return found

  def states(self, rows, columns):
    return self._blocks.states(rows, columns)

  def write(self, rows, columns, first, traces, states, baseline):
    new = block_files.BlockFile(
      rows, columns, first, traces, states, baseline, self._made_with
    )
    if self._current and self._current[1].goes_on_with(new):
      name, block = self._current
      block = block.followed_by(new)
    else:
      name, block = block_files.name_of(rows, columns, first), new
    with checked_files.told(self.path):
      self._blocks.save(name, block)
    self._current = name, block

  def complete(self, rows, columns):
    if self._current is not None:
      with checked_files.told(self.path):
        self._put_away(*self._current)
      self._current = None

  def longest(self) -> int:
    """Draws of the longest chain; the extent may say more, of a run to come."""
    self._look()
    return self._longest(self._blocks.with_draws())

  def read(self, extent=None):
    self._look()
    held = self.extent
    if extent is not None:
      tables.check_within(extent, held)
    blocks = self._blocks.with_draws()
    asked = extent or held._replace(num_draws=self._longest(blocks))
    within = asked._replace(
      refinements=held.refinements, num_chains=held.num_chains
    )
    arrays = reading.read(self._pieces, blocks, within)
    found = tables.dataset_of(arrays, self._identity, within)
    if extent is not None:
      return tables.select(found, extent)
    longest = int(found.recorded.max())
    return found.sortby('checkpoint').isel(draw=slice(longest))

  def _longest(self, blocks):
    marked = map(self._pieces.sound_mark, self._pieces.all())
    return max(
      *(mark.longest for mark in marked), *(block.stop for block in blocks), 0
    )

  @property
  def _pieces(self) -> pieces.Pieces:
    if self._held is None:
      raise tables.EmptyStoreError(
        f'{self.path} must hold results to read; got nothing there.'
      )
    return self._held

  def _load(self):
    path = self.path / 'run.json'
    if path.exists():
      self._identity, extent, length, owner = _load_run(path)
      self._hold(pieces.Pieces(self.path, extent, length, owner))

  def _look(self):
    """Reads how large the store is, unless this process has it so itself."""
    if self._owner is None:
      self._load()

  def _hold(self, held):
    self._held = held
    directory = self.path / 'blocks'
    self._blocks = block_files.Directory(directory, held.owner, held.has)

  def _take_up(self, owner, identity, extent):
    """Makes the store ready for this process, or waits for who does."""
    index, _ = self._process
    if index:
      begins = lambda: self._begins(owner, extent)
      owners.wait_until(begins, self.path / 'owners', self._process)
      self._merged(identity)
      self._pieces.check_layouts(self._pieces.share(*self._process))
    else:
      self._load()  # Somebody else may have added to it since.
      self._prepare(identity, extent)
      owner.say('ready')
    self._pieces.repair(self._pieces.share(*self._process))
    self._fold_what_was_left({*self._pieces.share(*self._process)})

  def _begins(self, owner, extent):
    """Says that this process is at work, if process 0 has prepared that."""
    if not self._is_prepared(extent):
      return False
    owner.say('ready')
    if self._is_prepared(extent):
      return True
    owner.say('preparing')  # Another process 0 has come meanwhile.
    return False

  def _prepare(self, identity, extent):
    """What process 0 does before the others begin."""
    self._identity = self._merged(identity)
    known, length = extent, table.piece_length(extent)
    owner = checked_files.checksum(self._identity)
    if self._held is not None:
      held = self._held
      known, length, owner = held.extent, held.length, held.owner
    at_work = lambda: owners.others_at_work(self.path / 'owners', self._process)
    grown = tables.grown(known, extent)
    if self._held is not None and grown != known:
      self._refuse_growth(owners.lasting(at_work))
    self._hold(pieces.Pieces(self.path, grown, length, owner))
    self._pieces.repair_layouts()
    self._pieces.table.fit(self._identity)
    self._save_run()
    count, everything = self._process.count, {*self._pieces.all()}
    theirs = [self._pieces.share(p, count) for p in owners.lasting(at_work)]
    self._fold_what_was_left(everything.difference(*theirs))

  def _refuse_growth(self, at_work):
    """Pieces would be dealt anew while others write to them."""
    if at_work:
      raise tables.StoreError(
        f'{self.path} must stay as large as it is while others write to it; '
        f'got more to do, and process {at_work[0]} of {self._process.count} of '
        'the last run is at work. Wait for it, or end it.'
      )

  def _save_run(self):
    held = self._pieces
    run = {
      'format': _FORMAT,
      'owner': held.owner,
      'checkpoints_of_a_piece': held.length,
      'identity': self._identity,
      'extent': held.extent._asdict(),
    }
    for left in self.path.glob(f'run*{checked_files.UNFINISHED}'):
      files.remove(left)  # Of a run that was killed.
    for name in ('run.json', _COPY):
      checked_files.write_json(self.path / name, run)

  def _is_prepared(self, extent):
    """Whether process 0 is ready for this run, or was and left nothing."""
    state = owners.state_of_first(self.path / 'owners', self._process)
    if state not in _PREPARED:
      return False
    self._load()
    if not self._held or tables.grown(self.extent, extent) != self.extent:
      return False
    own = {*self._pieces.share(*self._process)}
    # Of a run that dealt the work in another way: process 0 takes it apart.
    mixed = lambda pieces: pieces & own and not pieces <= own
    return not any(
      block.traces and mixed(self._pieces.of_block(block))
      for _, block in self._blocks.load()
    )

  def others_live(self) -> list[int]:
    """Which other processes of the same run are at work on the store."""
    return owners.others_live(self.path / 'owners', self._process)

  def _fold_what_was_left(self, own):
    """Takes draws of blocks that were not done into the table.

    Args:
      own: pieces that nobody else writes to; blocks of others are left alone.
    """
    found = [
      (name, block)
      for name, block in self._blocks.load()
      if self._pieces.of_block(block) <= own
    ]
    left = [item for item in found if item[1].traces]
    self._pieces.repair(
      {piece for _, block in left for piece in self._pieces.of_block(block)}
    )
    for name, block in left:
      self._put_away(name, block)
    self._blocks.clear_unused(name for name, _ in found)

  def _put_away(self, name, block):
    """Takes a block's draws into the table, and its chains to their place."""
    self._pieces.fold(block)
    if self._keep_chains or block.stop < self._num_draws:
      self._blocks.save(name, block.without_draws())
    else:
      self._blocks.remove(name, block)

  def _merged(self, identity):
    merged, difference = tables.merge_identity(self._identity, identity)
    if difference:
      raise tables.StoreError(
        f'The store {self.path} must be of the same run, because its numbers '
        f'would not belong together; it was made with {difference}. Use '
        'another directory, or the same settings.'
      )
    return merged


def _is_ours(path: pathlib.Path) -> bool:
  """Whether it is something that a store has before it has run.json."""
  begun = path.match(f'run.json.*{checked_files.UNFINISHED}')
  return path.name in ('owners', 'traces.zarr') or begun


def _load_run(
  path: pathlib.Path,
) -> tuple[dict[str, Any], stores.Extent, int, str]:
  remedy = f'Put back its copy, {_COPY} in the same directory.'
  try:
    run = checked_files.read_json(path, ('format',), remedy)
  except ValueError as error:
    raise tables.StoreError(str(error)) from error
  if run['format'] != _FORMAT:
    raise tables.StoreError(
      f'{path} must be of format {_FORMAT}, which this version reads; got '
      f'{run["format"]}. Use another directory.'
    )
  try:
    extent = _extent(run['extent'])
    length, owner = run['checkpoints_of_a_piece'], run['owner']
    if not (isinstance(run['identity'], dict) and isinstance(owner, str)):
      raise TypeError(f'{type(owner).__name__} as owner')
    if not (isinstance(length, int) and length > 0):
      raise TypeError(f'{length!r:.40} checkpoints of a piece')
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise tables.StoreError(
      f'{path} must be that of a store; got {type(error).__name__}: '
      f'{visible.short(error)}. {remedy}'
    ) from None
  return run['identity'], extent, length, owner


def _extent(entries: dict[str, Any]) -> stores.Extent:
  extent = stores.Extent(
    tuple(entries['checkpoints']),
    tuple(entries['datasets']),
    tuple(entries['refinements']),
    int(entries['num_chains']),
    int(entries['num_draws']),
  )
  stores.check_extent(extent)
  return extent
