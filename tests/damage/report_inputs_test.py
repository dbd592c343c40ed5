"""Damage to inputs of the report, and to findings that claims rest on."""

import functools
import json
import shutil

import pytest
import xarray as xr

from experiments import report
from experiments.paper import claim_runs as claims
from rllc_jax import checked_files
from rllc_jax.training import records
from tests.damage import damages
from tests.experiments import report_test

FINDING = {
  'claim': 'C1',
  'effect': 1.5,
  'error': 0.25,
  'unit': 'rLLC',
  'note': 'from step 0 to 16',
  'statement': 'heads of a layer start alike and grow apart',
  'holds': True,
}
# Made beside a run and not of it: that of another one is as good.
OF_ANY_RUN = ('known_answers.json', 'coverage.json')
# Only the first must be there.
CASES = [
  (name, kind)
  for name in ('corpus/corpus.json', 'claims.json', *OF_ANY_RUN)
  for kind in damages.KINDS
  if name.startswith('corpus') or kind != 'missing'
  if name not in OF_ANY_RUN or kind != 'another'
]


def write(path, tokens, seed):
  """Writes a workdir; its `coverage` and `analysis` are stand-ins."""
  report_test.write_run(path)
  corpus = checked_files.read_json(path / 'corpus' / 'corpus.json', [], '')
  corpus['tokens_hash'] = tokens
  checked_files.write_json(path / 'corpus' / 'corpus.json', corpus)
  for name in OF_ANY_RUN:
    answers = {'records': [{**report_test.ANSWER, 'seconds': seed}]}
    checked_files.write_json(path / name, answers)
  run = {'tokens': tokens, 'seed': seed}
  content = {**run, 'language': 'planted', 'findings': [FINDING]}
  checked_files.write_json(path / 'claims.json', content)
  readings = xr.Dataset(
    {'score': ('head', [1.0, seed])}, attrs={'identity': json.dumps(run)}
  )
  records.save_record(readings, path / 'analysis.zarr')


def read(workdir):
  """All inputs of the report, in a comparable form."""
  parts = [
    part.to_dict() if isinstance(part, xr.Dataset) else part
    for part in report._read(workdir)
  ]
  return json.dumps(parts, sort_keys=True, default=str)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Workdirs of two runs."""
  workdirs = [tmp_path_factory.mktemp('run') for _ in range(2)]
  write(workdirs[0], 'abc', 3)
  write(workdirs[1], 'xyz', 4)
  return workdirs


@pytest.fixture
def workdir(written, tmp_path):
  return shutil.copytree(written[0], tmp_path / 'run')


@pytest.mark.sampled(7)
@pytest.mark.parametrize(('name', 'kind'), CASES)
def test_damage_to_an_input_of_the_report_is_named(
  written, workdir, name, kind
):
  attempt, path = functools.partial(read, workdir), workdir / name
  other = (written[1] / name).read_bytes()
  assert all(
    damages.check(workdir, path, kind, attempt, attempt(), other=other)
  )


@pytest.mark.parametrize(
  ('name', 'other'),
  [
    ('claims.json', 'known_answers.json'),
    ('known_answers.json', 'claims.json'),
    ('corpus/corpus.json', 'claims.json'),
  ],
)
def test_a_file_of_another_kind_is_named(workdir, name, other):
  """The file is whole and has a right checksum."""
  path, attempt = workdir / name, functools.partial(read, workdir)
  other = (workdir / other).read_bytes()
  messages = damages.check(
    workdir, path, 'another', attempt, attempt(), other=other
  )
  assert 'got one without' in messages[0]


@pytest.mark.parametrize('name', ['train/training.zarr', 'analysis.zarr'])
def test_a_record_of_another_run_is_named(written, workdir, name):
  expected = read(workdir)
  if name == 'train/training.zarr':  # Which is by what the others are judged.
    for part in ('claims.json', 'analysis.zarr'):
      damages.remove(workdir / part)
    record = records.load_record(workdir / name)
    identity = json.loads(record.attrs['identity']) | {'tokens': 'xyz'}
    record.attrs['identity'] = json.dumps(identity)
    shutil.rmtree(workdir / name)
    records.save_record(record, workdir / name)
  else:
    shutil.rmtree(workdir / name)
    shutil.copytree(written[1] / name, workdir / name)
  attempt = functools.partial(read, workdir)
  message, _ = damages.outcome(workdir, attempt, str(workdir))
  assert 'of the same run as' in message
  shutil.rmtree(workdir)
  shutil.copytree(written[0], workdir)
  assert read(workdir) == expected


@pytest.mark.parametrize('kind', ['cut', 'flipped', 'text', 'directory'])
def test_claims_are_not_judged_by_a_damaged_file(tmp_path, written, kind):
  for seed in ('0', '1'):
    (tmp_path / seed).mkdir()
    shutil.copy(written[0] / 'claims.json', tmp_path / seed)
  path = tmp_path / '0' / 'claims.json'
  attempt = functools.partial(claims.read_effects, tmp_path)
  assert all(damages.check(tmp_path, path, kind, attempt, attempt()))


def test_damaged_files_are_named_one_by_one(workdir):
  config, expected = report_test.config(burn_in=20), read(workdir)
  contents = {}
  for name in ('known_answers', 'claims'):
    path = workdir / f'{name}.json'
    contents[name] = path.read_bytes()
    path.write_bytes(contents[name][:-9])
  for name, content in contents.items():
    attempt = functools.partial(report.run, config, workdir)
    path = workdir / f'{name}.json'
    message, _ = damages.outcome(workdir, attempt, str(path))
    assert f'Run experiments.{name} again, or remove the file' in message
    path.write_bytes(content)
  assert read(workdir) == expected
