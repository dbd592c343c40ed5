"""A killed and resumed run equals an uninterrupted one."""

import pathlib
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.training import checkpoints
from rllc_jax.training import loop
from rllc_jax.training import records
from rllc_jax.training import runs
from rllc_jax.training import updates
from tests import binaries

TOKENS = np.random.default_rng(0).integers(0, 6, (40, 5)).astype(np.uint16)
WINDOW = types.Window(3, 30)
STEPS = (0, 1, 4, 13, 40)


@jax.jit
def loss_fn(params, batch):
  """The cross-entropy of a bigram model."""
  logits = params['embed'][batch[:, :-1]] @ params['unembed']
  chosen = jnp.take_along_axis(logits, batch[:, 1:, None], axis=-1)[..., 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def initial():
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  return {'embed': draw(6, 4), 'unembed': draw(4, 6)}


def run(directory, **changes):
  arguments = dict(
    loss_fn=loss_fn,
    params=initial(),
    optimizer=updates.adamw(0.01, 0.05),
    tokens=TOKENS,
    window=WINDOW,
    seed=0,
    batch_size=4,
    num_steps=40,
    checkpoint_steps=STEPS,
    directory=directory,
    evaluation={'train': np.arange(3, 20), 'held_out': np.arange(33, 40)},
    settings={'learning_rate': 0.01, 'model': {'width': 4}},
    resume_every=9,
    resume_seconds=np.inf,
  )
  return loop.train(**(arguments | changes))


def assert_same_run(directory, other):
  for step in STEPS:
    a, b = (
      checkpoints.load(d / 'checkpoints', step) for d in (directory, other)
    )
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run and its record."""
  directory = tmp_path_factory.mktemp('whole')
  return directory, run(directory)


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  record = run('~/run', num_steps=2, checkpoint_steps=(0, 2))
  rerun = run(pathlib.Path('~/run'), num_steps=2, checkpoint_steps=(0, 2))
  assert rerun.identical(record)
  assert checkpoints.steps('~/run/checkpoints') == (0, 2)
  assert [path.name for path in tmp_path.iterdir()] == ['run']


def test_checkpoints_are_saved_and_the_loss_falls(whole):
  directory, record = whole
  assert checkpoints.steps(directory / 'checkpoints') == STEPS
  assert checkpoints.steps(directory / 'resume') == (40,)
  first = checkpoints.load(directory / 'checkpoints', 0)
  jax.tree.map(np.testing.assert_array_equal, first, initial())
  assert record.sizes == {'step': 40, 'checkpoint': 5}
  assert record.loss[-5:].mean() < record.loss[:5].mean() - 0.1
  assert record.train_loss[-1] < record.train_loss[0] - 0.1


def test_losses_are_of_the_checkpoint_of_their_step(whole):
  directory, record = whole
  for step in STEPS:
    params = checkpoints.load(directory / 'checkpoints', step)
    for name, rows in (
      ('train_loss', slice(3, 20)),
      ('held_out_loss', slice(33, 40)),
    ):
      expected = loss_fn(params, TOKENS[rows].astype(np.int32))
      loss = record[name].sel(checkpoint=step)
      np.testing.assert_allclose(loss, expected, rtol=1e-5)  # Float32.
    if step < 40:
      rows = 3 + updates.epoch_batches(0, 30, 4, step, 1)[0]
      expected = loss_fn(params, TOKENS[rows].astype(np.int32))
      np.testing.assert_allclose(record.loss[step], expected, rtol=1e-5)


def test_every_checkpoint_has_the_settings_of_the_run(whole):
  directory, _ = whole
  settings = checkpoints.metadata(directory / 'checkpoints', 13)['settings']
  assert settings == {'learning_rate': 0.01, 'model': {'width': 4}}


def test_the_loss_is_compiled_once_whatever_the_checkpoints(tmp_path):
  traces = []

  def counted(params, batch):
    traces.append(batch.shape)
    return loss_fn(params, batch)

  run(tmp_path, loss_fn=counted)
  assert sorted(traces) == [(1, 5), (4, 5)]  # Evaluation, and training.


def test_only_the_window_is_trained_on(whole, tmp_path):
  tokens = TOKENS.copy()
  tokens[:3] = tokens[33:] = 60_000  # Outside, no token of the model.
  few = dict(num_steps=12, checkpoint_steps=[], evaluation={})
  windowed = run(tmp_path, tokens=tokens, **few)
  np.testing.assert_array_equal(windowed.loss, whole[1].loss[:12])


def test_checkpoint_and_resume_intervals_change_no_number(whole, tmp_path):
  _, record = whole
  other = run(tmp_path, checkpoint_steps=[40, 2], resume_every=4, evaluation={})
  np.testing.assert_array_equal(record.loss, other.loss)


def test_one_device_gives_the_losses_of_two(whole, tmp_path):
  _, record = whole
  other = run(tmp_path, devices=jax.devices()[:1])
  # Float32 sums in another order, over 40 steps.
  np.testing.assert_allclose(record.loss, other.loss, rtol=1e-4)


def test_a_finished_run_is_read_and_not_trained_again(whole):
  directory, record = whole
  before = {p: p.stat().st_mtime_ns for p in directory.rglob('*')}

  def refuse(params, batch):
    raise AssertionError('trained again')

  assert run(directory, loss_fn=refuse).identical(record)
  assert {p: p.stat().st_mtime_ns for p in directory.rglob('*')} == before


CHILD = """
  import os, signal, sys
  sys.path.insert(0, sys.argv[1])
  import loop_test
  from rllc_jax.training import checkpoints

  def die_at(step):
    def progress(done, total, message):
      if done >= step:
        os.kill(os.getpid(), signal.SIGKILL)
    return progress

  if sys.argv[3] == 'while_deleting':
    def delete(directory, step):
      if step == 9:
        os.kill(os.getpid(), signal.SIGKILL)
      original(directory, step)
    original, checkpoints.delete = checkpoints.delete, delete
    loop_test.run(loop_test.pathlib.Path(sys.argv[2]))
  else:
    loop_test.run(
      loop_test.pathlib.Path(sys.argv[2]), progress=die_at(int(sys.argv[3]))
    )
"""


def start_child(directory, how):
  return binaries.Process(CHILD, pathlib.Path(__file__).parent, directory, how)


def test_killed_runs_resume_bit_equal(whole, tmp_path):
  reference, record = whole
  # At step 14 the trajectory is ahead of the state, by checkpoint 13.
  kills = {'14': 9, 'while_deleting': 18}
  children = {how: start_child(tmp_path / how, how) for how in kills}
  for how, step in kills.items():
    output = children[how].communicate(timeout=60)
    assert children[how].returncode == -signal.SIGKILL, output
    assert checkpoints.steps(tmp_path / how / 'resume')[-1] == step
    done = []
    progress = lambda *report, done=done: done.append(report[0])
    resumed = run(tmp_path / how, progress=progress)
    assert done[0] == step  # Continued, not started anew.
    assert done[-1] == 40
    assert resumed.identical(record)
    assert_same_run(tmp_path / how, reference)
    assert checkpoints.steps(tmp_path / how / 'resume') == (40,)


def stop_at(step):
  def progress(done, total, message):
    if done >= step:
      raise KeyboardInterrupt

  return progress


def test_checkpoints_ahead_of_the_state_are_trained_again(whole, tmp_path):
  reference, record = whole
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, progress=stop_at(5))
  assert checkpoints.steps(tmp_path / 'resume') == (0,)
  # Step 4 as other devices, with other rounding, may have written it.
  checkpoints.delete(tmp_path / 'checkpoints', 4)
  checkpoints.save(tmp_path / 'checkpoints', 4, initial())
  assert run(tmp_path).identical(record)
  assert_same_run(tmp_path, reference)


def test_a_slow_run_saves_states_by_time(whole, tmp_path):
  _, record = whole
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path, resume_seconds=0.0, progress=stop_at(5))
  [step] = checkpoints.steps(tmp_path / 'resume')
  assert 0 < step < 9
  done = []
  resumed = run(tmp_path, progress=lambda *report: done.append(report[0]))
  assert done[0] == step
  assert resumed.identical(record)


@pytest.fixture(scope='module')
def interrupted_once(tmp_path_factory):
  directory = tmp_path_factory.mktemp('interrupted')
  with pytest.raises(KeyboardInterrupt):
    run(directory, progress=stop_at(20))
  return directory


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
  """A run with a state of step 18 and checkpoints up to step 13."""
  return shutil.copytree(interrupted_once, tmp_path / 'run')


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'seed': 1}, 'seed = 0 was expected.*got 1'),
    ({'num_steps': 41}, 'num_steps = 40'),
    ({'settings': {'learning_rate': 0.1}}, 'learning_rate = 0.01'),
    ({'window': types.Window(2, 30)}, r'window = \[3, 30\]'),
    ({'tokens': TOKENS[:, ::-1]}, 'tokens = '),
    ({'params': {**initial(), 'embed': np.ones((6, 4))}}, 'initial_weights'),
    ({'evaluation': {'train': np.arange(4)}}, 'evaluation = '),
  ],
)
def test_a_run_with_other_settings_is_not_continued(whole, changes, message):
  directory, _ = whole
  with pytest.raises(runs.TrainingError, match=message) as error:
    run(directory, **changes)
  assert '\n' not in str(error.value)


def test_a_damaged_state_is_refused(interrupted):
  files = [p for p in (interrupted / 'resume/18').rglob('*') if p.is_file()]
  largest = max(files, key=lambda p: p.stat().st_size)
  largest.write_bytes(bytes(largest.stat().st_size))
  with pytest.raises(checkpoints.CheckpointError, match='step 18 at'):
    run(interrupted)


def test_checkpoints_without_a_state_are_refused(interrupted):
  checkpoints.delete(interrupted / 'resume', 18)
  with pytest.raises(runs.TrainingError, match='up to step 13; got none'):
    run(interrupted)


def test_a_lost_checkpoint_is_refused_before_training(interrupted):
  checkpoints.delete(interrupted / 'checkpoints', 4)
  with pytest.raises(checkpoints.CheckpointError, match='step 4 at'):
    run(interrupted)
  assert checkpoints.steps(interrupted / 'resume') == (18,)


def test_a_non_finite_loss_stops_the_run_and_saves_its_state(tmp_path):
  # The rows of the batch of step 22 and of no earlier one.
  stream = 3 + updates.epoch_batches(0, 30, 4, 0, 40)
  late = [r for r in stream[22] if r not in stream[15:22]]
  bad = np.zeros(40, bool)
  bad[late[0]] = True
  first = int(np.argmax(bad[stream].any(axis=1)))

  def explosive(params, batch):
    poison = jnp.where(batch[:, 0] == 9, jnp.nan, 0.0)
    return loss_fn(params, jnp.minimum(batch, 5)) + jnp.sum(poison)

  tokens = np.where(bad[:, None], 9, TOKENS).astype(np.uint16)
  keep = dict(loss_fn=explosive, tokens=tokens, evaluation={})
  for _ in range(2):  # Not the first time, nor when resumed.
    with pytest.raises(runs.TrainingError, match=f'at step {first},') as error:
      run(tmp_path, **keep)
    assert '\n' not in str(error.value)
  saved_steps = checkpoints.steps(tmp_path / 'checkpoints')
  assert saved_steps == tuple(step for step in STEPS if step <= first)
  assert 0 < checkpoints.steps(tmp_path / 'resume')[-1] <= first


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'batch_size': 0}, 'multiple of 2'),
    ({'batch_size': 32}, 'at most 30'),
    ({'num_steps': 0, 'checkpoint_steps': [0]}, 'at least 1'),
    ({'checkpoint_steps': [0, 41]}, 'from 0 to num_steps = 40.*got 41'),
    ({'window': types.Window(20, 30)}, 'got 20 to 50'),
    ({'window': types.Window(20, 0)}, 'at least one'),
    ({'evaluation': {'x': np.array([], int)}}, "'x'.*got none"),
    ({'evaluation': {'x': np.array([40])}}, "'x'.*got 40 to 40"),
    ({'resume_every': 0}, 'resume_every must be at least 1'),
  ],
)
def test_invalid_arguments_are_refused_before_training(
  tmp_path, changes, message
):
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'run', **changes)
  assert not (tmp_path / 'run').exists()


def test_rows_are_spread_over_the_whole_window():
  rows = runs.evenly_spaced(types.Window(100, 50), 7)
  assert len(rows) == 7
  assert rows[0] == 100
  assert set(np.diff(rows)) <= {7, 8}
  np.testing.assert_array_equal(
    runs.evenly_spaced(types.Window(5, 3), 10), [5, 6, 7]
  )


def test_a_record_is_written_once_and_read_back(whole, tmp_path):
  _, record = whole
  path = tmp_path / 'training.zarr'
  with pytest.raises(ValueError, match='no such directory'):
    records.load_record(path)
  (tmp_path / 'training.zarr.0.unfinished').mkdir()
  records.save_record(record, path)
  assert records.load_record(path).identical(record)
  assert [p.name for p in tmp_path.iterdir()] == ['training.zarr']
  with pytest.raises(ValueError, match='written once'):
    records.save_record(record, path)


def test_a_tilde_inside_a_path_is_a_directory(whole, tmp_path, monkeypatch):
  """Only a '~' at the beginning is the home of the user."""
  _, record = whole
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.chdir(tmp_path)
  records.save_record(record, './~/training.zarr')
  assert [p.name for p in tmp_path.iterdir()] == ['~']
  assert records.load_record('./~/training.zarr').identical(record)
