"""Final wrLLC of induction heads, by repeats and by what is to memorize.

  python -m experiments.repeats --workdir=DIR

In the paper induction heads end with lower wrLLCs than multigram heads (claim
C3). Two explanations are told apart here: the share of text that repeats
itself, and how much there is to memorize. Small models learn planted languages
that differ in one of these alone, four seeds each; heads are measured at the
end. The table has the difference of C3, pooled over seeds, for each language.

Each language and seed has a directory in DIR, from which a stopped command goes
on, with its effect in `effect.json`.
"""

import math
import pathlib

from absl import logging
import numpy as np

from experiments import analyze
from experiments import build_corpus
from experiments import estimate_rllc
from experiments import train
from experiments.configs import planted2
from experiments.paper import claim_runs
from experiments.paper import claim_statistics
from experiments.paper import evidence
from experiments.paper import pooling
from experiments.paper import study
from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.data import synthetic
from rllc_jax.estimators import llc

# By language: what it is a point of, and where on that axis.
POINTS = {
  'planted2_repeats_2': ('share of repeats', 0.02),
  'planted2': ('share of repeats', 0.08),
  'planted2_repeats_20': ('share of repeats', 0.2),
  'planted2_repeats_40': ('share of repeats', 0.4),
  'planted2_words_32': ('words', 32),
  'planted2_words_128': ('words', 128),
}
SEEDS = 0, 1, 2, 3
_REMEDY = 'Remove it, and run the same command again.'


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Measures every language and seed that is missing, and pools all."""
  rows = []
  for language, (axis, value) in POINTS.items():
    effects = [effect(language, seed, workdir) for seed in SEEDS]
    pooled = pooling.pool(effects)
    share = synthetic.LANGUAGES[language].shares[-1]
    note = (
      f'[{pooled.low:.2g}, {pooled.high:.2g}] over {pooled.num_seeds} seeds; '
      f'{share:.0%} of segments repeat'
    )
    name = f'{axis} {value:g}: multigram less induction'
    rows.append(targets.Row(name, pooled.mean, 'rLLC', note=note))
  return rows


def effect(language: str, seed: int, workdir: pathlib.Path) -> float:
  """The effect of claim C3 in one run; NaN without either class of heads."""
  directory = workdir / f'{language}-{seed}'
  path = directory / 'effect.json'
  if path.exists():
    saved = checked_files.read_json(path, ('effect',), _REMEDY)['effect']
    return math.nan if saved is None else saved
  config = config_of(language, seed)
  claim_runs.share_with_siblings(directory)
  build_corpus.run(config, directory)
  train.run(config, directory)
  try:
    estimate_rllc.run(config, directory)
  except commands.ChainsFailed as error:
    logging.warning('%s: %s', directory, error)
  analyze.run(config, directory)
  heads = evidence.sort_heads(
    evidence.Evidence(
      estimates=llc.llc_from_traces(study.traces(directory, 'rllc')),
      reference=None,
      swept=np.zeros((0, 0)),
      readings=study.readings(directory),
      inductive='',
      known_answers=[],
    )
  )
  (finding,) = claim_statistics.induction_is_simple(heads)
  value = finding.effect if math.isfinite(finding.effect) else None
  record = {'effect': value, 'note': finding.note, 'classes': heads.classes}
  checked_files.write_json(path, record)
  logging.info('%s: %s (%s)', directory, value, finding.note)
  return finding.effect


def config_of(language: str, seed: int):
  """The config of a run: the second language's, measured at the end alone."""
  config = planted2.get_config()
  config.seed = seed
  last = (config.training.num_steps,)
  config.corpus.update(sources=(language,), further=())
  config.training.checkpoints = last
  config.estimation.update(checkpoints=last, late_datasets=())
  return config


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/repeats')
