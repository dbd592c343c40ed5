"""Agreement between connected processes: process 0 decides and writes.

With a single process nothing is exchanged.
"""

from collections.abc import Callable

import jax
from jax.experimental import multihost_utils
import numpy as np


def agreed(value: int) -> int:
  """Returns the value of process 0 on all processes."""
  # Clocks and disks differ, and processes that decide differently would hang.
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def first_does(act: Callable[[], object]) -> None:
  """Runs `act` on process 0 while the others wait."""
  if jax.process_index() == 0:
    act()
  agreed(0)  # A barrier.
