"""Waits for the shares of other processes in a run of estimates."""

import time

from absl import logging

from experiments.runtime import commands
from experiments.runtime import processes
from rllc_jax.results import disk
from rllc_jax.results import store as stores

_PAUSE = 1.0  # Seconds between two polls of other processes.
# Seconds in which another process must begin: two that are started together
# begin seconds apart, more on a busy machine.
_PATIENCE = 120.0


def are_done(store: disk.DiskStore, extent: stores.Extent) -> bool:
  """True if a store is complete; process 0 waits for the other processes.

  The remaining processes return False while any other is at work. So the last
  one at work, whichever it is, names the missing cells.

  Args:
    store: in which this process has done its share.
    extent: the requested cells.

  Raises:
    Incomplete: if cells lack draws, and no process is at work or begins.
  """
  while live := store.live_peers():
    if not processes.is_first():
      return False
    message = 'waiting for processes %s'
    logging.log_every_n_seconds(logging.INFO, message, 60, live)
    time.sleep(_PAUSE)
  if not store.missing(extent):
    return True
  logging.info('waiting for processes to begin')
  if _another_process_begins(store):
    return are_done(store, extent)
  # A process may have begun and ended between two polls.
  if missing := store.missing(extent):
    step, dataset, refinement = missing[0]
    raise commands.Incomplete(
      f'{len(missing)} of {_num_cells(extent)} cells lack draws of other '
      f'processes, such as step {step}, {dataset}, {refinement}.'
    )
  return True


def _another_process_begins(store: disk.DiskStore) -> bool:
  """True if another process begins within the patience."""
  until = time.monotonic() + _PATIENCE
  while time.monotonic() < until:
    if store.live_peers():
      return True
    time.sleep(_PAUSE)
  return False


def _num_cells(extent: stores.Extent) -> int:
  checkpoints, datasets, refinements = map(len, extent[:3])
  return checkpoints * datasets * refinements
