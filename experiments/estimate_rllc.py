"""Estimates the refined LLC of every head at every checkpoint.

  python -m experiments.estimate_rllc --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, which experiments.build_corpus
and experiments.train wrote, and the sections `estimation`, `sampling` and
`layout` and the number `seed` of the config. It writes the store `DIR/rllc`. A
stopped run resumes; a finished one can be extended by draws, chains,
checkpoints, data sets or refinements. Then it writes `DIR/estimates.csv`, a
line a cell: estimate, error, diagnostics, verdict; and traces for other
programs, `DIR/rllc/results.zarr`, if they are under 1 GB. A run with another
loss (`estimation.reference`) or other settings gets another store, `DIR/NAME`
by `estimation.name`, and the table `DIR/NAME.csv`.

With --dry_run it only prints a plan of the missing work: steps, tokens, FLOPs,
memory of a device, time to compile and to run.

Exit status: 0; 1 if there is an error, such as that every chain failed; 3 if
some chains failed, which are named and left out: the rest is as complete as
with 0, but biased where they are missing; 4 if it was stopped by a signal: the
same command goes on.

Several processes share the work if each gets its number, --process=0/2 and
--process=1/2: they share only the directory, and none waits for another. One
that finds everything done at its end, as the last one does, writes the table.
With --executor a scheduler deals the work to processes or machines instead.
"""

import functools
import pathlib

from absl import flags
from absl import logging
import ml_collections
import numpy as np
import xarray as xr

from experiments.runtime import commands
from experiments.runtime import dry_run
from experiments.runtime import executors
from experiments.runtime import processes
from experiments.runtime import progress
from experiments.runtime import provenance
from experiments.runtime import sections
from experiments.runtime import shares
from experiments.runtime import specs
from rllc_jax import checked_files
from rllc_jax.estimators import cells
from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import health
from rllc_jax.estimators import llc
from rllc_jax.estimators import plan as plans
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.results import disk
from rllc_jax.results import exports
from rllc_jax.results import store as stores
from rllc_jax.results import traces as xr_traces

_MAX_FAILURES_SHOWN = 20
_MAX_BYTES = 2**30  # Approximate limit of traces in memory.


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> xr.Dataset | None:
  """Estimates all requested cells, or resumes or loads an earlier run.

  Args:
    config: `seed`, `estimation`, `sampling` and `layout` are read.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    Estimates of the requested cells, judged by `health.check`; None if cells
    lack draws of other processes, the last of which makes them.

  Raises:
    ValueError: a setting makes no sense, a name does not exist, the store there
      is of another run, or every chain failed.
    ChainsFailed: some chains failed; everything is written all the same.
  """
  # After training: JAX ends all connected processes when one of them dies.
  processes.disconnect()
  settings = sections.read(config)
  if executors.is_given():  # Its workers may have other current directories.
    workdir = workdir.absolute()
  name = settings.estimation.name
  record = provenance.Run(workdir / name, config)
  parts = specs.build(settings, workdir)
  store = parts.store
  requested = [_fill(part, store, record) for part in (parts.spec, *parts.late)]
  missing = [cell for x in requested for cell in shares.missing(x, store)]
  if missing:
    logging.info(
      '%s: this process has done its share; %d cells lack draws of others, '
      'such as step %s, %s, %s',
      workdir,
      len(missing),
      *missing[0],
    )
    return None
  extent = functools.reduce(xr_traces.grown, (x.extent for x in requested))
  _export(store, workdir / name / exports.NAME)
  estimates = specs.as_requested(_estimates(store), settings, workdir)
  return _write_and_log_estimates(workdir, name, estimates, extent)


def _fill(
  spec: requests.Spec, store: disk.DiskStore, record: provenance.Run
) -> requests.Request:
  """Takes the draws that are missing in this process's share."""
  with progress.bar('estimating', 'draw') as bar:

    def show(done, total):
      record.save(ended=False)
      bar.show(done, total)

    request = requests.check(spec, with_losses=True)
    executors.use(
      lambda executor: trajectories.fill(request, store, show, executor)
    )
  record.save(ended=True)
  return request


def _export(store: disk.DiskStore, path: pathlib.Path) -> None:
  """Writes `results.zarr` for other programs, if it is not large."""
  size = exports.open_results(store.path).nbytes
  if size < _MAX_BYTES:
    exports.to_zarr(store.path, path)
  else:
    logging.info(
      '%s is not written: %.1f GB; rllc_jax.to_zarr(%r, PATH) does it',
      path.name,
      size / 1e9,
      str(store.path),
    )


def plan(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> plans.Plan:
  """Prints a plan of `run` with its steps, memory and time.

  It runs a few seconds of every family and writes nothing to the store.

  Args:
    config: as of `run`.
    workdir: as of `run`.

  Raises:
    ValueError: as `run`, where it fails before sampling.
  """
  settings = sections.read(config)
  parts = specs.build(settings, workdir)
  steps = plans.plan_of(parts.spec, parts.store)
  print(dry_run.text(steps), flush=True)
  for part in parts.late:
    names = ', '.join(part.datasets)
    print(f'then {len(part.trajectory.steps)} checkpoints on {names}')
    print(dry_run.text(plans.plan_of(part, parts.store)), flush=True)
  if settings.sampling.target_error is not None:
    print(
      'of the pilots, and of what they have asked for so far: they fix the '
      f'draws of each cell, at most {settings.sampling.max_draws:,}'
    )
  return steps


def _write_and_log_estimates(
  workdir: pathlib.Path, name: str, estimates: xr.Dataset, extent: stores.Extent
) -> xr.Dataset:
  """Writes all estimates of a store, and logs the requested ones."""
  table_name = 'estimates' if name == 'rllc' else name
  write_csv(workdir / f'{table_name}.csv', estimates)
  requested = estimates.sel(
    checkpoint=list(extent.checkpoints),
    dataset=list(extent.datasets),
    refinement=list(extent.refinements),
  )
  logging.info('%s: complete\n%s', workdir / name, table(requested))
  lines = [
    f'  {part}: {line}' for part, line in health.summary(requested).items()
  ]
  logging.info('health\n%s', '\n'.join(lines))
  check_chains(requested)
  return requested


def _estimates(store: disk.DiskStore) -> xr.Dataset:
  """All estimates of a store, from as many checkpoints at a time as fit."""
  extent = store.extent._replace(num_draws=store.max_recorded_draws())
  steps, parts = sorted(extent.checkpoints), []
  # A store of traces can be larger than memory: 1.9 TB at 10,000 checkpoints.
  count = 1  # The first checkpoint tells how large the others are.
  while steps:
    chunk, steps = tuple(steps[:count]), steps[count:]
    traces = store.read(extent._replace(checkpoints=chunk))
    parts.append(llc.llc_from_traces(traces))
    count = max(1, _MAX_BYTES * len(chunk) // traces.nbytes)
  return xr.concat(parts, 'checkpoint')


def table(estimates: xr.Dataset) -> str:
  """Text table of estimates and errors at the first and last checkpoint."""
  lines = []
  for dataset in estimates.dataset.values:
    ends = estimates.sel(dataset=dataset).isel(checkpoint=[0, -1])
    first, last = ends.checkpoint.values
    lines.append(f'{dataset:>16}{f"step {first}":>32}{f"step {last}":>32}')
    for name in estimates.refinement.values:
      cell = ends.sel(refinement=name)
      names = ('llc', 'standard_error', 'step_bias')
      values = zip(*(cell[x].values for x in names), strict=True)
      texts = [
        f'{value:.2f} ± {error:.2f}, step bias {bias:.2g}'
        if np.isfinite(value)
        else 'no estimate'
        for value, error, bias in values
      ]
      lines.append(f'{name:>16}{texts[0]:>32}{texts[1]:>32}')
  return '\n'.join(lines)


def write_csv(path: pathlib.Path, estimates: xr.Dataset) -> None:
  """Writes estimates as CSV: a line a cell, failed chains by number.

  Args:
    path: of the file, which is replaced.
    estimates: from `llc_from_traces`.
  """
  failed = estimates.failed.transpose(*cells.DIMS, 'chain')
  chains = failed.values.reshape(-1, failed.sizes['chain'])
  named = [' '.join(map(str, failed.chain.values[row])) for row in chains]
  frame = estimates.drop_vars('failed').to_dataframe(list(cells.DIMS))
  frame = frame.assign(failed_chains=named).reset_index()
  text = frame.to_csv(index=False, float_format='%.8g')
  checked_files.write_bytes(path, text.encode())


def check_chains(estimates: xr.Dataset) -> None:
  """Logs which chains failed.

  Raises:
    ChainsFailed: if there are any.
    ValueError: if all failed.
  """
  failed, count = (
    int(estimates.num_failed.sum()),
    int(estimates.num_chains.sum()),
  )
  if not failed:
    return
  remedy = diagnostics.remedy_of_failure(int(estimates.failure_kind.max()))
  remedy = f'In config.sampling: {remedy}.'
  if failed == count:
    raise ValueError(
      'At least one chain must stay finite and near its checkpoint, or there '
      f'is nothing to estimate from; got {failed} of {count} that did not. '
      f'{remedy}'
    )
  lines = health.failures(estimates)
  shown = lines[:_MAX_FAILURES_SHOWN]
  if len(lines) > len(shown):
    shown.append(f'and so on in {len(lines) - len(shown)} more cells')
  logging.warning('chains that failed, left out\n  %s', '\n  '.join(shown))
  raise commands.ChainsFailed(
    f'{failed} of {count} chains failed and were left out, which biases what '
    f'is left; estimates.csv names them. {remedy}'
  )


if __name__ == '__main__':
  # Defined here, so that importing this module adds no flag to other commands.
  ONLY_PLAN = flags.DEFINE_bool(
    'dry_run', False, 'Print steps, memory and time of the run, and stop.'
  )
  commands.start(
    lambda config, workdir: (plan if ONLY_PLAN.value else run)(config, workdir),
    processes.connect,
  )
