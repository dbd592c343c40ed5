"""The shares of the processes of a run: whether all of them are done."""

import time

from absl import logging

from experiments.runtime import commands
from experiments.runtime import processes
from rllc_jax.results import disk
from rllc_jax.results import store as stores

_PAUSE = 1.0  # Seconds between two looks at other processes.
_PATIENCE = 120.0  # Seconds in which one must begin, on a busy machine, too.


def are_done(store: disk.DiskStore, extent: stores.Extent) -> bool:
  """Whether a store holds all that was asked for; process 0 waits until it is.

  Every other process leaves that to those that are still at work, so that the
  last one at work, whichever it is, says what is missing.

  Args:
    store: in which this process has done its share.
    extent: what was asked for.

  Raises:
    Incomplete: if cells lack draws, and nobody is at work or begins to be.
  """
  while live := store.others_live():
    if not processes.is_first():
      return False
    message = 'waiting for processes %s'
    logging.log_every_n_seconds(logging.INFO, message, 60, live)
    time.sleep(_PAUSE)
  if not store.missing(extent):
    return True
  logging.info('waiting for processes to begin')
  if _one_begins(store):
    return are_done(store, extent)
  if missing := store.missing(extent):
    step, dataset, refinement = missing[0]
    raise commands.Incomplete(
      f'{len(missing)} of {_num_cells(extent)} cells lack draws of other '
      f'processes, such as step {step}, {dataset}, {refinement}.'
    )
  return True


def _one_begins(store: disk.DiskStore) -> bool:
  """Whether another process begins in time."""
  until = time.monotonic() + _PATIENCE
  while time.monotonic() < until:
    if store.others_live():
      return True
    time.sleep(_PAUSE)
  return False


def _num_cells(extent: stores.Extent) -> int:
  checkpoints, datasets, refinements = map(len, extent[:3])
  return checkpoints * datasets * refinements
