"""Checkpoints are listed under the folder names of various programs."""

import pathlib
import shutil

import numpy as np
import orbax.checkpoint as v0
import pytest

from rllc_jax.training import checkpoints


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A checkpoint written by Orbax."""
  path = tmp_path_factory.mktemp('written') / 'any'
  with v0.StandardCheckpointer() as writer:
    writer.save(path, {'w': np.arange(2.0)})
  return path


def put(written, directory, *names):
  for name in names:
    shutil.copytree(written, directory / name)
  return directory


@pytest.mark.parametrize(
  'name', ['10', '0000010', 'checkpoint_10', 'step_10', 'step-0010', 'ckpt10']
)
def test_a_folder_name_that_ends_in_a_number_is_a_step(tmp_path, written, name):
  put(written, tmp_path, name)
  assert checkpoints.steps(tmp_path) == (10,)
  trajectory = checkpoints.trajectory(tmp_path)
  assert trajectory.steps == (10,)
  np.testing.assert_array_equal(trajectory.load([10])['w'], [[0.0, 1.0]])


def test_steps_are_ordered_as_numbers(tmp_path, written):
  put(written, tmp_path, *(f'checkpoint_{step}' for step in (100, 20, 3, 0)))
  assert checkpoints.trajectory(tmp_path).steps == (0, 3, 20, 100)


def test_two_folders_of_one_step_are_refused_by_name(tmp_path, written):
  put(written, tmp_path, 'checkpoint_10', '0010', '7')
  for act in (checkpoints.steps, checkpoints.trajectory):
    with pytest.raises(checkpoints.CheckpointError) as error:
      act(tmp_path)
    assert "got '0010', 'checkpoint_10'" in str(error.value)
    assert 'step 10' in str(error.value)


def test_other_folders_that_end_in_a_number_are_no_steps(tmp_path, written):
  put(written, tmp_path, 'step_10', '20.orbax-checkpoint-tmp-1234567890')
  (tmp_path / 'tensorboard_2').mkdir()
  put(written, tmp_path / 'run3', '40', '50')
  (tmp_path / 'step_9').touch()
  assert checkpoints.steps(tmp_path) == (10,)


def test_an_empty_folder_with_the_prefix_of_a_step_is_a_step(tmp_path, written):
  put(written, tmp_path, 'step_10')
  (tmp_path / 'step_20').mkdir()
  assert checkpoints.steps(tmp_path) == (10, 20)
  with pytest.raises(checkpoints.CheckpointError, match='step_20.* got an em'):
    checkpoints.trajectory(tmp_path)


def test_a_directory_without_steps_is_refused_with_its_contents(tmp_path):
  with pytest.raises(checkpoints.CheckpointError, match='got an empty dir'):
    checkpoints.trajectory(tmp_path)
  for name in ('checkpoints', 'plots'):
    (tmp_path / name).mkdir()
  (tmp_path / 'ckpt_5.msgpack').touch()
  assert checkpoints.steps(tmp_path) == ()
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.trajectory(tmp_path)
  assert f'in {tmp_path}' in str(error.value)
  assert "got 'checkpoints/', 'ckpt_5.msgpack', 'plots/'" in str(error.value)


def test_a_directory_that_is_itself_a_checkpoint_names_its_parent(
  tmp_path, written
):
  put(written, tmp_path, '10')
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.trajectory(tmp_path / '10')
  assert f'Give {tmp_path}' in str(error.value)


def test_a_trajectory_of_no_steps_is_refused(tmp_path, written):
  put(written, tmp_path, '10')
  with pytest.raises(checkpoints.CheckpointError, match='at least one step'):
    checkpoints.trajectory(tmp_path, [])


def test_a_step_that_exists_under_another_name_is_not_saved(tmp_path, written):
  put(written, tmp_path, 'step_10')
  with pytest.raises(checkpoints.CheckpointError, match='none is overwritten'):
    checkpoints.save(tmp_path, 10, {'w': np.ones(2)})


@pytest.mark.parametrize('step', [10, 10.0, np.int64(10), np.array(10)])
def test_a_whole_number_of_any_type_is_a_step(tmp_path, step):
  checkpoints.save(tmp_path, step, {'w': np.ones(2)})
  assert [path.name for path in tmp_path.iterdir()] == ['10']
  checkpoints.load(tmp_path, step)
  trajectory = checkpoints.trajectory(tmp_path, [step])
  assert trajectory.steps == (10,)
  trajectory.load([step])
  assert checkpoints.metadata(tmp_path, step) == {}


@pytest.mark.parametrize('step', [10.5, -1, 'last', None])
def test_a_step_that_is_no_count_is_refused(tmp_path, step):
  with pytest.raises(ValueError, match='step must be.*got'):
    checkpoints.save(tmp_path, step, {'w': np.ones(2)})
  with pytest.raises(ValueError, match='step must be.*got'):
    checkpoints.load(tmp_path, step)


def test_save_resume_deletes_no_foreign_folder(tmp_path, written):
  """A resume state replaces only states of `save_resume`."""
  put(written, tmp_path, 'step_10')
  checkpoints.save_resume(tmp_path, {'w': np.ones(2)}, 20)
  assert checkpoints.steps(tmp_path) == (10, 20)


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  tree = {'w': np.arange(2.0)}
  checkpoints.save('~/run', 3, tree, {'a': 1})
  assert (tmp_path / 'run' / '3').is_dir()
  assert checkpoints.steps('~/run') == (3,)
  assert checkpoints.metadata('~/run') == {'a': 1}
  checkpoints.load('~/run', 3)
  checkpoints.trajectory(pathlib.Path('~/run')).load([3])
  checkpoints.save_resume('~/state', tree, 4)
  assert checkpoints.load_resume('~/state', tree)[1] == 4
  checkpoints.delete('~/run', 3)
  assert checkpoints.steps('~/run') == ()
  assert not (tmp_path / '~').exists()
