"""A store in a directory: files that are written once, and never again.

  run.json      identity and extent
  traces/       draws of a block, from one to another
  chains/       the chains of a block, from which the next draws go on
  at_work/      locks of the processes of a run

The store is the union of its whole files; see `files` for their names. Draws
are addressed, so a draw that two files hold is the same in both. A damaged file
is named; a run puts it aside and samples its draws again.
"""

import contextlib
import itertools
import secrets
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax import checked_files
from rllc_jax import identities
from rllc_jax import locks
from rllc_jax.results import blocks
from rllc_jax.results import damages
from rllc_jax.results import files
from rllc_jax.results import index
from rllc_jax.results import merging
from rllc_jax.results import reading
from rllc_jax.results import run_file
from rllc_jax.results import store
from rllc_jax.results import traces as xr_traces

_LOCK = 'run.lock'
# What is in a directory of which `run.json` was removed or is still to come.
_OF_STORE = ('traces', 'chains', 'at_work', 'runs', 'results.zarr', _LOCK)


def open_store(
  path: Any, *, process: tuple[int, int] = (0, 1), keep_chains: bool = True
) -> 'DiskStore':
  """Opens the store in a directory, which need not exist yet.

  Args:
    path: the directory, or an address such as s3://BUCKET/RUN.
    process: (p, P): this is process p of P that share the work and nothing but
      the directory.
    keep_chains: whether chains stay when their draws are done, so that more
      draws can be asked for later without doing these again.

  Raises:
    StoreError: if there is something else in it.
  """
  path = files.place(path)
  # Or `mkdir` would fail later, without a word about the link.
  if files.is_local(path) and path.is_symlink() and not path.exists():
    raise xr_traces.StoreError(
      f'{path} must be a directory or not exist; got a link to nothing.'
    )
  if path.exists() and not (path / run_file.NAME).exists():
    if not path.is_dir() or not all(map(_is_of_store, path.iterdir())):
      raise xr_traces.StoreError(
        f'{path} must be a store of rllc_jax or not exist, so that nothing '
        f'else is overwritten; got something without {run_file.NAME}.'
      )
  number, count = process
  if not 0 <= number < count:
    raise ValueError(
      'process must be a number from 0 and how many there are, because the '
      f'work is dealt to them in turns; got {process}.'
    )
  return DiskStore(path, locks.Process(number, count), keep_chains)


def _is_of_store(path: Any) -> bool:
  unfinished = path.name.endswith(checked_files.UNFINISHED)
  return path.name in _OF_STORE or (
    unfinished and path.name.startswith(run_file.NAME)
  )


class DiskStore:
  """A `store.Store` in a directory; see `open_store`."""

  def __init__(self, path: Any, process: locks.Process, keep_chains: bool):
    self.path = path
    self.keep_chains = keep_chains
    self._process = process
    self._run_or_none: run_file.Run | None = None
    self._made_with, self._num_draws, self._writer = '', 0, ''
    self._work: locks.Work | None = None
    identity_of = lambda block: self._run.identity_of(block)
    self._traces = index.Index(path / 'traces', identity_of)
    self._chains = index.Index(path / 'chains', identity_of)
    self.refresh()

  @property
  def extent(self) -> store.Extent:
    """The coordinates that the store holds, or will hold when it is done."""
    return self._run.extent

  def refresh(self) -> None:
    """Reads again what the directory holds."""
    self._run_or_none = run_file.load(self.path)
    if self._run_or_none is not None:
      self._traces.refresh()

  def begin(self, identity, extent, made_with):
    self._made_with, self._num_draws = made_with, extent.num_draws
    try:
      with checked_files.with_path_in_errors(self.path):
        if files.is_local(self.path):
          self._prepare_directory()
        with self._run_lock():
          self._merge_run(identity, extent)
        self._open_for_writing()
    # KeyboardInterrupt, too: a failed start must release the lock.
    except BaseException:
      self.end()
      raise

  def join(self, extent: store.Extent, made_with: str) -> None:
    """Begins to write to the store of a run that another process has begun."""
    self._made_with, self._num_draws = made_with, extent.num_draws
    self.refresh()
    self._chains.refresh()
    if not self._writer:  # One writer a process, however many tasks it takes.
      self._open_for_writing()

  def num_draws(self) -> int:
    """Draws of all chains in all files."""
    count = lambda block: len(block.rows) * len(block.columns)
    return sum(
      (entry.name.stop - entry.name.first) * count(entry.kind.block)
      for entry in self._traces.all()
    )

  def end(self):
    if self._writer and not files.is_local(self.path):
      # Without locks another run may have replaced what this one has added.
      self._merge_run(self._run.identity, self._run.extent)
    self._writer = ''
    if self._work is not None:
      self._work.end()
      self._work = None

  def owned_rows(self, rows):
    return list(rows)[self._process.index :: self._process.count]

  def recorded(self, rows, columns):
    if self._writer:
      self._put_damaged_aside(self._traces, rows, columns)
    counts = self._traces.covered(rows, columns)
    if not self._writer:
      return counts
    lacking = np.flatnonzero((counts < self._num_draws).any(axis=1))
    short = [rows[k] for k in lacking]
    self._put_damaged_aside(self._chains, short, columns)
    # A cell short of draws goes on from its last chain, or from draw 0.
    goes_on = self._chains.latest(rows, columns, counts)
    return np.where(counts < self._num_draws, goes_on, counts)

  def missing(self, extent: store.Extent) -> list[tuple[int, str, str]]:
    """Cells (step, data set, refinement) of an extent that lack draws."""
    self._refresh_if_reader()
    names, chains = extent.refinements, range(extent.num_chains)
    columns = [*itertools.product(names, chains)]
    cells = []
    for row in extent.rows():
      counts = self._traces.covered([row], columns).reshape(len(names), -1)
      short = (counts < extent.num_draws).any(axis=1)
      cells += [(*row, names[i]) for i in np.flatnonzero(short)]
    return cells

  def states(self, rows, columns, stop):
    return merging.states(self._chains, rows, columns, stop)

  def write(self, rows, columns, first, traces, states, baseline):
    block = blocks.Block(tuple(rows), tuple(columns))
    stop = first + next(iter(traces.values())).shape[2]
    arrays = {**traces}
    if baseline.shape[1]:
      arrays[blocks.BASELINE] = baseline
    chains = {f'{i:04d}': leaf for i, leaf in enumerate(states)}
    # Chains first: draws whose chain is missing would be taken again.
    self._chains.write(
      blocks.Part(block, stop, stop, chains, self._made_with), self._writer
    )
    self._traces.write(
      blocks.Part(block, first, stop, arrays, self._made_with), self._writer
    )
    self._remove_chains(rows, columns, lambda entry, counts: False)

  def complete(self, rows, columns):
    block = blocks.Block(tuple(rows), tuple(columns))
    merging.merge_spans(self._traces, block, self._writer)
    if not self.keep_chains:
      done = lambda entry, counts: (counts >= self._num_draws).all()
      self._remove_chains(rows, columns, done)

  def compact(self) -> tuple[int, int]:
    """Merges files; returns how many there were, and how many there are.

    Raises:
      StoreError: if a file is damaged.
      LockedError: if a run is at work.
    """
    self.begin(self._run.identity, self.extent, '')
    count = lambda: len(self._traces.all()) + len(self._chains.all())
    try:
      before = count()
      for block in {entry.kind.block for entry in self._traces.all()}:
        merging.merge_spans(self._traces, block, self._writer)
      for directory in (self._traces, self._chains):
        num_rows = len(self.extent.rows())
        merging.merge_rows(directory, num_rows, self._writer)
      return before, count()
    finally:
      self.end()

  def max_recorded_draws(self) -> int:
    """The draws of the longest chain; the extent may plan for more."""
    self._refresh_if_reader()
    return max((entry.name.stop for entry in self._traces.all()), default=0)

  def read(self, extent=None):
    self._refresh_if_reader()
    if extent is None:
      return self.open().load()
    xr_traces.check_within(extent, self.extent)
    return self.peek(extent, {})

  def open(self) -> xr.Dataset:
    """Everything, in plain order of steps, which is read when asked for."""
    num_draws = self.max_recorded_draws()
    in_order = self.extent._replace(
      checkpoints=tuple(sorted(self.extent.checkpoints)), num_draws=num_draws
    )
    return self._dataset(in_order, self._run.identity)

  def peek(self, extent: store.Extent, identity: dict[str, Any]) -> xr.Dataset:
    """Reads an extent of which the store may lack coordinates."""
    known, sizes = self._run.identity, 'num_coordinates'
    sizes_of_all = {**identity.get(sizes, {}), **known[sizes]}
    return self._dataset(extent, known | {sizes: sizes_of_all}).load()

  def _dataset(self, extent, identity):
    for name, reason in self._traces.damaged.items():
      raise damages.error(self._traces.folder / name, reason)
    return reading.dataset(self._traces, identity, extent)

  def check_files(self) -> int:
    """Verifies all bytes of all files, chains too; returns how many there are.

    Raises:
      StoreError: naming the first that is not as it was written.
    """
    self.refresh()
    self._chains.refresh()
    count = 0
    for directory in (self._traces, self._chains):
      for name, reason in directory.damaged.items():
        raise damages.error(directory.folder / name, reason)
      for entry in directory.all():
        try:
          directory.checked(entry)
        except files.DamagedFileError as error:
          raise damages.error(directory.path(entry), str(error)) from error
        count += 1
    return count

  def check_identity(self, identity: dict[str, Any]) -> None:
    """Raises if a run has another identity than the store."""
    if self._run_or_none is not None:
      self._run.with_more(identity, self.extent, self.path)

  @property
  def _run(self) -> run_file.Run:
    if self._run_or_none is None:
      raise xr_traces.EmptyStoreError(
        f'{self.path} must hold results to read; got no {run_file.NAME}. Run '
        'the estimation first, or again: it finds what the store holds.'
      )
    return self._run_or_none

  def _refresh_if_reader(self):
    if not self._writer:
      self.refresh()

  def _merge_run(self, identity, extent):
    """Adds a run to `run.json`, or raises if it is another one."""
    stored = run_file.load(self.path)
    if stored is None:
      new = identities.merge({}, identity)[0]
      merged = run_file.Run(new, extent)
    else:
      merged = stored.with_more(identity, extent, self.path)
    if merged != stored:
      merged.save(self.path)
    self._run_or_none = merged

  def _prepare_directory(self):
    for name in ('traces', 'chains'):
      (self.path / name).mkdir(parents=True, exist_ok=True)
    self._work = locks.Work(self.path, self._process)
    if self._process.count == 1:  # Else another may be writing one.
      for path in self.path.glob(f'*/*{checked_files.UNFINISHED}'):
        path.unlink(missing_ok=True)

  def _run_lock(self):
    """A lock for the moment in which `run.json` is read and replaced."""
    if files.is_local(self.path):
      return locks.held(self.path / _LOCK)
    return contextlib.nullcontext()

  def _open_for_writing(self):
    generation = 0
    for directory in (self._traces, self._chains):
      directory.refresh()
      self._put_damaged_aside(directory, [], [])
      writers = [entry.name.writer for entry in directory.all()]
      generation = max(generation, *(int(x[:6]) for x in writers), 0)
    # No clock: a run's number is one more than that of the last one seen.
    self._writer = f'{generation + 1:06d}{secrets.token_hex(4)}'

  def _put_damaged_aside(self, directory: index.Index, rows, columns):
    """Takes files that are not as they were written out of the store."""
    for entry in directory.entries(rows, columns):
      try:
        directory.checked(entry)
      except files.DamagedFileError as error:
        directory.damaged[str(entry.name)] = str(error)
      except FileNotFoundError:
        directory.refresh()
    for name, reason in [*directory.damaged.items()]:
      damages.warn_recomputing(directory.folder / name, reason)
      directory.put_aside(name)

  def _remove_chains(self, rows, columns, is_needless):
    """Removes chains that are needless, or of which there are later ones."""
    entries = self._chains.entries(rows, columns)  # By age.
    twins = {(x.name.key, x.name.stop): x for x in entries}
    for entry in entries:
      block = entry.kind.block
      counts = self._traces.covered(block.rows, block.columns)
      latest = self._chains.latest(block.rows, block.columns, counts)
      is_old = twins[entry.name.key, entry.name.stop] != entry
      is_old |= bool((latest > entry.name.stop).all())
      if is_old or is_needless(entry, counts):
        with contextlib.suppress(FileNotFoundError):
          self._chains.remove(entry)
