"""Kills training and estimation at random moments, until they are done.

  python -m experiments.kills --kills=200 --workdir=DIR

makes the smoke preset once without interruption. Then it does the same again
and again from its corpus, with a SIGKILL at a random moment of every process,
until so many kills have hit one, half of them training and half of them
estimates; a run that survives its moment is done. Losses of training and all
traces must be those of the first run, bit for bit.

Exit status: 0 if they are.
"""

from collections.abc import Iterator
import os
import pathlib
import signal
import subprocess
import sys
import time

from absl import flags
from absl import logging
import numpy as np
import xarray as xr

from experiments import commands
from experiments import seed_flag
from experiments import targets
from rllc_jax.results import disk
from rllc_jax.training import checkpoints
from rllc_jax.training import records

flags.adopt_module_key_flags(seed_flag)
_KILLS = flags.DEFINE_integer('kills', 20, 'Kills that must hit a process.')
_ROOT = pathlib.Path(__file__).parent.parent
# Whether a workdir has something that a step goes on from.
_STEPS = {
  'train': lambda workdir: any(_kept(workdir / 'train' / 'resume')),
  'estimate_rllc': lambda workdir: any(workdir.glob('rllc/blocks/*.npz')),
}
_SETTINGS = (
  '--config=experiments/configs/smoke.py',
  "--config.corpus.sources=('kjv',)",
  '--config.corpus.further=()',
  '--config.training.num_steps=200',
  '--config.training.resume_every=16',
  '--config.estimation.num_draws=40',
)


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Kills, goes on and compares; see the module.

  Raises:
    ValueError: if a run fails that was not killed.
  """
  rng = np.random.default_rng(seed_flag.SEED.value)
  whole, rounds, different = workdir / 'whole', 0, 0
  kills: dict[str, list[bool]] = {name: [] for name in _STEPS}
  for name in ('build_corpus', *_STEPS):
    _wait(_start(name, whole))
  expected = _results(whole)
  timed = _with_corpus(workdir / 'timed', whole)
  seconds = {name: _timed(name, timed) for name in _STEPS}
  while min(map(len, kills.values())) < _KILLS.value / 2:
    again = _with_corpus(workdir / f'again_{rounds}', whole)
    for name in _STEPS:
      kills[name] += _killed(name, again, seconds[name], rng)
    different += not all(map(xr.Dataset.equals, _results(again), expected))
    rounds += 1
    counts = {name: len(found) for name, found in kills.items()}
    logging.info('%s kills in %d rounds', counts, rounds)
  return [
    *(
      targets.Row(
        f'kills of {name}',
        len(found),
        '',
        f'>= {_KILLS.value / 2:g}',
        True,
        f'{sum(found)} with something to go on from',
      )
      for name, found in kills.items()
    ),
    targets.Row(
      'runs that end otherwise',
      different,
      '',
      '0',
      not different,
      f'of {rounds}, bit for bit',
    ),
  ]


def _with_corpus(workdir: pathlib.Path, whole: pathlib.Path) -> pathlib.Path:
  """A workdir, new or gone on with, that has the corpus of another."""
  workdir.mkdir(parents=True, exist_ok=True)
  if not (workdir / 'corpus').exists():
    (workdir / 'corpus').symlink_to((whole / 'corpus').resolve())
  return workdir


def _start(name: str, workdir: pathlib.Path) -> subprocess.Popen:
  compiled = workdir.parent.resolve() / 'compiled'
  command = [sys.executable, '-m', f'experiments.{name}']
  return subprocess.Popen(
    [*command, f'--workdir={workdir.resolve()}', *_SETTINGS],
    cwd=_ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
    # All runs find what one of them compiled: most of a run is not compilation.
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(compiled)},
  )


def _wait(process: subprocess.Popen, timeout: float | None = None) -> None:
  """Waits for a process that must succeed."""
  said = process.communicate(timeout=timeout)[1]
  if process.returncode:
    raise ValueError(
      'A run that was not killed must succeed, because the others are compared '
      f'with it; got exit status {process.returncode}: {said[-300:]}.'
    )


def _timed(name: str, workdir: pathlib.Path) -> float:
  began = time.perf_counter()
  _wait(_start(name, workdir))
  return time.perf_counter() - began


def _killed(
  name: str, workdir: pathlib.Path, seconds: float, rng: np.random.Generator
) -> Iterator[bool]:
  """Runs a command until it is done.

  Yields:
    For every kill on the way, whether it left something to go on from.
  """
  while True:
    process = _start(name, workdir)
    try:
      _wait(process, timeout=rng.uniform(0, seconds))
      return
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.communicate()
      if process.returncode == -signal.SIGKILL:
        yield _STEPS[name](workdir)


def _kept(resume: pathlib.Path) -> tuple[int, ...]:
  """Steps of whole states; one that is half written does not count."""
  return checkpoints.steps(resume) if resume.exists() else ()


def _results(workdir: pathlib.Path) -> tuple[xr.Dataset, xr.Dataset]:
  record = records.load_record(workdir / 'train' / 'training.zarr')
  traces = disk.open_store(workdir / 'rllc').read().load()
  return record.drop_attrs(), traces.drop_attrs()


if __name__ == '__main__':
  commands.start_targets(run, 'runs/kills')
