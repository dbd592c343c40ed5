"""What a store is: the coordinates of a run, and where its traces are kept."""

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr


class Extent(NamedTuple):
  """The coordinates of a run: what may grow while its identity stays.

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


def check_extent(extent: Extent) -> None:
  """Raises if a coordinate is missing, given twice, or cannot be one."""
  for step in extent.checkpoints:
    if not 0 <= step < 2**32:
      raise ValueError(
        'checkpoints must be training steps from 0 to 2^32 - 1, because they '
        f'address random numbers; got {step}.'
      )
  for name in (*extent.datasets, *extent.refinements):
    if not isinstance(name, str) or not name or _is_lost(name):
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
    twice = sorted(x for x, n in collections.Counter(values).items() if n > 1)
    if twice:
      raise ValueError(
        f'{name} must differ, because they are coordinates of the results; got '
        f'{twice[0]!r} more than once.'
      )


def _is_lost(name: str) -> bool:
  """Whether files and arrays do not keep a name as it is."""
  return any(x == '\0' or '\ud800' <= x <= '\udfff' for x in name)


Row = tuple[int, str]  # A checkpoint's training step, a data set's name.
Column = tuple[str, int]  # A refinement's name, a chain's number.


class Store(Protocol):
  """Where the traces of a run are kept, block by block.

  Rows and columns are given by their coordinates. Traces are
  {name: [K, N, draws, ...]}, states lists of leaves [K, N, ...].
  """

  def begin(
    self, identity: Mapping[str, Any], extent: Extent, made_with: str
  ) -> None:
    """Says what is to be stored, and by what; raises if it does not fit."""

  def end(self) -> None:
    """Says that nothing more is stored: others may."""

  def own(self, rows: Sequence[Row]) -> list[Row]:
    """Those that this process shall do: all, unless it is one of several."""

  def recorded(
    self, rows: Sequence[Row], columns: Sequence[Column]
  ) -> np.ndarray:
    """How many draws each cell has, [K, N]."""

  def states(
    self, rows: Sequence[Row], columns: Sequence[Column]
  ) -> list[np.ndarray]:
    """The chains as they were after their recorded draws."""

  def write(
    self,
    rows: Sequence[Row],
    columns: Sequence[Column],
    first: int,
    traces: Mapping[str, np.ndarray],
    states: Sequence[np.ndarray],
    baseline: np.ndarray,
  ) -> None:
    """Keeps draws from `first` on, and the chains after them.

    The losses at the checkpoints, [K, M], come with the draws from 0 on; later
    ones have M = 0.
    """

  def complete(self, rows: Sequence[Row], columns: Sequence[Column]) -> None:
    """Says that no more draws of a block are on their way."""

  def read(self, extent: Extent | None = None) -> xr.Dataset:
    """The traces of an extent (everything by default), NaN where missing."""
