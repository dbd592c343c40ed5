"""Tests the paper's claims on training runs of several seeds.

  python -m experiments.claims --workdir=DIR --language=code --seed=0

makes or resumes `experiments.study` of a language and a seed in `DIR/code-0`,
and writes the finding for each claim to `claims.json` there, and the curves of
its heads to `curves.csv`. Then it prints the verdicts over all such files in
DIR; without --language it only prints these. `experiments.paper.claims`
describes the statistics, `experiments.paper.pooling` how seeds are put
together.

  python -m experiments.claims --workdir=experiments/results

prints the verdicts on the files of this repository. With --power it prints how
often eight seeds would decide each claim, by simulation, at the spread between
the seeds that there are.

Exit status: 0 if every claim is true in every language; 1 if one is false or
cannot be told.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
import pathlib
import shutil
import time
from typing import Any

from absl import flags
from absl import logging
import jax
import numpy as np
import xarray as xr

from experiments import report
from experiments.checks import known_answers
from experiments.configs import code
from experiments.configs import planted2
from experiments.paper import claims
from experiments.paper import evidence
from experiments.paper import pooling
from experiments.paper import study
from experiments.runtime import commands
from experiments.runtime import seed_flag
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.training import checkpoints

# By language: its config, and the data set where induction helps more.
LANGUAGES = {
  'code': (code.get_config, 'train_twice'),
  'planted2': (planted2.get_config, 'held_out/planted2_repeats'),
}
_SEEDS = 8  # Of a whole study, for --power.

_REMEDY = (
  'Put back a copy, or run experiments.claims of its language and seed again.'
)

flags.adopt_module_key_flags(seed_flag)
_LANGUAGE = flags.DEFINE_enum(
  'language', None, list(LANGUAGES), 'Language to make a study of.'
)
_POWER = flags.DEFINE_bool('power', False, 'Print how often 8 seeds decide.')


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Makes the study of --language, if set, and returns all verdicts."""
  if _LANGUAGE.value:
    examine(_LANGUAGE.value, seed_flag.SEED.value, workdir)
  effects = read_effects(workdir)
  if _POWER.value:
    return power(effects)
  print(legend(effects), flush=True)
  return verdicts(effects)


def examine(language: str, seed: int, workdir: pathlib.Path) -> None:
  """Makes a study, its findings and its report.

  Args:
    language: a key of `LANGUAGES`.
    seed: of everything.
    workdir: of all studies.

  Raises:
    ChainsFailed: at the end, if chains failed.
  """
  began = time.perf_counter()
  get_config, inductive = LANGUAGES[language]
  config = get_config()
  config.seed = seed
  directory = workdir / f'{language}-{seed}'
  share_with_siblings(directory)
  failure = None
  try:
    study.run(config, directory)
  except commands.ChainsFailed as error:
    failure = error  # Raised at the end: findings use the remaining chains.
  run_evidence = gather(directory, config, inductive)
  heads = evidence.sort_heads(run_evidence)
  findings = claims.findings(run_evidence)
  record = {
    'language': language,
    'seed': seed,
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'tokens': packing.load_record(directory / 'corpus')['tokens_hash'],
    'classes': heads.classes,
    'findings': [_to_json(finding) for finding in findings],
  }
  checked_files.write_json(directory / 'claims.json', record)
  _write_curves(directory / 'curves.csv', run_evidence.estimates)
  seconds = time.perf_counter() - began
  logging.info('%s: %.0f s\n%s', directory, seconds, _table(findings))
  report.run(config, directory)
  if failure:
    raise failure


# What does not depend on the seed, and the file that is written last.
_SHARED = {'corpus': 'corpus.json', study.REFERENCE: 'training.zarr'}


def share_with_siblings(directory: pathlib.Path) -> None:
  """Copies what is the same for all seeds from a study LANGUAGE-SEED beside.

  The binaries check that it is what they would have made.
  """
  language = directory.name.rsplit('-', 1)[0]
  for name, last in _SHARED.items():
    siblings = sorted(directory.parent.glob(f'{language}-*/{name}/{last}'))
    if siblings and not (directory / name).exists():
      directory.mkdir(parents=True, exist_ok=True)
      unfinished = directory / f'{name}{checked_files.UNFINISHED}'
      shutil.rmtree(unfinished, ignore_errors=True)
      shutil.copytree(siblings[0].parent, unfinished)
      unfinished.rename(directory / name)


def gather(
  directory: pathlib.Path, config: Any, inductive: str
) -> evidence.Evidence:
  """Collects the results of a study as evidence for the claims.

  Args:
    directory: of the study.
    config: of the study.
    inductive: the data set where induction helps more.
  """
  last = checkpoints.steps(directory / 'train' / 'checkpoints')[-1]
  estimates_of = lambda name: llc.llc_from_traces(
    study.traces(directory, name)
  ).sortby('checkpoint')
  names = [name for name, _ in study.estimations(config, last)]
  swept = [
    estimates_of(name).llc[0, 0].values
    for name in names
    if name.startswith('sweep')
  ]
  known_rows = known_answers.run(directory, quick=True)
  return evidence.Evidence(
    estimates=estimates_of('rllc'),
    reference=estimates_of('reference') if 'reference' in names else None,
    swept=np.stack(swept),
    readings=study.readings(directory),
    inductive=inductive,
    known_answers=[row.holds for row in known_rows if row.holds is not None],
  )


def _write_curves(path: pathlib.Path, estimates: xr.Dataset) -> None:
  """Writes estimates and errors of all heads: a line a cell that there is."""
  columns = ['llc', 'standard_error', 'healthy']
  kept = [name for name in columns if name in estimates]
  frame = estimates[kept].to_dataframe().dropna(subset=['llc'])
  text = frame.reset_index().to_csv(index=False, float_format='%.5g')
  checked_files.write_bytes(path, text.encode())


# Effects by (claim, language) and seed; NaN where one was not measured.
Effects = Mapping[tuple[str, str], Mapping[int, float]]


def read_effects(workdir: pathlib.Path) -> Effects:
  """Effects of all studies, in the order of the claims.

  Args:
    workdir: with subdirectories that hold `claims.json`.

  Raises:
    ValueError: if there is none, or one is damaged.
  """
  records = [
    checked_files.read_json(path, ('language', 'seed', 'findings'), _REMEDY)
    for path in sorted(workdir.glob('*/claims.json'))
  ]
  if not records:
    raise ValueError(
      f'{workdir} must have studies with a claims.json, to judge by; got none. '
      'Make one with --language and --seed.'
    )
  effects: dict[tuple[str, str], dict[int, float]] = {}
  for claim in claims.CLAIMS:
    for language in LANGUAGES:
      by_seed = {
        record['seed']: math.nan if item['effect'] is None else item['effect']
        for record in records
        if record['language'] == language
        for item in record['findings']
        if item['claim'] == claim
      }
      if by_seed:
        effects[claim, language] = by_seed
  return effects


def verdicts(effects: Effects) -> list[targets.Row]:
  """Judges each claim in each language where a seed measured it."""
  rows = []
  for (claim, language), by_seed in effects.items():
    pooled = pooling.pool(list(by_seed.values()))
    if not pooled.num_seeds:
      continue  # `legend` names it.
    _, least, unit = claims.CLAIMS[claim]
    word = pooling.verdict(pooled, least)
    holds = {pooling.TRUE: True, pooling.FALSE: False}.get(word)
    seeds = f'{pooled.num_seeds} seed{"s" * (pooled.num_seeds > 1)}'
    note = f'{word}: [{pooled.low:.2g}, {pooled.high:.2g}], '
    note += f'p {pooled.p:.2g}, {seeds}'
    target = f'> 0, least {least:g}'
    rows.append(
      targets.Row(f'{claim} {language}', pooled.mean, unit, target, holds, note)
    )
  return rows


def legend(effects: Effects) -> str:
  """The claims in words, and where they were not measured."""
  lines = [f'{name:4} {x.statement}' for name, x in claims.CLAIMS.items()]
  absent = [
    ' on '.join(key)
    for key, by_seed in effects.items()
    if not pooling.pool(list(by_seed.values())).num_seeds
  ]
  if absent:
    lines.append(f'not measured: {", ".join(absent)}')
  return '\n'.join(lines)


def power(effects: Effects) -> list[targets.Row]:
  """Simulates eight seeds of each claim, at the spread between those there."""
  rows = []
  for (claim, language), by_seed in effects.items():
    pooled = pooling.pool(list(by_seed.values()))
    if pooled.num_seeds < 2:
      continue
    least = claims.CLAIMS[claim].least
    rates = pooling.power(pooled.spread, least, _SEEDS)
    note = (
      f'true at {2 * least:g}: {rates.true_if_strong:.0%}, at {least:g}: '
      f'{rates.true_if_least:.0%}; false at 0: {rates.false_if_none:.0%}'
    )
    name = f'{claim} {language}, spread of {pooled.num_seeds} seeds'
    rows.append(
      targets.Row(name, pooled.spread, claims.CLAIMS[claim].unit, note=note)
    )
  return rows


def _table(findings: Sequence[evidence.Finding]) -> str:
  lines = []
  for claim, effect, error, note in findings:
    size = f'{effect:.3g}' if math.isfinite(effect) else 'not measured'
    size += f' ± {error:.2g}' if math.isfinite(error) else ''
    statement, _, unit = claims.CLAIMS[claim]
    lines.append(f'  {claim:4} {statement}: {size} {unit} ({note})')
  return '\n'.join(lines)


def _to_json(finding: evidence.Finding) -> dict[str, Any]:
  """Converts a finding to JSON, which has no NaN: None stands for it."""
  item = finding._asdict()
  for name in ('effect', 'error'):
    item[name] = item[name] if math.isfinite(item[name]) else None
  claim = claims.CLAIMS[finding.claim]
  return item | {'statement': claim.statement, 'unit': claim.unit}


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/claims')
