"""Counts how many seeded faults of the library the tests catch.

  python -m experiments.checks.mutations --workdir=runs/mutations

changes one line of a copy of the repository at a time and runs the tests of its
package and tests/library_test.py until one fails. Mutations that survive these
are tested by all of `make test`. Lines are drawn by --seed, --number a package.

--repeat=FILE repeats the mutations of an earlier run, WORKDIR/mutations.json,
wherever their lines are now; those whose line is gone are replaced. --root is
the repository, by default this one; its environment, .venv, runs the tests.

A stopped run resumes. Exit status: 0 if at least --least mutations are caught.
"""

from collections.abc import Sequence
import json
import os
import pathlib
import shutil
import subprocess
import time
from typing import Any

from absl import flags
from absl import logging
import tqdm

from experiments.checks import mutation_sites as sites
from experiments.runtime import commands
from experiments.runtime import seed_flag
from experiments.runtime import targets

PACKAGES = (
  'samplers',
  'estimators',
  'refinement',
  'results',
  'data',
  'analysis',
)
_REPOSITORY = pathlib.Path(__file__).parents[2]
flags.adopt_module_key_flags(seed_flag)
_NUMBER = flags.DEFINE_integer('number', 11, 'Mutations of each package.')
_LEAST = flags.DEFINE_integer('least', 0, 'Mutations that must be caught.')
_REPEAT = flags.DEFINE_string('repeat', None, 'Mutations of an earlier run.')
_ROOT = flags.DEFINE_string(
  'root', str(_REPOSITORY), 'Repository that is mutated.'
)
_FAST = {
  'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'XLA_FLAGS': '--xla_backend_optimization_level=1 '
  '--xla_cpu_use_fusion_emitters=false '
  '--xla_cpu_parallel_codegen_split_count=1',
}
_PACKAGE_SECONDS, _ALL_SECONDS = 900, 2700  # A mutation may loop forever.


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Makes the mutations one by one; see the module.

  Raises:
    ValueError: if a package's tests fail on the code as it is.
  """
  root, workdir = pathlib.Path(_ROOT.value).resolve(), workdir.resolve()
  workdir.mkdir(parents=True, exist_ok=True)
  mutations = _load_or_draw(root, workdir / 'mutations.json')
  path = workdir / 'outcomes.jsonl'
  outcomes = _load_outcomes(path)
  copy = workdir / 'copy'
  _copy(root, copy)
  for package in PACKAGES:
    if ['as it is', package] not in [x[:2] for x in outcomes]:
      _check_as_it_is(root, copy, package)
      outcomes.append(_append(path, ['as it is', package, 'passes', 0.0]))
  for mutation in tqdm.tqdm(mutations, desc='mutations', disable=None):
    if not any(x[0] == mutation.name for x in outcomes):
      began = time.monotonic()
      outcome = _find_outcome(root, copy, mutation)
      seconds = round(time.monotonic() - began, 1)
      line = [mutation.name, mutation.package, outcome, seconds]
      logging.info('%s: %s', outcome, mutation)
      outcomes.append(_append(path, line))
  return _rows(mutations, outcomes)


def _load_or_draw(
  root: pathlib.Path, path: pathlib.Path
) -> list[sites.Mutation]:
  """The mutations of this run, with those of --repeat that still exist."""
  if not path.exists():
    earlier = []
    if _REPEAT.value:
      earlier = json.loads(pathlib.Path(_REPEAT.value).read_text())
    mutations = [
      mutation
      for package in PACKAGES
      for mutation in _draw_for_package(root, package, earlier)
    ]
    path.write_text(json.dumps([list(x) for x in mutations], indent=1))
  return [sites.Mutation(*x) for x in json.loads(path.read_text())]


def _draw_for_package(
  root: pathlib.Path, package: str, earlier: Sequence[Sequence[str]]
) -> list[sites.Mutation]:
  located = []
  for mutation in (sites.Mutation(*x) for x in earlier):
    if mutation.package == package:
      try:
        sites.locate(root, mutation)
        located.append(mutation)
      except LookupError:
        logging.info('gone: %s', mutation)
  # Another seed for replacements: the first one would draw the same lines.
  seed = seed_flag.SEED.value + bool(earlier)
  missing = _NUMBER.value - len(located)
  return located + sites.choose(root, package, max(0, missing), seed)


def _copy(root: pathlib.Path, copy: pathlib.Path) -> None:
  """Copies the tracked files, and the new ones that git does not ignore."""
  if copy.exists():
    shutil.rmtree(copy)
  listed = subprocess.run(
    ['git', 'ls-files', '--cached', '--others', '--exclude-standard', '-z'],
    cwd=root,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  for name in filter(None, listed.split('\0')):
    if (root / name).is_file():
      (copy / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(root / name, copy / name)


def _check_as_it_is(
  root: pathlib.Path, copy: pathlib.Path, package: str
) -> None:
  if _fails(root, copy, _tests_of(copy, package), _PACKAGE_SECONDS):
    raise ValueError(
      f'The tests of {package} must pass on {root} as it is, because a '
      'mutation counts as caught where they fail; got a failure.'
    )


def _find_outcome(
  root: pathlib.Path, copy: pathlib.Path, mutation: sites.Mutation
) -> str:
  """Names the tests that catch a mutation: 'package', 'all' or 'nothing'."""
  path, number = sites.locate(copy, mutation)
  text = path.read_text()
  path.write_text(sites.mutated(text, number, mutation.after))
  try:
    tests = _tests_of(copy, mutation.package)
    if _fails(root, copy, tests, _PACKAGE_SECONDS):
      return 'package'
    return 'all' if _fails(root, copy, [], _ALL_SECONDS) else 'nothing'
  finally:
    path.write_text(text)


def _tests_of(copy: pathlib.Path, package: str) -> list[str]:
  names = (f'tests/{package}', f'rllc_jax/{package}', 'tests/library_test.py')
  return [name for name in names if (copy / name).exists()]


def _fails(
  root: pathlib.Path, copy: pathlib.Path, tests: Sequence[str], seconds: float
) -> bool:
  """True if tests fail, or do not end in time."""
  command = [str(root / '.venv' / 'bin' / 'python'), '-m', 'pytest', '-q', '-x']
  command += ['-n', '2', '--dist', 'worksteal', *tests]
  environment = os.environ | _FAST
  environment['JAX_COMPILATION_CACHE_DIR'] = str(copy.parent / 'compiled')
  environment['PYTHONPATH'] = str(copy)  # Precedes the installed package.
  process = subprocess.Popen(
    command,
    cwd=copy,
    env=environment,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,  # To end pytest's workers with it.
  )
  try:
    return process.wait(seconds) != 0
  except subprocess.TimeoutExpired:
    return True
  finally:
    _end_group(process)


def _end_group(process: subprocess.Popen) -> None:
  """Ends a process and all of its children."""
  try:
    os.killpg(process.pid, 9)
  except ProcessLookupError:
    pass
  process.wait()


def _append(path: pathlib.Path, line: list[Any]) -> list[Any]:
  # A line at a time, so that a stopped run resumes at the next mutation.
  with path.open('a') as file:
    file.write(json.dumps(line) + '\n')
  return line


def _load_outcomes(path: pathlib.Path) -> list[list[Any]]:
  text = path.read_text() if path.exists() else ''
  return [json.loads(line) for line in text.splitlines()]


def _rows(
  mutations: Sequence[sites.Mutation], outcomes: Sequence[Sequence[Any]]
) -> list[targets.Row]:
  outcome = {line[0]: line[2] for line in outcomes}
  rows = []
  for package in PACKAGES:
    results = [outcome[x.name] for x in mutations if x.package == package]
    caught = len(results) - results.count('nothing')
    note = f'of {len(results)}; {results.count("package")} by its own tests'
    rows.append(targets.Row(f'{package}: caught', caught, '', '', None, note))
  caught = sum(outcome[x.name] != 'nothing' for x in mutations)
  least = _LEAST.value
  target = f'at least {least}'
  note = f'of {len(mutations)}'
  rows.append(targets.Row('caught', caught, '', target, caught >= least, note))
  return rows


if __name__ == '__main__':
  commands.start_targets(run, 'runs/mutations')
