"""Maps a function over checkpoints, on all local devices."""

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
  """Applies a function to the weights of every checkpoint, in their order.

  Each local device works on one checkpoint at a time, driven by its own thread.
  Results are NumPy arrays.

  Args:
    function: is called by several threads. Arrays that it closes over must not
      be committed to a device.
    trajectory: the checkpoints; one is loaded at a time.
    progress: `progress(done, total)` in checkpoints.

  Raises:
    Exception: the first that a call raises; later calls are not started.
  """
  free: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
  for device in jax.local_devices():
    free.put(device)
  # One load at a time: a host may not hold a checkpoint per device.
  loading = threading.Lock()
  # Threads don't inherit the context's precision.
  config: Any = jax.config
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

  results, total = [], len(trajectory.steps)
  with futures.ThreadPoolExecutor(len(jax.local_devices())) as pool:
    for result in pool.map(at_step, trajectory.steps):
      results.append(result)
      if progress:
        progress(len(results), total)
  return results
