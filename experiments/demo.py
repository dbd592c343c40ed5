"""Runs everything from text to report: corpus, training, estimates, heads.

  python -m experiments.demo --config=experiments/configs/demo.py --workdir=DIR

Known answers are sampled for a few seconds, too. Each step continues from the
files in DIR, so the same command resumes a stopped run.

Exit status: 0; 1 if there is an error; 3 if chains failed: the report uses the
remaining ones.
"""

from collections.abc import Callable
import pathlib
import time
from typing import Any

from absl import logging
import ml_collections

from experiments import analyze
from experiments import build_corpus
from experiments import estimate_rllc
from experiments import export
from experiments import report
from experiments import train
from experiments.checks import known_answers
from experiments.runtime import commands
from experiments.runtime import processes
from experiments.runtime import workdirs


def check_known_answers(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Runs a few seconds of `known_answers`, unless its results exist."""
  del config
  if not (workdir / 'known_answers.json').exists():
    known_answers.run(workdir, quick=True)


def export_if_measured(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> None:
  """Exports the checkpoints where it is the exported ones that are measured."""
  if config.model.source == 'huggingface:exported':
    export.run(config, workdir)


STEPS: tuple[tuple[str, Callable[[Any, pathlib.Path], Any]], ...] = (
  ('corpus', build_corpus.run),
  ('training', train.run),
  ('export', export_if_measured),
  ('estimates', estimate_rllc.run),
  ('heads', analyze.run),
  ('known answers', check_known_answers),
  ('report', report.run),
)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Runs every step and prints the path of the report.

  Raises:
    ChainsFailed: at the end, if chains failed.
  """
  began, seconds = time.perf_counter(), {}
  path, failure = None, None
  for name, step in STEPS:
    start = time.perf_counter()
    logging.info('%s ...', name)
    try:
      path = step(config, workdir)
    except commands.ChainsFailed as error:
      failure = error  # Raised at the end: the report is worth having.
    seconds[name] = time.perf_counter() - start
    if name == 'estimates' and not processes.is_first():
      return  # The later steps run in process 0 alone.
  times = ', '.join(f'{name} {value:.0f} s' for name, value in seconds.items())
  logging.info('%.0f s in all: %s', time.perf_counter() - began, times)
  print(f'The report is at {workdirs.shown(path)}', flush=True)
  if failure:
    raise failure


if __name__ == '__main__':
  commands.start(run, processes.connect)
