"""Kills training and estimation at random moments, until they are done.

  python -m experiments.kills --kills=200 --workdir=DIR

makes the smoke preset once without interruption. Then it trains again and
again on the same corpus, and estimates on the same checkpoints, with a SIGKILL
at a random moment of every process, until half of the kills have hit a training
and half of them estimates; a run that survives its moment is done.
Losses, weights of all checkpoints and traces must be those of the first run,
bit for bit.

Exit status: 0 if they are.
"""

from collections.abc import Callable
from collections.abc import Iterator
import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

from absl import flags
from absl import logging
import numpy as np

from experiments.runtime import commands
from experiments.runtime import seed_flag
from experiments.runtime import targets
from rllc_jax import trees
from rllc_jax.results import disk
from rllc_jax.training import checkpoints
from rllc_jax.training import records

flags.adopt_module_key_flags(seed_flag)
_KILLS = flags.DEFINE_integer('kills', 20, 'Kills that must hit a process.')
_ROOT = pathlib.Path(__file__).parents[2]
_SETTINGS = (
  '--config=experiments/configs/smoke.py',
  "--config.corpus.sources=('kjv',)",
  '--config.corpus.further=()',
  '--config.training.num_steps=200',
  '--config.training.resume_every=16',
  '--config.sampling.num_draws=40',
)


class Command(NamedTuple):
  """A command that is killed.

  Attributes:
    needs: what earlier commands have made of a workdir.
    has_begun: whether a workdir has something that the command goes on from.
    result: what it made, to be compared.
  """

  needs: tuple[str, ...]
  has_begun: Callable[[pathlib.Path], bool]
  result: Callable[[pathlib.Path], Any]


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Kills, goes on and compares; see the module.

  Raises:
    ValueError: if a run fails that was not killed.
  """
  whole = workdir / 'whole'
  for name in ('build_corpus', *_COMMANDS):
    _wait(_start(name, whole))
  return [row for name in _COMMANDS for row in _rows(name, workdir, whole)]


def _rows(
  name: str, workdir: pathlib.Path, whole: pathlib.Path
) -> list[targets.Row]:
  command = _COMMANDS[name]
  rng = np.random.default_rng([seed_flag.SEED.value, len(command.needs)])
  seconds = _timed(name, _prepared(workdir / f'{name}_timed', command, whole))
  expected, least = command.result(whole), _KILLS.value / 2
  kills: list[bool] = []
  runs = different = 0
  while len(kills) < least:
    again = _prepared(workdir / f'{name}_{runs}', command, whole)
    kills += _killed(name, again, seconds, rng)
    different += command.result(again) != expected
    runs += 1
    logging.info('%s: %d kills in %d runs', name, len(kills), runs)
  begun = f'{sum(kills)} with something to go on from'
  ended = f'of {runs}, bit for bit'
  return [
    targets.Row(
      f'kills of {name}', len(kills), '', f'>= {least:g}', True, begun
    ),
    targets.Row(
      f'runs of {name} that end otherwise',
      different,
      '',
      '0',
      not different,
      ended,
    ),
  ]


def _prepared(
  workdir: pathlib.Path, command: Command, whole: pathlib.Path
) -> pathlib.Path:
  """A workdir, new or gone on with, that has what a command needs."""
  workdir.mkdir(parents=True, exist_ok=True)
  for name in command.needs:
    if not (workdir / name).exists():
      (workdir / name).symlink_to((whole / name).resolve())
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
        yield _COMMANDS[name].has_begun(workdir)


def _has_state(workdir: pathlib.Path) -> bool:
  """Whether there is a state: whole, and of a later step than 0."""
  resume = workdir / 'train' / 'resume'
  return resume.exists() and any(checkpoints.steps(resume))


def trained(workdir: pathlib.Path) -> Any:
  """Losses and checkpoints of a training run, to be compared bit for bit."""
  record = records.load_record(workdir / 'train' / 'training.zarr')
  kept = checkpoints.trajectory(workdir / 'train' / 'checkpoints')
  weights = trees.content_hash(kept.load(kept.steps))
  return record.loss.values.tolist(), kept.steps, weights


def _traces(workdir: pathlib.Path) -> Any:
  found = disk.open_store(workdir / 'rllc').read()
  return {name: array.values.tobytes() for name, array in found.items()}


_COMMANDS = {
  'train': Command(('corpus',), _has_state, trained),
  'estimate_rllc': Command(
    ('corpus', 'train'),
    lambda workdir: any(workdir.glob('rllc/blocks/*.npz')),
    _traces,
  ),
}


def main() -> None:
  """The command."""
  commands.start_targets(run, 'runs/kills')
