"""Files of blocks: the chains of a block as they are, and their last draws.

A block's draws lie here, in one file that every segment replaces, until the
block is done and they go to the table. The chains may stay, for a run that is
asked for more draws.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import pathlib
from typing import NamedTuple

import numpy as np

from rllc_jax.results import files
from rllc_jax.results import store as stores

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

  rows: list[stores.Row]
  columns: list[stores.Column]
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
  def cells(self) -> list[tuple[stores.Row, stores.Column]]:
    """Rows by columns, row by row."""
    return [(row, column) for row in self.rows for column in self.columns]

  def followed_by(self, other: 'BlockFile') -> 'BlockFile':
    """The same block after another segment."""
    traces = {
      name: np.concatenate([trace, other.traces[name]], axis=2)
      for name, trace in self.traces.items()
    }
    return self._replace(traces=traces, states=other.states)

  def without_draws(self) -> 'BlockFile':
    """The chains alone."""
    none = np.zeros((len(self.rows), 0))
    return self._replace(first=self.stop, traces={}, baseline=none)


def name_of(
  rows: Sequence[stores.Row], columns: Sequence[stores.Column], first: int
) -> str:
  """The name of a block's file, by what is in it."""
  text = repr((list(rows), list(columns), first))
  return f'{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}.npz'


def write(path: pathlib.Path, block: BlockFile) -> None:
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
  files.write_arrays(path, arrays)


def read(path: pathlib.Path) -> BlockFile:
  """Reads a block's file.

  Raises:
    DamagedFileError: if it is gone, or not what was written.
  """
  arrays = files.read_arrays(path)
  if not arrays:
    raise files.DamagedFileError('no such file')
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
