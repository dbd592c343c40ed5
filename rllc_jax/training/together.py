"""Processes that train together: one of them writes, and all decide alike.

Alone, a process does what it is told at once.
"""

from collections.abc import Callable

import jax
from jax.experimental import multihost_utils
import numpy as np


def agreed(value: int) -> int:
  """What process 0 says: clocks and disks do not say the same everywhere."""
  if jax.process_count() == 1:
    return value
  return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def first_does(act: Callable[[], object]) -> None:
  """Process 0 acts, and all go on when it has."""
  if jax.process_index() == 0:
    act()
  agreed(0)
