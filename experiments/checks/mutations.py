"""Counts how many seeded faults of the library the tests catch.

  python -m experiments.checks.mutations --workdir=runs/mutations

changes one line of a copy of the repository at a time and runs the tests of its
package and tests/library_test.py until one fails. The mutations that survive
are then made together, all of `make test` runs once, and each one is tried
alone on the tests that failed. Lines are drawn by --seed, --number a package.

--repeat=FILE repeats the mutations of an earlier run, WORKDIR/mutations.json,
wherever their lines are now; those whose line is gone are replaced. --root is
the repository, by default this one; its environment, .venv, runs the tests.

A stopped run resumes. Exit status: 0 if at least --least mutations are caught.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
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
_PACKAGE_SECONDS, _ALL_SECONDS = 1800, 5400  # A mutation may loop forever.
_TEST_SEED = '0'  # Before and after, the same cases of a sampled test.


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Makes the mutations one by one; see the module.

  Raises:
    ValueError: if a package's tests fail on the code as it is.
  """
  root, workdir = pathlib.Path(_ROOT.value).resolve(), workdir.resolve()
  workdir.mkdir(parents=True, exist_ok=True)
  mutations = _load_or_draw(root, workdir / 'mutations.json')
  outcomes = _Outcomes(workdir / 'outcomes.jsonl')
  copy = workdir / 'copy'
  _copy(root, copy)
  for package in PACKAGES:
    outcomes.once(
      f'{package} as it is',
      lambda package=package: _check_as_it_is(root, copy, package),
    )
  survivors = []
  for mutation in tqdm.tqdm(mutations, desc='mutations', disable=None):
    if not outcomes.once(
      f'by its package: {mutation.name}',
      lambda mutation=mutation: _package_catches(root, copy, mutation),
    ):
      survivors.append(mutation)
  failed = outcomes.once(
    'failed together', lambda: _failed_together(root, copy, survivors)
  )
  for mutation in tqdm.tqdm(survivors, desc='survivors', disable=None):
    outcomes.once(
      f'by others: {mutation.name}',
      lambda mutation=mutation: (
        bool(failed) and _catches(root, copy, [mutation], failed)
      ),
    )
  return _rows(mutations, outcomes)


class _Outcomes:
  """Outcomes in a file, a line each, so that a stopped run resumes."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    text = path.read_text() if path.exists() else ''
    self._values = {
      name: value for name, value, _ in map(json.loads, text.splitlines())
    }

  def once(self, name: str, measure: Callable[[], Any]) -> Any:
    """Measures, unless the file holds it already."""
    if name not in self._values:
      began = time.monotonic()
      value = measure()
      line = [name, value, round(time.monotonic() - began, 1)]
      logging.info('%s', line)
      with self._path.open('a') as file:
        file.write(json.dumps(line) + '\n')
      self._values[name] = value
    return self._values[name]

  def catcher(self, mutation: sites.Mutation) -> str:
    """'package', 'others' or 'nothing'."""
    if self._values[f'by its package: {mutation.name}']:
      return 'package'
    caught = self._values[f'by others: {mutation.name}']
    return 'others' if caught else 'nothing'


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
) -> str:
  if _fails(root, copy, ['-x', *_tests_of(copy, package)], _PACKAGE_SECONDS):
    raise ValueError(
      f'The tests of {package} must pass on {root} as it is, because a '
      'mutation counts as caught where they fail; got a failure.'
    )
  return 'passes'


def _package_catches(
  root: pathlib.Path, copy: pathlib.Path, mutation: sites.Mutation
) -> bool:
  # The module's own tests first: they are the likeliest to fail.
  own = pathlib.Path('tests', *pathlib.Path(mutation.path).parts[1:])
  own = own.with_name(f'{own.stem}_test.py')
  tests = [str(own)] if (copy / own).exists() else []
  return _catches(
    root, copy, [mutation], tests + _tests_of(copy, mutation.package)
  )


def _failed_together(
  root: pathlib.Path, copy: pathlib.Path, mutations: Sequence[sites.Mutation]
) -> list[str]:
  """Tests that fail with all mutations, and pass without any."""
  if not mutations:
    return []
  with _mutated(copy, mutations):
    failed = _failed(root, copy, [])
  unmutated = _failed(root, copy, failed) if failed else []
  return sorted(set(failed) - set(unmutated))


def _failed(
  root: pathlib.Path, copy: pathlib.Path, tests: Sequence[str]
) -> list[str]:
  path = copy / '.pytest_cache' / 'v' / 'cache' / 'lastfailed'
  path.unlink(missing_ok=True)
  _fails(root, copy, tests, _ALL_SECONDS)
  return list(json.loads(path.read_text())) if path.exists() else []


def _catches(
  root: pathlib.Path,
  copy: pathlib.Path,
  mutations: Sequence[sites.Mutation],
  tests: Sequence[str],
) -> bool:
  with _mutated(copy, mutations):
    return _fails(root, copy, ['-x', *tests], _PACKAGE_SECONDS)


@contextlib.contextmanager
def _mutated(
  copy: pathlib.Path, mutations: Sequence[sites.Mutation]
) -> Iterator[None]:
  """Makes the mutations in the copy, and takes them back."""
  located = [
    (*sites.locate(copy, mutation), mutation) for mutation in mutations
  ]
  texts = {path: path.read_text() for path, _, _ in located}
  try:
    for path, number, mutation in located:
      text = path.read_text()
      path.write_text(sites.mutated(text, number, mutation.after))
    yield
  finally:
    for path, text in texts.items():
      path.write_text(text)


def _tests_of(copy: pathlib.Path, package: str) -> list[str]:
  names = (f'tests/{package}', f'rllc_jax/{package}', 'tests/library_test.py')
  return [name for name in names if (copy / name).exists()]


def _fails(
  root: pathlib.Path,
  copy: pathlib.Path,
  arguments: Sequence[str],
  seconds: float,
) -> bool:
  """True if tests fail, or do not end in time."""
  command = [str(root / '.venv' / 'bin' / 'python'), '-m', 'pytest', '-q']
  command += ['-n', '2', '--dist', 'worksteal', *arguments]
  environment = os.environ | _FAST | {'TEST_SEED': _TEST_SEED}
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


def _rows(
  mutations: Sequence[sites.Mutation], outcomes: _Outcomes
) -> list[targets.Row]:
  rows = []
  for package in PACKAGES:
    catchers = [outcomes.catcher(x) for x in mutations if x.package == package]
    caught = len(catchers) - catchers.count('nothing')
    note = f'of {len(catchers)}; {catchers.count("package")} by its own tests'
    rows.append(targets.Row(f'{package}: caught', caught, '', '', None, note))
  caught = sum(outcomes.catcher(x) != 'nothing' for x in mutations)
  least = _LEAST.value
  target, note = f'at least {least}', f'of {len(mutations)}'
  rows.append(targets.Row('caught', caught, '', target, caught >= least, note))
  return rows


if __name__ == '__main__':
  commands.start_targets(run, 'runs/mutations')
