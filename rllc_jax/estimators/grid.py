"""Layout of the grid of rows and columns: mesh, chunks, blocks.

Nothing here changes a number that is estimated: only when and where it is
computed, and how much memory that takes.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

_USABLE_MEMORY = 0.75  # Of a device's.
_LEAST_BUFFER = 256  # Draws: as many as most runs have, burn-in included.


def make_mesh(
  num_rows: int, num_columns: int, devices: Sequence[jax.Device] | None = None
) -> jax.sharding.Mesh:
  """A mesh of num_rows x num_columns devices, axes 'row' and 'column'.

  Args:
    num_rows: devices that rows, (checkpoint, data set), are dealt to.
    num_columns: devices that columns, (refinement, chain), are dealt to.
    devices: this process's devices by default, in their order.

  Raises:
    ValueError: if there are too few devices.
  """
  devices = jax.local_devices() if devices is None else list(devices)
  wanted = num_rows * num_columns
  if wanted > len(devices):
    raise ValueError(
      f'A mesh of {num_rows} x {num_columns} needs {wanted} devices, because '
      f'each place is one device; got {len(devices)}.'
    )
  grid = np.array(devices[:wanted]).reshape(num_rows, num_columns)
  # Auto axes: with Explicit ones shard_map refuses inputs not yet placed.
  auto = (jax.sharding.AxisType.Auto,) * 2
  return jax.sharding.Mesh(grid, ('row', 'column'), axis_types=auto)


def default_mesh(num_rows: int) -> jax.sharding.Mesh:
  """All local devices: along rows if there are enough, else along columns.

  Rows first, because a row's context is then computed on one device.
  """
  count = len(jax.local_devices())
  return make_mesh(count, 1) if num_rows >= count else make_mesh(1, count)


def check_rows_per_block(rows_per_block: int, mesh: jax.sharding.Mesh) -> None:
  """Raises unless a block's rows can be dealt evenly to the devices."""
  if rows_per_block < 1 or rows_per_block % mesh.shape['row']:
    raise ValueError(
      'rows_per_block must be a positive multiple of the mesh rows, '
      f'{mesh.shape["row"]}, so that every device has the same work; got '
      f'{rows_per_block}.'
    )


def default_chunk_size(
  num_columns: int, measure: Callable[[], Any], device: jax.Device
) -> int:
  """Chooses how many columns run in parallel on one device.

  One on a CPU, where a single chain fills the cores and a map was faster than a
  vmap. Elsewhere as many as fit, in equal chunks.

  Args:
    num_columns: columns on this device.
    measure: gives the `footprint.Footprint` of a block; called only where it
      matters, because it compiles.
    device: where the columns run.
  """
  if device.platform == 'cpu':
    return 1
  return fitting_chunk_size(num_columns, measure, device) or 1


def fitting_chunk_size(
  num_columns: int, measure: Callable[[], Any], device: jax.Device
) -> int | None:
  """Columns that fit in three quarters of the memory of a device.

  The rest is for what is not counted: reports, padding, fragments.

  Returns:
    At least 1; None if the device does not say what it has.
  """
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if not limit:
    return None
  shared, column = measure()
  room = int(_USABLE_MEMORY * limit) - shared
  return equal_chunk(num_columns, room // max(1, column))


def equal_chunk(num_columns: int, most: int) -> int:
  """The size of equal chunks of at most so many columns, and at least one.

  Examples:
    >>> equal_chunk(32, 15)
    11
  """
  num_chunks = -(-num_columns // max(1, min(most, num_columns)))
  return -(-num_columns // num_chunks)


def buffer_length(num_draws: int) -> int:
  """Draws that a program has room for: runs of about as many share one.

  Examples:
    >>> buffer_length(24), buffer_length(250), buffer_length(1000)
    (256, 256, 1024)
  """
  return max(_LEAST_BUFFER, 1 << (num_draws - 1).bit_length())


def padded(items: Sequence, multiple: int) -> list:
  """Repeats the last item until the length is a multiple.

  Examples:
    >>> padded([1, 2, 3], 2)
    [1, 2, 3, 3]
  """
  return [*items, *[items[-1]] * (-len(items) % multiple)]
