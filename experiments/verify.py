"""Checks a finished run: checksums of all files, and one block resampled.

  python -m experiments.verify --config=FILE --workdir=DIR

reads the results of experiments.build_corpus, experiments.train and
experiments.estimate_rllc, with the config of the run. The bytes of every
checkpoint, of the corpus and of every draw in the store are compared with their
checksums, and every file and value of `results.zarr` with the store. Weights,
data and settings must be those of the store, and every cell of the config must
be complete. Then a random block (a family of refinements at a checkpoint on a
data set, by --seed) is sampled again from the beginning. Nothing is written.

Exit status: 0 if every checksum holds and the block comes out the same.
"""

from collections.abc import Iterator
import pathlib
from typing import Any

from absl import flags
import ml_collections
import numpy as np
import xarray as xr

from experiments.runtime import commands
from experiments.runtime import sections
from experiments.runtime import seed_flag
from experiments.runtime import shares
from experiments.runtime import specs
from experiments.runtime import targets
from rllc_jax.data import packing
from rllc_jax.estimators import plan as plans
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.results import disk
from rllc_jax.results import exports
from rllc_jax.results import memory
from rllc_jax.training import checkpoints

flags.adopt_module_key_flags(seed_flag)
# In units of a trace's standard deviation. On the same kind of device the
# difference is 0; another rounds differently.
_MAX_DIFFERENCE = 1e-3


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[targets.Row]:
  """Checks a run and raises at the first damaged file, naming it.

  Args:
    config: of the run.
    workdir: of the run.

  Raises:
    ValueError: if something is not as it was written, or of another run.
  """
  return list(_rows(config, workdir))


def _rows(config, workdir) -> Iterator[targets.Row]:
  corpus = packing.load_corpus(workdir / 'corpus')
  yield _row('sequences of the corpus', len(corpus.tokens), 'as written')
  settings = sections.read(config)
  if not settings.model.source:
    directory = workdir / 'train' / 'checkpoints'
    steps = checkpoints.steps(directory)
    for step in steps:
      checkpoints.load(directory, step)
    yield _row('checkpoints', len(steps), 'as written')
  spec, late, store = specs.build(settings, workdir)
  request, _ = plans.check(spec, store)
  yield _row('settings, weights and data', 1, 'those of the store')
  _check_complete(store, request)
  for part in late:
    _check_complete(store, plans.check(part, store)[0])
  yield _row('files of the store', store.check_files(), 'as written')
  draws = store.read()
  yield _row('draws in the store', int(draws.recorded.sum()), 'as written')
  path = workdir / settings.estimation.name / exports.NAME
  if path.exists():
    count = exports.check_zarr(store.path, path)
    yield _row('values of results.zarr', count, 'those of the store')
  place, resampled = _resample_block(spec)
  stored = draws.sel(place).isel(draw=slice(resampled.sizes['draw']))
  worst = _largest_difference(resampled, stored)
  yield targets.Row(
    'difference of the block done again',
    worst,
    'of its spread',
    f'<= {_MAX_DIFFERENCE}',
    worst <= _MAX_DIFFERENCE,
    f'step {place["checkpoint"][0]}, {place["dataset"][0]}, '
    f'{place["refinement"][0]} and {len(place["refinement"]) - 1} more',
  )


def _check_complete(store: disk.DiskStore, request: requests.Request) -> None:
  if missing := shares.missing(request, store):
    step, dataset, refinement = missing[0]
    raise ValueError(
      f'{store.path} must hold all that the config asks for; got '
      f'{len(missing)} cells that lack draws, such as step {step}, {dataset}, '
      f'{refinement}. Run experiments.estimate_rllc with the same config.'
    )


def _row(name: str, value: float, target: str) -> targets.Row:
  """A row for a passed check: a failed one has raised an error before."""
  return targets.Row(name, value, '', target, True)


def _resample_block(spec: requests.Spec) -> tuple[dict[str, Any], xr.Dataset]:
  """Samples a random block in memory; returns its place and its traces."""
  rng = np.random.default_rng(
    seed_flag.SEED.value if flags.FLAGS.is_parsed() else 0
  )
  pick = lambda items: items[int(rng.integers(len(items)))]
  family, step = pick(spec.refinements), pick(spec.trajectory.steps)
  name = pick([*spec.datasets])
  block = spec._replace(
    refinements=[family],
    trajectory=spec.trajectory._replace(steps=(step,)),
    datasets={name: spec.datasets[name]},
  )
  request = requests.check(block, with_losses=False)
  traces = trajectories.run(request, memory.MemoryStore())
  place = {
    'checkpoint': [step],
    'dataset': [name],
    'refinement': [*family.names],
    'chain': traces.chain.values,
  }
  return place, traces


def _largest_difference(resampled: xr.Dataset, stored: xr.Dataset) -> float:
  """Largest difference of the traces that both have, in standard deviations.

  NaN is equal to NaN: a kernel without a prediction records it, and so does a
  chain that failed. Infinite if only one of both is NaN.
  """
  names = [
    name
    for name, trace in resampled.items()
    if 'draw' in trace.dims and name in stored  # Older versions record less.
  ]
  return max(_difference(resampled[name], stored[name]) for name in names)


def _difference(actual: xr.DataArray, expected: xr.DataArray) -> float:
  """Largest difference of one trace, in its standard deviations."""
  a, b = actual.values, expected.values
  differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))  # Inf less inf is NaN.
  if not differ.any():
    return 0.0
  finite = b[np.isfinite(b)]
  # A constant trace has no spread.
  spread = float(finite.std()) if finite.size else 0.0
  largest = float(np.abs(a[differ] - b[differ]).max())
  return largest / (spread or 1.0) if np.isfinite(largest) else np.inf


if __name__ == '__main__':
  commands.start(lambda config, workdir: targets.finish(run(config, workdir)))
