"""Kills training and estimation at random moments and compares the results.

  python -m experiments.kills --kills=200 --workdir=DIR

makes the smoke preset once without interruption. Then it repeats the training
on the same corpus, and the estimates on the same checkpoints. Every process
gets a SIGKILL at a random moment, and the next one resumes, until a process
ends by itself. Half of the kills must hit a training and half of them
estimates. Losses, weights of all checkpoints and traces must equal those of the
first run, bit for bit.

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
    needs: subdirectories that earlier commands made.
    has_begun: true of a workdir with a state from which the command resumes.
    result: loads what the command made, for comparison.
  """

  needs: tuple[str, ...]
  has_begun: Callable[[pathlib.Path], bool]
  result: Callable[[pathlib.Path], Any]


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Kills and resumes both commands, and compares; see the module.

  Raises:
    ValueError: if a run fails that was not killed.
  """
  undisturbed = workdir / 'whole'
  for name in ('build_corpus', *_COMMANDS):
    _wait(_start(name, undisturbed))
  return [
    row for name in _COMMANDS for row in _rows(name, workdir, undisturbed)
  ]


def _rows(
  name: str, workdir: pathlib.Path, undisturbed: pathlib.Path
) -> list[targets.Row]:
  command = _COMMANDS[name]
  rng = np.random.default_rng([seed_flag.SEED.value, len(command.needs)])
  seconds = _time(
    name, _prepare(workdir / f'{name}_timed', command, undisturbed)
  )
  expected, target = command.result(undisturbed), _KILLS.value / 2
  kills: list[bool] = []
  runs = different = 0
  while len(kills) < target:
    resumed = _prepare(workdir / f'{name}_{runs}', command, undisturbed)
    kills += _kill_until_done(name, resumed, seconds, rng)
    different += command.result(resumed) != expected
    runs += 1
    logging.info('%s: %d kills in %d runs', name, len(kills), runs)
  begun = f'{sum(kills)} with something to go on from'
  ended = f'of {runs}, bit for bit'
  return [
    targets.Row(
      f'kills of {name}', len(kills), '', f'>= {target:g}', True, begun
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


def _prepare(
  workdir: pathlib.Path, command: Command, undisturbed: pathlib.Path
) -> pathlib.Path:
  """Makes a workdir with links to the inputs of a command."""
  workdir.mkdir(parents=True, exist_ok=True)
  for name in command.needs:
    if not (workdir / name).exists():
      (workdir / name).symlink_to((undisturbed / name).resolve())
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
    # A shared cache, so that most kills don't fall into compilation.
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(compiled)},
  )


def _wait(process: subprocess.Popen, timeout: float | None = None) -> None:
  """Waits for a process that must succeed."""
  errors = process.communicate(timeout=timeout)[1]
  if process.returncode:
    raise ValueError(
      'A run that was not killed must succeed, because the others are compared '
      f'with it; got exit status {process.returncode}: {errors[-300:]}.'
    )


def _time(name: str, workdir: pathlib.Path) -> float:
  began = time.perf_counter()
  _wait(_start(name, workdir))
  return time.perf_counter() - began


def _kill_until_done(
  name: str, workdir: pathlib.Path, seconds: float, rng: np.random.Generator
) -> Iterator[bool]:
  """Runs a command until it is done, killing its processes.

  Yields:
    For every kill, True if a state was saved before it.
  """
  while True:
    process = _start(name, workdir)
    try:
      # Uniform over the time of an undisturbed run.
      _wait(process, timeout=rng.uniform(0, seconds))
      return
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
      process.communicate()
      # The process may have ended between its time and the signal.
      if process.returncode == -signal.SIGKILL:
        yield _COMMANDS[name].has_begun(workdir)


def _has_state(workdir: pathlib.Path) -> bool:
  """True if a complete state of a later step than 0 is saved."""
  resume = workdir / 'train' / 'resume'
  return resume.exists() and any(checkpoints.steps(resume))


def training_result(workdir: pathlib.Path) -> Any:
  """Losses and checkpoints of a training run, for comparison bit for bit."""
  record = records.load_record(workdir / 'train' / 'training.zarr')
  trajectory = checkpoints.trajectory(workdir / 'train' / 'checkpoints')
  weights = trees.content_hash(trajectory.load(trajectory.steps))
  return record.loss.values.tolist(), trajectory.steps, weights


def _traces(workdir: pathlib.Path) -> Any:
  traces = disk.open_store(workdir / 'rllc').read()
  return {name: array.values.tobytes() for name, array in traces.items()}


_COMMANDS = {
  'train': Command(('corpus',), _has_state, training_result),
  'estimate_rllc': Command(
    ('corpus', 'train'),
    lambda workdir: any(workdir.glob('rllc/traces/*.safetensors')),
    _traces,
  ),
}


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/kills')
