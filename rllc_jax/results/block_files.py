"""Files of blocks: the current chains of a block, and its latest draws.

Every segment replaces the file of its block. When the block is done, its draws
move to the table. The chains may stay, for a later run that asks for more
draws.
"""

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from rllc_jax.results import damages
from rllc_jax.results import files
from rllc_jax.results import store

_TRACE, _STATE = 'trace/', 'state/'


class BlockFile(NamedTuple):
  """Some rows by some columns that have the same number of draws.

  Attributes:
    rows: K of them.
    columns: N of them.
    first: the first draw that is here; those before are in the table.
    traces: {name: [K, N, draws, ...]}; empty if no draws are here.
    states: leaves [K, N, ...], of the chains after these draws.
    baseline: [K, M], losses at the checkpoints; M = 0 if they are in the table.
    made_with: software and devices.
  """

  rows: list[store.Row]
  columns: list[store.Column]
  first: int
  traces: Mapping[str, np.ndarray]
  states: Sequence[np.ndarray]
  baseline: np.ndarray
  made_with: str

  @property
  def stop(self) -> int:
    """Draws that the chains have taken."""
    lengths = [trace.shape[2] for trace in self.traces.values()]
    return self.first + (lengths[0] if lengths else 0)

  @property
  def cells(self) -> list[tuple[store.Row, store.Column]]:
    """Rows by columns, row by row."""
    return [(row, column) for row in self.rows for column in self.columns]

  def goes_on_with(self, later: 'BlockFile') -> bool:
    """True if a later file is the next segment of this one."""
    end = self.rows, self.columns, self.stop
    return end == (later.rows, later.columns, later.first)

  def followed_by(self, later: 'BlockFile') -> 'BlockFile':
    """The block with the draws of a later segment appended."""
    traces = {
      name: np.concatenate([trace, later.traces[name]], axis=2)
      for name, trace in self.traces.items()
    }
    return self._replace(traces=traces, states=later.states)

  def without_draws(self) -> 'BlockFile':
    """The chains alone."""
    none = np.zeros((len(self.rows), 0))
    return self._replace(first=self.stop, traces={}, baseline=none)


def name_of(
  rows: Sequence[store.Row], columns: Sequence[store.Column], first: int
) -> str:
  """The name of a block's file, by what is in it."""
  text = repr((list(rows), list(columns), first))
  return f'{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.npz'


def write(path: pathlib.Path, block: BlockFile, owner: str) -> None:
  """Replaces a block's file."""
  steps, datasets = zip(*block.rows, strict=True)
  refinements, chains = zip(*block.columns, strict=True)
  arrays = {
    'steps': np.array(steps, np.int64),
    'datasets': np.array(datasets, str),
    'refinements': np.array(refinements, str),
    'chains': np.array(chains, np.int64),
    'first': np.array(block.first),
    'baseline': block.baseline,
    'made_with': np.array(block.made_with),
  }
  arrays |= {f'{_TRACE}{name}': x for name, x in block.traces.items()}
  arrays |= {f'{_STATE}{i:04d}': leaf for i, leaf in enumerate(block.states)}
  files.write_arrays(path, arrays, owner)


def read(path: pathlib.Path, owner: str) -> BlockFile:
  """Reads a block's file.

  Raises:
    DamagedFileError: if it is gone, or not what was written.
  """
  arrays = files.read_arrays(path, owner)
  if not arrays:
    raise files.DamagedFileError('no such file')
  try:
    block = _block_of(arrays)
    fits = _is_as_written(block)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise files.DamagedFileError(f'{type(error).__name__}: {error}') from error
  if not fits:
    raise files.DamagedFileError('arrays that are not of one block')
  return block


def _is_as_written(block: BlockFile) -> bool:
  """True if every array has shape [K, N, ...] with K, N > 0."""
  cells = len(block.rows), len(block.columns)
  parts = [*block.traces.values(), *block.states]
  lengths = {trace.shape[2] for trace in block.traces.values()}
  return (
    min(cells) > 0
    and block.first >= 0
    and len(lengths) <= 1
    and all(part.shape[:2] == cells for part in parts)
    and block.baseline.shape[:1] == cells[:1]
    and block.baseline.ndim == 2
  )


def _block_of(arrays: Mapping[str, np.ndarray]) -> BlockFile:
  pairs = lambda a, b: [
    *zip(arrays[a].tolist(), arrays[b].tolist(), strict=True)
  ]
  part = lambda kind: {
    name.removeprefix(kind): arrays[name]
    for name in sorted(arrays)
    if name.startswith(kind)
  }
  return BlockFile(
    pairs('steps', 'datasets'),
    pairs('refinements', 'chains'),
    int(arrays['first']),
    part(_TRACE),
    [*part(_STATE).values()],
    arrays['baseline'],
    str(arrays['made_with']),
  )


Cell = tuple[store.Row, store.Column]


class Directory:
  """The block files of a store, with an index of the newest file per chain."""

  def __init__(
    self,
    path: pathlib.Path,
    owner: str,
    knows: Callable[[Cell], bool] = lambda cell: True,
  ):
    self._path, self._owner, self._knows = path, owner, knows
    self._chains: dict[Cell, tuple[str, int]] = {}  # File, draws taken.

  def load(self) -> list[tuple[str, BlockFile]]:
    """Reads all, by first draw; removes damaged ones with a warning."""
    self._chains = {}
    blocks = []
    for path in self._paths():
      try:
        block = read(path, self._owner)
        if not all(map(self._knows, block.cells)):
          raise files.DamagedFileError('cells that the store has not')
        blocks.append((path.name, block))
      except files.DamagedFileError as error:
        if path.exists():  # Else another process was done with it.
          damages.warn_recomputing(path, error)
          files.remove(path)
    blocks.sort(key=lambda item: item[1].first)
    for name, block in blocks:
      for cell in block.cells:
        # A kill may leave both the old and the new file of a block.
        if block.stop > self.taken(cell):
          self._chains[cell] = name, block.stop
    return blocks

  def with_draws(self) -> list[BlockFile]:
    """Reads the files that hold draws, sorted by first draw; changes nothing.

    Chains alone are not read: they may be a thousand times as much.

    Raises:
      StoreError: if one is damaged.
    """
    blocks = []
    for path in self._paths():
      try:
        names = files.array_names(path)
        if any(name.startswith(_TRACE) for name in names):
          blocks.append(read(path, self._owner))
      except files.DamagedFileError as error:
        if path.exists():  # Else it was done in the meantime.
          raise damages.error(path, str(error)) from error
    return sorted((x for x in blocks if x.traces), key=lambda x: x.first)

  def taken(self, cell: Cell) -> int:
    """Number of draws after which a cell's chain is saved here, or 0."""
    return self._chains.get(cell, ('', 0))[1]

  def states(
    self, rows: Sequence[store.Row], columns: Sequence[store.Column]
  ) -> list[np.ndarray]:
    """The saved chains of rows by columns, leaves [K, N, ...]."""
    cells = [(row, column) for row in rows for column in columns]
    by_cell: dict[Cell, list[np.ndarray]] = {}
    for name in {self._chains[cell][0] for cell in cells}:
      block = read(self._path / name, self._owner)
      flat = [leaf.reshape(-1, *leaf.shape[2:]) for leaf in block.states]
      for i, cell in enumerate(block.cells):
        if self._chains[cell][0] == name:
          by_cell[cell] = [leaf[i] for leaf in flat]
    leaves = [
      np.array(x) for x in zip(*(by_cell[c] for c in cells), strict=True)
    ]
    shape = len(rows), len(columns)
    return [leaf.reshape(*shape, *leaf.shape[1:]) for leaf in leaves]

  def save(self, name: str, block: BlockFile) -> None:
    """Writes a block's file, then removes the files that it replaces."""
    # Written before the old files go: a kill in between leaves both.
    write(self._path / name, block, self._owner)
    replaced = {self._chains.get(cell, (name, 0))[0] for cell in block.cells}
    self._chains |= dict.fromkeys(block.cells, (name, block.stop))
    self._remove_unused(replaced)

  def remove(self, name: str, block: BlockFile) -> None:
    """Removes a block's file."""
    for cell in block.cells:
      self._chains.pop(cell, None)
    self._remove_unused({name})

  def clear_unused(self, names: Iterable[str]) -> None:
    """Removes the named files whose chains all have newer files."""
    self._remove_unused({*names})

  def _remove_unused(self, names: set[str]) -> None:
    used = Counter(name for name, _ in self._chains.values())
    for name in names:
      if not used[name]:
        files.remove(self._path / name)

  def _paths(self) -> list[pathlib.Path]:
    return sorted(self._path.glob('*.npz'))
