"""Tests the paper's claims on training runs of several seeds.

  python -m experiments.claims --workdir=DIR --language=planted --seed=0

makes or resumes `experiments.study` of a language and a seed in
`DIR/planted-0`, and writes the finding for each claim to `claims.json` there.
Then it prints the verdicts over all such files in DIR; without --language it
only prints these. `experiments.paper.claims` describes the statistics, their
null values and the choices made before any run.

  python -m experiments.claims --workdir=experiments/results

prints the verdicts on the files of this repository.

Exit status: 0 if every claim holds in every language; 1 if one does not hold,
cannot be decided or is withdrawn. Withdrawn claims have no value and no
verdict; the note gives the reason.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
import pathlib
import time
from typing import Any

from absl import flags
from absl import logging
import jax
import numpy as np

from experiments import report
from experiments.checks import known_answers
from experiments.configs import code
from experiments.configs import mini_pile
from experiments.configs import planted
from experiments.configs import planted2
from experiments.paper import claims
from experiments.paper import evidence
from experiments.paper import study
from experiments.runtime import commands
from experiments.runtime import seed_flag
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.training import checkpoints

# By language: its config, and the data set that is used as code.
LANGUAGES = {
  'code': (code.get_config, 'train_twice'),
  'planted2': (planted2.get_config, 'held_out/planted2_repeats'),
  'planted': (planted.get_config, 'held_out/planted_repeats'),
  'mini_pile': (mini_pile.get_config, 'train/stdlib_code'),
}

_REMEDY = (
  'Put back a copy, or run experiments.claims of its language and seed again.'
)

flags.adopt_module_key_flags(seed_flag)
_LANGUAGE = flags.DEFINE_enum(
  'language', None, list(LANGUAGES), 'Language to make a study of.'
)


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Makes the study of --language, if set, and returns all verdicts."""
  if _LANGUAGE.value:
    examine(_LANGUAGE.value, seed_flag.SEED.value, workdir)
  return verdicts(workdir)


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
  get_config, other = LANGUAGES[language]
  config = get_config()
  config.seed = seed
  directory = workdir / f'{language}-{seed}'
  failure = None
  try:
    study.run(config, directory)
  except commands.ChainsFailed as error:
    failure = error  # Raised at the end: findings use the remaining chains.
  findings = claims.findings(gather(directory, config, other))
  seconds = time.perf_counter() - began
  record = {
    'language': language,
    'seed': seed,
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'tokens': packing.load_record(directory / 'corpus')['tokens_hash'],
    'findings': [_to_json(finding) for finding in findings],
  }
  checked_files.write_json(directory / 'claims.json', record)
  logging.info('%s: %.0f s\n%s', directory, seconds, _table(findings))
  report.run(config, directory)
  if failure:
    raise failure


def gather(
  directory: pathlib.Path, config: Any, other: str
) -> evidence.Evidence:
  """Collects the results of a study as evidence for the claims.

  Args:
    directory: of the study.
    config: of the study.
    other: the data set that is used as code.
  """
  last = checkpoints.steps(directory / 'train' / 'checkpoints')[-1]
  draws = llc.by_draw(study.traces(directory, 'rllc'))
  names = [name for name, _ in study.estimations(config, last)]
  swept = [
    llc.by_draw(study.traces(directory, name)).mean('draw')[0, 0].values
    for name in names
    if name.startswith('sweep')
  ]
  known_rows = known_answers.run(directory, quick=True)
  return evidence.Evidence(
    draws=draws,
    reference=llc.by_draw(study.traces(directory, 'reference')),
    swept=np.stack(swept),
    readings=study.readings(directory),
    code=other,
    known_answers=[row.holds for row in known_rows if row.holds is not None],
  )


def verdicts(workdir: pathlib.Path) -> list[targets.Row]:
  """Judges each claim in each language over all seeds.

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
  rows = []
  for claim in claims.STATEMENTS:
    for language in LANGUAGES:
      by_seed = {
        record['seed']: finding
        for record in records
        if record['language'] == language
        for finding in map(_from_json, record['findings'])
        if finding.claim == claim
      }
      if by_seed:
        rows.append(_row(claim, language, by_seed))
  return rows


def _row(claim, language, by_seed) -> targets.Row:
  findings = list(by_seed.values())
  ratios = [_ratio(x) for x in findings]
  # The result of min() would depend on the position of a NaN.
  smallest = math.nan if np.isnan(ratios).any() else min(ratios)
  reasons = claims.withdrawn(claim)
  words = [f'seed {seed}: {_words(x)}' for seed, x in by_seed.items()]
  # One seed decides nothing.
  holds = claims.verdict(findings) if len(findings) > 1 else None
  if reasons:
    smallest = math.nan  # A reader would take a number for a verdict.
    words = [
      reasons,
      *(f'seed {seed}: {_size(x)}' for seed, x in by_seed.items()),
    ]
  elif holds is None:
    words.insert(0, 'cannot be told')
  if len(findings) < 2:
    words.append('one seed only')
  statement = claims.STATEMENTS[claim]
  return targets.Row(
    f'{claim} {language}: {statement}',
    smallest,
    'errors',
    '> 2 in every seed',
    holds,
    '; '.join(words),
  )


def _ratio(finding: evidence.Finding) -> float:
  if finding.error:
    return finding.effect / finding.error
  # Without an error (C11) the sign alone decides.
  return math.copysign(math.inf, finding.effect)


def _words(finding: evidence.Finding) -> str:
  return f'{_size(finding)} ({finding.note})'


def _size(finding: evidence.Finding) -> str:
  if not math.isfinite(finding.effect):
    return 'not measured'
  unit = f' {finding.unit}' if finding.unit else ''
  return f'{finding.effect:.3g} ± {finding.error:.2g}{unit}'


def _table(findings: Sequence[evidence.Finding]) -> str:
  return '\n'.join(
    f'  {x.claim:4} {claims.STATEMENTS[x.claim]}: {_words(x)}' for x in findings
  )


def _to_json(finding: evidence.Finding) -> dict[str, Any]:
  """Converts a finding to JSON, which has no NaN: None stands for it."""
  item = finding._asdict()
  for name in ('effect', 'error'):
    item[name] = item[name] if math.isfinite(item[name]) else None
  item['statement'] = claims.STATEMENTS[finding.claim]
  item['holds'] = claims.verdict([finding])
  return item


def _from_json(item: Mapping[str, Any]) -> evidence.Finding:
  """Restores a finding from the result of `_to_json`."""
  values = [item[name] for name in evidence.Finding._fields]
  finding = evidence.Finding(*values)
  effect, error = (
    math.nan if value is None else value
    for value in (finding.effect, finding.error)
  )
  return finding._replace(effect=effect, error=error)


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/claims')
