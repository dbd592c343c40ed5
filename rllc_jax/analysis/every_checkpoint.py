"""The same for every checkpoint, on as many devices as there are."""

from collections.abc import Callable
from concurrent import futures
import queue
import threading
from typing import Any

import jax

from rllc_jax import types


def map_checkpoints(
  function: Callable[[types.Params], types.PyTree],
  trajectory: types.Trajectory,
  progress: Callable[[int, int], None] | None = None,
) -> list[types.PyTree]:
  """function(weights) at every checkpoint, as NumPy arrays, in their order.

  Each local device has one checkpoint at a time, and a thread that looks after
  it.

  Args:
    function: is called by several threads. What it takes from elsewhere must
      not be committed to a device.
    trajectory: the checkpoints; one is loaded at a time.
    progress: `progress(done, total)` in checkpoints.

  Raises:
    Exception: the first that a call raises; what has not begun is left.
  """
  free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
  for device in jax.local_devices():
    free.put(device)
  loading = threading.Lock()
  config: Any = jax.config  # Threads have settings of their own.
  precision = config.jax_default_matmul_precision

  def at_step(step: int) -> types.PyTree:
    with loading:
      params = jax.tree.map(lambda leaf: leaf[0], trajectory.load([step]))
    device = free.get()
    try:
      with jax.default_device(device), jax.default_matmul_precision(precision):
        return jax.device_get(function(params))
    finally:
      free.put(device)

  found, total = [], len(trajectory.steps)
  with futures.ThreadPoolExecutor(len(jax.local_devices())) as pool:
    for result in pool.map(at_step, trajectory.steps):
      found.append(result)
      if progress:
        progress(len(found), total)
  return found
