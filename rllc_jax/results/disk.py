"""A store in a directory: one that survives kills, full disks and bad files.

  run.json      the identity and the extent; run_copy.json is its copy
  traces.zarr   dims (checkpoint, dataset, refinement, chain, draw)
  marks/        a file a piece of the table: what is in it, with checksums
  blocks/       a file a block: chains, and draws not in the table yet
  owners/       a file a process that writes

A block's draws stay in its file until the block is done. Then they are written
to the table, then the mark counts them, then they are removed from the file.
After a kill between any two of these the next run repeats the rest. Damaged
values are never read: a run samples them again, and a reader gets an error.
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
from rllc_jax.results import store
from rllc_jax.results import table
from rllc_jax.results import traces as xr_traces

_FORMAT, _COPY = 2, 'run_copy.json'
_PREPARED = ('ready', 'ended')  # States of process 0 after preparing.


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
  # Or `mkdir` would fail later, without a word about the link.
  if path.is_symlink() and not path.exists():
    raise xr_traces.StoreError(
      f'{path} must be a directory or not exist; got a link to nothing.'
    )
  if path.exists() and not (path / 'run.json').exists():
    if not path.is_dir() or not all(map(_is_of_new_store, path.iterdir())):
      if (path / _COPY).exists():
        _load_run(path / 'run.json')  # Raises: only the copy is there.
      elif not (path / 'run.json').exists():  # Else it was written just now.
        raise xr_traces.StoreError(
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
  """A `store.Store` in a directory; see `open_store`."""

  def __init__(
    self, path: pathlib.Path, process: owners.Process, keep_chains: bool
  ):
    self.path = path
    self._process = process
    self._keep_chains = keep_chains
    self._identity: dict[str, Any] = {}
    self._pieces_or_none: pieces.Pieces | None = None
    self._made_with, self._num_draws = '', 0
    self._owner: owners.Owner | None = None
    self._blocks = block_files.Directory(path / 'blocks', '')
    self._current: tuple[str, block_files.BlockFile] | None = None
    self._load()

  @property
  def extent(self) -> store.Extent:
    """The coordinates that the store holds, or will hold when it is done."""
    return self._pieces.extent

  def begin(self, identity, extent, made_with):
    self._made_with, self._num_draws = made_with, extent.num_draws
    try:
      with checked_files.with_path_in_errors(self.path):
        self.path.mkdir(parents=True, exist_ok=True)
        self._owner = owners.Owner(self.path / 'owners', self._process)
        self._prepare_or_wait(self._owner, identity, extent)
    # KeyboardInterrupt, too: a failed start must release the lock.
    except BaseException:
      self.end()
      raise

  def end(self):
    self._current = None
    if self._owner is not None:
      self._owner.end()
      self._owner = None

  def owned_rows(self, rows):
    owned = {*self._pieces.share(*self._process)}
    return [row for row in rows if self._pieces.of(row) in owned]

  def recorded(self, rows, columns):
    layout = self._pieces
    touched = {layout.of(row) for row in rows}
    counts = {piece: layout.mark(piece).recorded for piece in touched}

    def count(row, column):
      num_draws = counts[layout.of(row)][
        (layout.place(row), *layout.at(column))
      ]
      # Without its saved chain, a cell short of draws starts from draw 0.
      goes_on = num_draws == self._blocks.taken((row, column))
      return int(num_draws) if goes_on or num_draws >= self._num_draws else 0

    return np.array(
      [[count(row, column) for column in columns] for row in rows]
    )

  def missing(self, extent: store.Extent) -> list[tuple[int, str, str]]:
    """Cells (step, data set, refinement) of an extent that lack draws.

    Draws of blocks that are not done do not count.
    """
    self._refresh_extent_if_reader()
    layout, names = self._pieces, extent.refinements
    steps, datasets, refinements = map(frozenset, layout.extent[:3])
    is_stored = np.array([name in refinements for name in names])
    places = [layout.at((name, 0))[0] for name in names if name in refinements]
    # A mark is read once, not once per row.
    recorded = functools.cache(lambda piece: layout.sound_mark(piece).recorded)
    cells = []
    for row in itertools.product(extent.checkpoints, extent.datasets):
      short = np.ones(len(names), bool)
      if row[0] in steps and row[1] in datasets:
        counts = recorded(layout.of(row))[layout.place(row)][places]
        too_few = (counts[:, : extent.num_chains] < extent.num_draws).any(
          axis=1
        )
        short[is_stored] = too_few | (
          extent.num_chains > layout.extent.num_chains
        )
      cells += [(*row, names[i]) for i in np.flatnonzero(short)]
    return cells

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
      self.complete(rows, columns)  # Of the block before.
      name, block = block_files.name_of(rows, columns, first), new
    with checked_files.with_path_in_errors(self.path):
      self._blocks.save(name, block)
    self._current = name, block

  def complete(self, rows, columns):
    if self._current is not None:
      with checked_files.with_path_in_errors(self.path):
        self._move_to_table(*self._current)
      self._current = None

  def max_recorded_draws(self) -> int:
    """The draws of the longest chain; the extent may plan for more."""
    self._refresh_extent_if_reader()
    return self._max_recorded(self._blocks.with_draws())

  def read(self, extent=None):
    self._refresh_extent_if_reader()
    full_extent = self.extent
    if extent is not None:
      xr_traces.check_within(extent, full_extent)
    # Blocks before marks: a block folded in between is then read twice, not
    # missed.
    blocks = self._blocks.with_draws()
    wanted = extent or full_extent._replace(
      num_draws=self._max_recorded(blocks)
    )
    within = wanted._replace(
      refinements=full_extent.refinements, num_chains=full_extent.num_chains
    )
    arrays = reading.read(self._pieces, blocks, within)
    dataset = xr_traces.dataset_of(arrays, self._identity, within)
    if extent is not None:
      return xr_traces.select(dataset, extent)
    max_recorded = int(dataset.recorded.max())
    return dataset.sortby('checkpoint').isel(draw=slice(max_recorded))

  def _max_recorded(self, blocks):
    marked = map(self._pieces.sound_mark, self._pieces.all())
    return max(
      *(mark.max_recorded for mark in marked),
      *(block.stop for block in blocks),
      0,
    )

  @property
  def _pieces(self) -> pieces.Pieces:
    if self._pieces_or_none is None:
      raise xr_traces.EmptyStoreError(
        f'{self.path} must hold results to read; got nothing there.'
      )
    return self._pieces_or_none

  def _load(self):
    path = self.path / 'run.json'
    if path.exists():
      self._identity, extent, length, owner = _load_run(path)
      self._set_pieces(pieces.Pieces(self.path, extent, length, owner))

  def _refresh_extent_if_reader(self):
    """Rereads run.json, unless this process writes the store."""
    if self._owner is None:
      self._load()

  def _set_pieces(self, layout):
    self._pieces_or_none = layout
    directory = self.path / 'blocks'
    self._blocks = block_files.Directory(directory, layout.owner, layout.has)

  def _prepare_or_wait(self, owner, identity, extent):
    """Prepares the store in process 0; waits for that in the others."""
    index, _ = self._process
    if index:
      begins = lambda: self._announce_if_prepared(owner, extent)
      owners.wait_until(begins, self.path / 'owners', self._process)
      self._merge_identity(identity)
      self._pieces.check_layouts(self._pieces.share(*self._process))
    else:
      self._load()  # Another handle may have grown the store since.
      self._prepare(identity, extent)
      owner.say('ready')
    self._pieces.repair(self._pieces.share(*self._process))
    self._fold_unfinished_blocks({*self._pieces.share(*self._process)})

  def _announce_if_prepared(self, owner, extent):
    """Publishes "ready" if process 0 has prepared the store for this run."""
    if not self._is_prepared(extent):
      return False
    # Published before the second look, so that process 0 or this one sees a
    # conflict.
    owner.say('ready')
    if self._is_prepared(extent):
      return True
    owner.say('preparing')  # Process 0 was restarted meanwhile.
    return False

  def _prepare(self, identity, extent):
    """Grows the store to an extent and repairs it, before the others begin."""
    self._identity = self._merge_identity(identity)
    current, length = extent, table.piece_length(extent)
    owner = checked_files.checksum(self._identity)
    if self._pieces_or_none is not None:
      stored = self._pieces_or_none
      current, length, owner = stored.extent, stored.length, stored.owner
    peers = lambda: owners.peers_at_work(self.path / 'owners', self._process)
    grown = xr_traces.grown(current, extent)
    if self._pieces_or_none is not None and grown != current:
      self._refuse_growth(owners.stable_for_one_second(peers))
    self._set_pieces(pieces.Pieces(self.path, grown, length, owner))
    self._pieces.repair_layouts()
    self._pieces.table.fit(self._identity)
    self._save_run()
    count, all_pieces = self._process.count, {*self._pieces.all()}
    live_shares = [
      self._pieces.share(p, count) for p in owners.stable_for_one_second(peers)
    ]
    # Process 0 folds blocks of dead processes; live ones fold their own.
    self._fold_unfinished_blocks(all_pieces.difference(*live_shares))

  def _refuse_growth(self, peers):
    """Raises if others are at work: growth would assign their pieces anew."""
    if peers:
      raise xr_traces.StoreError(
        f'{self.path} must stay as large as it is while others write to it; '
        f'got more to do, and process {peers[0]} of {self._process.count} of '
        'the last run is at work. Wait for it, or end it.'
      )

  def _save_run(self):
    layout = self._pieces
    run = {
      'format': _FORMAT,
      'owner': layout.owner,
      'checkpoints_of_a_piece': layout.length,
      'identity': self._identity,
      'extent': layout.extent._asdict(),
    }
    for unfinished in self.path.glob(f'run*{checked_files.UNFINISHED}'):
      files.remove(unfinished)  # Of a killed run.
    # The copy is second: at any moment one of the two is whole.
    for name in ('run.json', _COPY):
      checked_files.write_json(self.path / name, run)

  def _is_prepared(self, extent):
    """True if process 0 is ready for this run, or ended with it prepared."""
    state = owners.state_of_first(self.path / 'owners', self._process)
    if state not in _PREPARED:
      return False
    self._load()
    if (
      not self._pieces_or_none
      or xr_traces.grown(self.extent, extent) != self.extent
    ):
      return False
    owned = {*self._pieces.share(*self._process)}
    # Blocks of another number of processes: process 0 folds them first.
    mixed = lambda touched: touched & owned and not touched <= owned
    return not any(
      block.traces and mixed(self._pieces.of_block(block))
      for _, block in self._blocks.load()
    )

  def live_peers(self) -> list[int]:
    """Indices of the other live processes of the same run."""
    return owners.live_peers(self.path / 'owners', self._process)

  def _fold_unfinished_blocks(self, owned):
    """Moves draws of unfinished blocks to the table.

    Args:
      owned: pieces that no other process writes to; blocks with other pieces
        stay.
    """
    blocks = [
      (name, block)
      for name, block in self._blocks.load()
      if self._pieces.of_block(block) <= owned
    ]
    unfinished = [item for item in blocks if item[1].traces]
    # Folding appends to draws in the table, so these must be sound first.
    self._pieces.repair(
      {
        piece
        for _, block in unfinished
        for piece in self._pieces.of_block(block)
      }
    )
    for name, block in unfinished:
      self._move_to_table(name, block)
    self._blocks.clear_unused(name for name, _ in blocks)

  def _move_to_table(self, name, block):
    """Moves a block's draws to the table; its file keeps the chains, if any."""
    # Draws leave the block file last: a kill repeats the move.
    self._pieces.fold(block)
    # At full size chains take 42 TB beside 1.9 TB of traces.
    if self._keep_chains or block.stop < self._num_draws:
      self._blocks.save(name, block.without_draws())
    else:
      self._blocks.remove(name, block)

  def _merge_identity(self, identity):
    merged, difference = xr_traces.merge_identity(self._identity, identity)
    if difference:
      raise xr_traces.StoreError(
        f'The store {self.path} must be of the same run, because its numbers '
        f'would not belong together; it was made with {difference}. Use '
        'another directory, or the same settings.'
      )
    return merged


def _is_of_new_store(path: pathlib.Path) -> bool:
  """True for entries that a store writes before run.json."""
  unfinished = path.match(f'run.json.*{checked_files.UNFINISHED}')
  return path.name in ('owners', 'traces.zarr') or unfinished


def _load_run(
  path: pathlib.Path,
) -> tuple[dict[str, Any], store.Extent, int, str]:
  remedy = f'Put back its copy, {_COPY} in the same directory.'
  try:
    run = checked_files.read_json(path, ('format',), remedy)
  except ValueError as error:
    raise xr_traces.StoreError(str(error)) from error
  if run['format'] != _FORMAT:
    raise xr_traces.StoreError(
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
    raise xr_traces.StoreError(
      f'{path} must be that of a store; got {type(error).__name__}: '
      f'{visible.short(error)}. {remedy}'
    ) from None
  return run['identity'], extent, length, owner


def _extent(entries: dict[str, Any]) -> store.Extent:
  extent = store.Extent(
    tuple(entries['checkpoints']),
    tuple(entries['datasets']),
    tuple(entries['refinements']),
    int(entries['num_chains']),
    int(entries['num_draws']),
  )
  store.check_extent(extent)
  return extent
