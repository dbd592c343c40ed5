"""Waits for the shares of other processes in a run of estimates."""

from collections.abc import Callable
import time

from absl import logging

from experiments.runtime import commands
from experiments.runtime import processes
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import stops
from rllc_jax.results import disk
from rllc_jax.results import store as stores

_PAUSE = 1.0  # Seconds between two polls of other processes.
# Seconds in which another process must begin: two that are started together
# begin seconds apart, more on a busy machine.
_PATIENCE = 120.0


def are_done(
  store: disk.DiskStore,
  extent: stores.Extent,
  missing: Callable[[], list[tuple[int, str, str]]],
) -> bool:
  """True if a store is complete; process 0 waits for the other processes.

  The remaining processes return False while any other is at work. So the last
  one at work, whichever it is, names the missing cells.

  Args:
    store: in which this process has done its share.
    extent: the requested cells.
    missing: lists those that lack draws.

  Raises:
    Incomplete: if cells lack draws, and no process is at work or begins.
  """
  while live := store.live_peers():
    if not processes.is_first():
      return False
    message = 'waiting for processes %s'
    logging.log_every_n_seconds(logging.INFO, message, 60, live)
    time.sleep(_PAUSE)
  if not missing():
    return True
  logging.info('waiting for processes to begin')
  if _another_process_begins(store):
    return are_done(store, extent, missing)
  # A process may have begun and ended between two polls.
  if cells := missing():
    step, dataset, refinement = cells[0]
    raise commands.Incomplete(
      f'{len(cells)} of {_num_cells(extent)} cells lack draws of other '
      f'processes, such as step {step}, {dataset}, {refinement}.'
    )
  return True


def missing(
  request: requests.Request, store: disk.DiskStore
) -> list[tuple[int, str, str]]:
  """Cells (step, data set, refinement) that lack draws.

  Args:
    request: what is asked for.
    store: as it is now; other processes may write to it.
  """
  rule, extent = request.job.sampling.stop_rule, request.extent
  if rule is None:
    return store.missing(extent)
  pilots = extent._replace(num_draws=rule.first)
  cells = dict.fromkeys(store.missing(pilots))
  most = store.max_recorded_draws()
  for step, dataset in extent.rows():
    names = [x for x in extent.refinements if (step, dataset, x) not in cells]
    if names:
      row, chains = (step, dataset), extent.num_chains
      lacks = stops.lacking(rule, store.read, row, names, chains, most)
      cells |= dict.fromkeys((step, dataset, name) for name in lacks)
  return list(cells)


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
