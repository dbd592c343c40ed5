"""What a store lacks of a run, whichever process is to do it."""

from rllc_jax.estimators import request as requests
from rllc_jax.estimators import stops
from rllc_jax.results import disk


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
