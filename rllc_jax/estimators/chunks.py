"""Chunk sizes: columns that run in parallel, fewer if memory runs out.

A column is a refinement and a chain. The size of a chunk changes no number.
"""

from collections.abc import Callable
import warnings

import jax

from rllc_jax import types
from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid

Measure = Callable[[], footprint.Footprint]


class Chunks:
  """The chunk sizes of a run, family by family.

  Those that are chosen here are made smaller here, when a device runs out of
  memory. One that the user gave is not touched: the error says what would fit.
  """

  def __init__(self, mesh: jax.sharding.Mesh, given: int | None):
    self._device = mesh.devices.flat[0]
    self._num_devices = mesh.shape['column']
    self._given = given
    self._chosen: dict[tuple[types.RefinedLoss, int], int] = {}

  def size(
    self, family: types.Refinements, num_columns: int, measure: Measure
  ) -> int:
    """Columns of a device in parallel.

    Args:
      family: whose columns they are.
      num_columns: of a block, on all devices.
      measure: what the block takes; called once at most.
    """
    if self._given:
      return self._given
    key = family.loss, num_columns
    if key not in self._chosen:
      self._chosen[key] = grid.default_chunk_size(
        self._on_device(num_columns), measure, self._device
      )
    return self._chosen[key]

  def shrink(
    self,
    error: jax.errors.JaxRuntimeError,
    family: types.Refinements,
    num_columns: int,
    measure: Measure,
  ) -> None:
    """Halves a chunk, in as equal chunks as there are, after an error.

    Args:
      error: what JAX raised; if it is not of memory, it is raised again.
      family: whose columns did not fit.
      num_columns: of the block, on all devices.
      measure: what the block takes; called for the message of an error.

    Raises:
      ValueError: if the user gave the chunk size, or not even one column fits.
    """
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise error
    reason = ' '.join(str(error).split())[:160]
    size = self.size(family, num_columns, measure)
    if size == 1:
      raise ValueError(
        'At least one column, (refinement, chain), must fit in the memory of a '
        'device; got none that does, at chunk_size 1. Take a smaller '
        'batch_size, shorter sequences or fewer data sets and, for heads of '
        f'the last layer, share_logits False ({reason}).'
      ) from error
    on_device = self._on_device(num_columns)
    smaller = grid.equal_chunk(on_device, size // 2)
    if self._given:
      fitting = grid.fitting_chunk_size(on_device, measure, self._device)
      raise ValueError(
        'chunk_size must be so small that as many columns fit in the memory of '
        f'a device; got {size}. Take {min(fitting or smaller, smaller)}, or '
        f'None, which finds out by itself ({reason}).'
      ) from error
    self._chosen[family.loss, num_columns] = smaller
    warnings.warn(
      f'{size} columns in parallel do not fit in the memory of a device: going '
      f'on with {smaller} ({reason}).',
      stacklevel=2,
    )

  def _on_device(self, num_columns: int) -> int:
    return -(-num_columns // self._num_devices)
