"""Makes all results of one training run that figures and claims need.

  python -m experiments.study --config=FILE --workdir=DIR

builds a corpus and trains as experiments.demo does, trains a one-layer model
alike, of seed 0 whatever the seed, and fills the stores

  rllc              every head, on every data set of the config
  full              the whole model, on these and on the further domains
  reference         every head, against the predictions of the one-layer model,
                    unless `study.against_one_layer` is False
  sweep_NAME_VALUE  every head at the last checkpoint, with one setting halved
                    or doubled

Then it analyzes the heads into `analysis.zarr`. Each step continues from the
files in DIR.
"""

from collections.abc import Iterator
import copy
import pathlib
import time
from typing import Any

from absl import logging
import ml_collections
import xarray as xr

from experiments import analyze
from experiments import build_corpus
from experiments import estimate_rllc
from experiments import train
from experiments.runtime import commands
from experiments.runtime import processes
from experiments.runtime import sections
from rllc_jax.results import disk
from rllc_jax.training import checkpoints
from rllc_jax.training import records

REFERENCE = 'one_layer'
ANALYSIS = 'analysis.zarr'
SWEPT = ('step_size', 'localization', 'nbeta')
FACTORS = (0.5, 2.0)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Runs every step, resuming those that were stopped.

  Args:
    config: of a run, as in experiments.demo.
    workdir: of the run.

  Raises:
    ChainsFailed: at the end, if chains failed.
  """
  workdir = pathlib.Path(workdir)
  failure = None
  for name, step in _steps(config, workdir):
    began = time.perf_counter()
    logging.info('%s ...', name)
    try:
      step()
    except commands.ChainsFailed as error:
      failure = error  # Later steps use the remaining chains.
    logging.info('%s: %.0f s', name, time.perf_counter() - began)
  if failure:
    raise failure


def _steps(config, workdir):
  """Yields names and calls in order; a call must end before the next yield."""
  yield 'corpus', lambda: build_corpus.run(config, workdir)
  yield 'training', lambda: train.run(config, workdir)
  if sections.read(config).study.against_one_layer:
    one_layer = _changed(
      config,
      model={'num_layers': 1},
      training={'name': REFERENCE, 'checkpoints': (config.training.num_steps,)},
    )
    one_layer.seed = 0  # All runs are compared with one model.
    yield 'training of the reference', lambda: train.run(one_layer, workdir)
  # Exists only after training, so the steps cannot be listed in advance.
  last = checkpoints.steps(workdir / 'train' / 'checkpoints')[-1]
  for name, settings in estimations(config, last):
    # The default binds the settings now: the loop changes the variable.
    yield name, lambda settings=settings: estimate_rllc.run(settings, workdir)
  if processes.is_first():
    yield 'heads', lambda: analyze.run(config, workdir)


def estimations(
  config: ml_collections.ConfigDict, last: int
) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
  """Yields the stores of a study and their configs.

  Args:
    config: of the run.
    last: step of the last checkpoint.
  """
  datasets = *config.estimation.datasets, *config.estimation.late_datasets
  yield 'rllc', config
  first = tuple(datasets[:1])
  held_out = (f'held_out/{name}' for name in config.corpus.further)
  changes: dict[str, dict[str, Any]] = {
    'full': {
      'refinements': ('all',),
      'datasets': tuple(dict.fromkeys((*datasets, *held_out))),
    },
    'reference': {'reference': REFERENCE, 'datasets': first},
  }
  if not sections.read(config).study.against_one_layer:
    del changes['reference']
  for name, changed in changes.items():
    estimation = {**changed, 'name': name, 'late_datasets': ()}
    yield name, _changed(config, estimation=estimation)
  at_last = {'datasets': first, 'checkpoints': (last,), 'late_datasets': ()}
  for field in SWEPT:
    for factor in FACTORS:
      value = factor * config.sampling[field]
      name = f'sweep_{field}_{value:g}'
      yield (
        name,
        _changed(
          config, estimation={**at_last, 'name': name}, sampling={field: value}
        ),
      )


def _changed(config, **sections):
  changed = copy.deepcopy(config)  # A shallow copy would share the sections.
  for section, values in sections.items():
    changed[section].update(values)
  return changed


def traces(workdir: pathlib.Path, name: str) -> xr.Dataset:
  """Loads the traces of a store of a study.

  Raises:
    ValueError: if there is no such store.
  """
  path = workdir / name
  if not path.exists():
    raise ValueError(
      f'{path} must be a store of estimates, because it is drawn; got no such '
      'directory. Run experiments.study on that workdir.'
    )
  return disk.open_store(path).read().load()


def readings(workdir: pathlib.Path) -> xr.Dataset:
  """Loads the measurements of the heads of a study.

  Raises:
    ValueError: if there are none.
  """
  path = workdir / ANALYSIS
  if not path.exists():
    raise ValueError(
      f'{path} must hold what heads do, because it is drawn; got no such '
      'directory. Run experiments.analyze on that workdir.'
    )
  return records.load_record(path)


def main() -> None:
  """Runs the command line."""
  commands.start(run, processes.connect)
