"""Damage to checkpoints, and to the state that training goes on from."""

import functools
import json
import pathlib
import shutil

import pytest

from experiments.runtime import subjects
from rllc_jax import trees
from rllc_jax.training import checkpoints
from rllc_jax.training import orbax_files
from rllc_jax.training import records
from tests.damage import damages
from tests.training import loop_test

# A file of every kind in a checkpoint; of several the largest.
NEEDED = ('_CHECKPOINT_METADATA', 'state/manifest.ocdbt', 'state/d/*')
# What Orbax does not read, or has elsewhere too.
OTHERS = (
  'commit_success.txt',
  'orbax.checkpoint',
  'state/_METADATA',
  'state/ocdbt.process_0/manifest.ocdbt',
  'state/ocdbt.process_0/d/*',
)
STEP, LAST = 4, 8


def train(directory, **changes):
  """Trains, or resumes; returns the record and a hash of the weights."""
  options = {'num_steps': LAST, 'checkpoint_steps': (0, STEP, LAST)}
  record = loop_test.run(directory, resume_every=2, **options, **changes)
  if not (directory / 'training.zarr').exists():
    records.save_record(record, directory / 'training.zarr')
  return json.dumps(record.to_dict(), sort_keys=True), read(directory)


def read(directory):
  """A hash of the weights that estimates read from a run."""
  trajectory = subjects.whole_trajectory(directory)
  assert trajectory.steps == (0, STEP, LAST)
  return trees.content_hash(trajectory.load(trajectory.steps))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(orbax_files, '_SETTLING_SECONDS', 0.01)


@pytest.fixture(scope='module')
def two_runs(tmp_path_factory):
  """Directories of two runs, of other seeds."""
  directories = [tmp_path_factory.mktemp('run') for _ in range(2)]
  for seed, directory in enumerate(directories):
    train(directory, seed=seed)
  return directories


@pytest.fixture(scope='module')
def stopped(tmp_path_factory):
  """A run with a state of step 4."""
  directory = tmp_path_factory.mktemp('stopped')
  with pytest.raises(KeyboardInterrupt):
    train(directory, progress=loop_test.stop_at(STEP + 1))
  assert checkpoints.steps(directory / 'resume') == (STEP,)
  return directory


@pytest.fixture
def run(two_runs, tmp_path):
  return shutil.copytree(two_runs[0], tmp_path / 'run')


def largest(directory: pathlib.Path, pattern: str) -> pathlib.Path:
  return max(directory.glob(pattern), key=lambda path: path.stat().st_size)


def read_one(directory):
  trajectory = checkpoints.trajectory(directory / 'checkpoints', (STEP,))
  return trees.content_hash(trajectory.load([STEP]))


def check(two_runs, run, pattern, kind):
  place = pathlib.Path('checkpoints', str(STEP))
  return damages.check(
    run,
    largest(run / place, pattern),
    kind,
    functools.partial(read_one, run),
    read_one(run),
    other=largest(two_runs[1] / place, pattern).read_bytes(),
    named=f'step {STEP} at {run / place}',
  )


@pytest.mark.sampled(6)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('pattern', NEEDED)
def test_damage_to_weights_of_a_checkpoint_is_named(
  two_runs, run, pattern, kind
):
  messages = check(two_runs, run, pattern, kind)
  assert all(messages) or kind == 'flipped'


@pytest.mark.sampled(3)
@pytest.mark.parametrize('kind', damages.KINDS)
def test_damage_to_other_files_of_a_checkpoint_is_named_or_harmless(
  two_runs, run, kind
):
  for pattern in OTHERS:
    check(two_runs, run, pattern, kind)


@pytest.mark.sampled(2)
@pytest.mark.parametrize('kind', damages.KINDS)
def test_damage_to_a_resume_state_is_named(two_runs, stopped, tmp_path, kind):
  expected = train(shutil.copytree(stopped, tmp_path / 'whole'))
  place = pathlib.Path('resume', str(STEP))
  for pattern in ('_CHECKPOINT_METADATA', 'state/d/*'):
    other = largest(two_runs[1] / 'resume' / str(LAST), pattern).read_bytes()
    path = largest(stopped / place, pattern)
    for _ in damages.each(path, kind, other):
      run = shutil.copytree(stopped, tmp_path / 'run')
      message, result = damages.outcome(
        run, functools.partial(train, run), f'step {STEP} at {run / place}'
      )
      assert message or (result == expected and kind == 'flipped')
      shutil.rmtree(run)
  assert expected == train(two_runs[0])


@pytest.mark.sampled(3)
@pytest.mark.parametrize('kind', ['missing', 'empty', 'file', 'another'])
@pytest.mark.parametrize('attempt', [train, read])
def test_a_replaced_checkpoint_is_named(two_runs, run, attempt, kind):
  place = pathlib.Path('checkpoints', str(STEP))
  expected = attempt(run)
  damages.replace_directory(run / place, kind, two_runs[1] / place)
  message, _ = damages.outcome(
    run, functools.partial(attempt, run), str(run / place)
  )
  assert message
  damages.remove(run / place)
  shutil.copytree(two_runs[0] / place, run / place)
  assert attempt(run) == expected


def test_checkpoints_of_another_run_are_named(two_runs, run):
  """They agree with one another, but not with the resume state."""
  shutil.rmtree(run / 'checkpoints')
  shutil.copytree(two_runs[1] / 'checkpoints', run / 'checkpoints')
  shutil.rmtree(run / 'training.zarr')
  attempt = functools.partial(train, run)
  message, _ = damages.outcome(run, attempt, str(run / 'checkpoints' / '0'))
  assert 'got one of another' in message
  damages.remove(run)  # The remedy of the message.
  assert train(run) == train(two_runs[0])


def test_a_missing_last_checkpoint_is_named_and_trained_again(run):
  expected = train(run)
  shutil.rmtree(run / 'checkpoints' / str(LAST))
  attempt = functools.partial(read, run)
  message, _ = damages.outcome(run, attempt, str(run / 'training.zarr'))
  assert message
  assert train(run) == expected


@pytest.mark.sampled(2)
@pytest.mark.parametrize('kind', ['missing', 'empty', 'file', 'another'])
def test_a_replaced_resume_state_is_named(two_runs, stopped, tmp_path, kind):
  run = shutil.copytree(stopped, tmp_path / 'run')
  damages.replace_directory(
    run / 'resume' / str(STEP), kind, two_runs[1] / 'resume/8'
  )
  attempt = functools.partial(train, run)
  message, _ = damages.outcome(run, attempt, str(run))
  assert message
  damages.remove(run)  # The remedy of the message.
  assert train(run) == train(two_runs[0])


def test_a_run_that_is_removed_and_trained_again_is_the_same(two_runs, run):
  expected = train(run)
  path = largest(run / 'checkpoints' / str(STEP), 'state/d/*')
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(checkpoints.CheckpointError, match='remove the directory'):
    read(run)
  shutil.rmtree(run)
  assert train(run) == expected
