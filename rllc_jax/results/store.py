"""The interface of stores, and the coordinates of a run."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr


class Extent(NamedTuple):
  """The coordinates of a run, which may grow while its identity stays.

  Attributes:
    checkpoints: training steps.
    datasets: names.
    refinements: names.
    num_chains: C.
    num_draws: D, recorded steps from the checkpoint on, burn-in included.
  """

  checkpoints: tuple[int, ...]
  datasets: tuple[str, ...]
  refinements: tuple[str, ...]
  num_chains: int
  num_draws: int

  def rows(self) -> list['Row']:
    """Pairs of a checkpoint and a data set, checkpoint by checkpoint."""
    return [(k, s) for k in self.checkpoints for s in self.datasets]


def check_extent(extent: Extent) -> None:
  """Raises if a coordinate is missing, given twice, or cannot be one."""
  for step in extent.checkpoints:
    if not 0 <= step < 2**32:
      raise ValueError(
        'checkpoints must be training steps from 0 to 2^32 - 1, because they '
        f'address random numbers; got {step}.'
      )
  for name in (*extent.datasets, *extent.refinements):
    if not isinstance(name, str) or not name or _is_unstorable(name):
      raise ValueError(
        'Data sets and refinements must have names without NUL and surrogates, '
        'because they address random numbers and are coordinates of results; '
        f'got {name!a:.80}.'
      )
  for name, values in zip(Extent._fields[:3], extent[:3], strict=True):
    if not values:
      raise ValueError(
        f'{name} must hold at least one entry, or there is nothing to '
        'estimate; got none.'
      )
    repeated = sorted(
      x for x, n in collections.Counter(values).items() if n > 1
    )
    if repeated:
      raise ValueError(
        f'{name} must differ, because they are coordinates of the results; got '
        f'{repeated[0]!r} more than once.'
      )


def _is_unstorable(name: str) -> bool:
  """True if a file or an array would change the name."""
  # NumPy drops a trailing NUL; UTF-8 has no lone surrogates.
  return any(x == '\0' or '\ud800' <= x <= '\udfff' for x in name)


Row = tuple[int, str]  # A checkpoint's training step, a data set's name.
Column = tuple[str, int]  # A refinement's name, a chain's number.


class Store(Protocol):
  """Storage of the traces of a run, block by block.

  Rows and columns are given by their coordinates. Traces are
  {name: [K, N, draws, ...]}, states lists of leaves [K, N, ...].
  """

  def begin(
    self, identity: Mapping[str, Any], extent: Extent, made_with: str
  ) -> None:
    """Opens the store for writing; raises if the run does not match it."""

  def end(self) -> None:
    """Ends writing, and lets other runs write."""

  def owned_rows(self, rows: Sequence[Row]) -> list[Row]:
    """The rows that this process samples: all, unless it is one of several."""

  def recorded(
    self, rows: Sequence[Row], columns: Sequence[Column]
  ) -> np.ndarray:
    """The draw of each cell from which a run goes on, [K, N]."""

  def states(
    self, rows: Sequence[Row], columns: Sequence[Column], stop: int
  ) -> list[np.ndarray]:
    """The chains as they were after so many draws."""

  def write(
    self,
    rows: Sequence[Row],
    columns: Sequence[Column],
    first: int,
    traces: Mapping[str, np.ndarray],
    states: Sequence[np.ndarray],
    baseline: np.ndarray,
  ) -> None:
    """Stores draws from `first` on, and the chains after them.

    The losses at the checkpoints, [K, M], come with the draws from 0 on; later
    ones have M = 0.
    """

  def max_recorded_draws(self) -> int:
    """The draws of the longest chain; the extent may plan for more."""

  def complete(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Ends a block: no more of its draws will come."""

  def read(self, extent: Extent | None = None) -> xr.Dataset:
    """The traces of an extent (everything by default), NaN where missing."""
