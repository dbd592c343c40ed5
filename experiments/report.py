"""Draws the figures and writes the report from saved results.

  python -m experiments.report --config=FILE --workdir=DIR

reads `DIR/corpus/corpus.json`, `DIR/train/training.zarr` and the traces in
`DIR/rllc`, which experiments.build_corpus, experiments.train and
experiments.estimate_rllc wrote, and the burn-in of the section `sampling` of
the config. It writes `DIR/figures/NAME.png` and `DIR/report.html`. An
unfinished run is reported, too, with a list of missing cells. The report also
shows `DIR/known_answers.json` and `DIR/coverage.json` of
experiments.known_answers and experiments.coverage, and `DIR/analysis.zarr` of
experiments.analyze, where they exist.
"""

from importlib import metadata
import json
import pathlib
import platform
from typing import Any, NamedTuple

from absl import logging
import ml_collections
import xarray as xr

from experiments.runtime import commands
from experiments.runtime import provenance
from experiments.runtime import sections
from experiments.runtime import specs
from experiments.runtime import workdirs
from rllc_jax import checked_files
from rllc_jax.data import packing
from rllc_jax.estimators import cells
from rllc_jax.estimators import llc
from rllc_jax.plots import style
from rllc_jax.report import figures
from rllc_jax.report import gains
from rllc_jax.report import inputs
from rllc_jax.report import page
from rllc_jax.results import disk
from rllc_jax.training import records

_PACKAGES = ('rllc_jax', 'jax', 'numpy', 'scipy', 'xarray', 'arviz-stats')


class _Saved(NamedTuple):
  """Results of the other commands in a workdir."""

  corpus: dict[str, Any]
  training: xr.Dataset
  traces: xr.Dataset
  known_answers: list[dict[str, Any]]
  coverage: list[dict[str, Any]]
  readings: xr.Dataset | None
  claims: dict[str, Any]
  runs: list[dict[str, Any]]


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
  """Writes the figures and the report.

  Args:
    config: its `sampling.burn_in` is left out of every chain.
    workdir: of the run.

  Returns:
    The path of the report.

  Raises:
    ValueError: a result is missing (the error names the command that makes
      it), or the burn-in leaves too few draws.
  """
  workdir = pathlib.Path(workdir)
  settings = sections.read(config)
  saved = _read(workdir)
  burn_in = settings.sampling.burn_in
  if burn_in is None:  # Then that of the run that filled the store.
    burn_in = cells.default_burn_in(saved.traces.attrs)
  contents = _inputs(saved, workdir, burn_in)
  contents = contents._replace(
    estimates=specs.as_requested(contents.estimates, settings, workdir)
  )
  drawings = figures.draw(contents)
  for name, image in drawings.items():
    path = workdir / 'figures' / f'{name}.png'
    checked_files.write_bytes(path, style.image(image, 'png'))
    logging.info('%s', path)
  # The page embeds SVG, so it is one file without links to images.
  svgs = {name: style.image(image, 'svg') for name, image in drawings.items()}
  path = page.write_report(workdir / 'report.html', contents, svgs)
  logging.info('%s: complete', path)
  return path


def _inputs(
  saved: _Saved, workdir: pathlib.Path, burn_in: int
) -> inputs.Inputs:
  estimates = llc.llc_from_traces(saved.traces, burn_in=burn_in)
  return inputs.Inputs(
    estimates=estimates,
    traces=saved.traces,
    training=saved.training,
    corpus=saved.corpus,
    burn_in=burn_in,
    provenance=_provenance(saved, workdir),
    variances=gains.measure(saved.traces, estimates, burn_in=burn_in),
    known_answers=saved.known_answers,
    coverage=saved.coverage,
    readings=saved.readings,
    findings=saved.claims.get('findings', []),
    runs=saved.runs,
  )


def _read(workdir: pathlib.Path) -> _Saved:
  for part, binary in (
    ('corpus/corpus.json', 'build_corpus'),
    ('train/training.zarr', 'train'),
    ('rllc/run.json', 'estimate_rllc'),
  ):
    if not (workdir / part).exists():
      raise ValueError(
        f'{workdir / part} was expected, because the report is made of saved '
        f'results; got no such file. Run experiments.{binary} first.'
      )
  corpus = packing.load_record(workdir / 'corpus')
  training = records.load_record(workdir / 'train' / 'training.zarr')
  saved = _Saved(
    corpus,
    training,
    disk.open_store(workdirs.store_place(workdir / 'rllc')).read(),
    _load_json(workdir / 'known_answers.json', 'records').get('records', []),
    _load_json(workdir / 'coverage.json', 'records').get('records', []),
    _load_readings(workdir / 'analysis.zarr'),
    _load_json(workdir / 'claims.json', 'findings'),
    provenance.load(workdir / 'rllc'),
  )
  _check_one_run(saved, workdir)
  return saved


def _load_readings(path: pathlib.Path) -> xr.Dataset | None:
  return records.load_record(path) if path.exists() else None


def _load_json(path: pathlib.Path, name: str) -> dict[str, Any]:
  """Results of another command; {} if it has not been run."""
  if not path.exists():
    return {}
  remedy = f'Run experiments.{path.stem} again, or remove the file.'
  return checked_files.read_json(path, [name], remedy)


def _check_one_run(saved: _Saved, workdir: pathlib.Path) -> None:
  """Raises if a result is of another run, by its tokens and seed."""
  record = workdir / 'train' / 'training.zarr'
  # Files may have been copied between workdirs: each result has its identity.
  trained = json.loads(saved.training.attrs['identity'])
  identities = {
    'corpus/corpus.json': trained | {'tokens': saved.corpus['tokens_hash']}
  }
  if saved.readings is not None:
    identities['analysis.zarr'] = json.loads(saved.readings.attrs['identity'])
  if saved.claims:
    identities['claims.json'] = saved.claims
  for name, identity in identities.items():
    for entry in ('tokens', 'seed'):
      if identity.get(entry) != trained[entry]:
        raise ValueError(
          f'{workdir / name} must be of the same run as {record}, because one '
          f'run is reported; got {entry} {identity.get(entry)} and '
          f'{trained[entry]}. Put back the right one, or remove what is not of '
          'this run and run what wrote it again.'
        )


def _provenance(saved: _Saved, workdir: pathlib.Path) -> dict[str, Any]:
  """Settings and versions that the numbers were made with, as saved."""
  trained = json.loads(saved.training.attrs['identity'])
  sampled = json.loads(saved.traces.attrs['identity'])
  made_with = sorted(set(saved.traces.made_with.values.ravel()) - {''})
  has_table = (workdir / 'estimates.csv').exists()
  numbers = ('sampler', 'batch', 'data', 'rng_key', 'matmul_precision')
  return {
    'corpus': {
      **saved.corpus['provenance'].get('settings', {}),
      'tokens hash': saved.corpus['tokens_hash'],
    },
    'training': {
      **{name: trained[name] for name in ('seed', 'batch_size', 'num_steps')},
      **trained['settings'],
    },
    'estimates': {
      **{name: sampled[name] for name in numbers},
      **sampled['provenance'],
      'made with': '; '.join(made_with),
      **({'as a table': 'estimates.csv'} if has_table else {}),
    },
    'report made with': {
      'python': platform.python_version(),
      **{name: _version(name) for name in _PACKAGES},
    },
  }


def _version(package: str) -> str:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:  # Such as a checkout on PYTHONPATH.
    return 'not installed as a package'


if __name__ == '__main__':
  commands.start(run)
