"""A checkpoint loads bit for bit as it was saved, or is refused."""

import logging
import math
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rllc_jax.training import checkpoints
from rllc_jax.training import orbax_files


def weights(scale=1.0):
  rng = np.random.default_rng(0)
  draw = lambda *shape: scale * rng.normal(size=shape).astype(np.float32)
  block = {'W_Q': draw(2, 8, 4), 'b_Q': draw(2, 4)}
  return {'blocks_0': block, 'embed': draw(400, 8), 'scale': draw()}


def assert_same_bits(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    assert isinstance(a, np.ndarray)
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, np.asarray(b))


def one_line(error):
  assert '\n' not in str(error.value)
  return str(error.value)


def files_of(path):
  return sorted(p for p in path.rglob('*') if p.is_file())


def test_round_trip_keeps_bits_structure_and_metadata(tmp_path):
  metadata = {'model': {'num_layers': 2}, 'loss': 0.1, 'steps': [1, 2]}
  checkpoints.save(tmp_path, 5, weights(), metadata)
  assert_same_bits(checkpoints.load(tmp_path, 5), weights())
  like = jax.eval_shape(weights)
  assert_same_bits(checkpoints.load(tmp_path, 5, like), weights())
  assert checkpoints.metadata(tmp_path, 5) == metadata
  assert checkpoints.metadata(tmp_path) == metadata


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'int32', 'uint16'])
def test_other_dtypes_are_restored(tmp_path, dtype):
  tree = {'a': np.arange(5).astype(jnp.dtype(dtype))}
  checkpoints.save(tmp_path, 0, tree)
  assert_same_bits(checkpoints.load(tmp_path, 0), tree)


def test_jax_arrays_on_two_devices_are_restored_whole(tmp_path):
  mesh = jax.make_mesh((2,), ('data',))
  spec = jax.sharding.PartitionSpec('data')
  sharding = jax.sharding.NamedSharding(mesh, spec)
  x = jax.device_put(jnp.arange(6.0), sharding)
  checkpoints.save(tmp_path, 0, {'x': x})
  assert_same_bits(checkpoints.load(tmp_path, 0), {'x': np.asarray(x)})


def test_a_trajectory_stacks_the_requested_steps_in_order(tmp_path):
  for step in (10, 0, 2):
    checkpoints.save(tmp_path, step, weights(step + 1.0))
  trajectory = checkpoints.trajectory(tmp_path)
  assert trajectory.steps == (0, 2, 10)
  stack = trajectory.load([10, 0, 2])
  for i, scale in enumerate((11.0, 1.0, 3.0)):
    row = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), stack)
    assert_same_bits(row, weights(scale))
  assert checkpoints.trajectory(tmp_path, [2, 0]).steps == (0, 2)
  with pytest.raises(checkpoints.CheckpointError, match=r'step 3 .*0, 2, 10'):
    checkpoints.trajectory(tmp_path, steps=[0, 3])


def test_a_fingerprint_hashes_the_weights_and_does_not_replace_verification(
  tmp_path,
):
  for step, scale in ((0, 1.0), (1, 1.0), (2, 2.0)):
    checkpoints.save(tmp_path, step, weights(scale), {'at': step})
  trajectory = checkpoints.trajectory(tmp_path)
  first, same, other = map(trajectory.fingerprint, trajectory.steps)
  assert first == same != other
  # Another step's weights under the record of this one.
  shutil.rmtree(tmp_path / '1' / 'state')
  shutil.copytree(tmp_path / '2' / 'state', tmp_path / '1' / 'state')
  assert trajectory.fingerprint(1) == same
  with pytest.raises(checkpoints.CheckpointError, match='as it was saved'):
    trajectory.load([1])


@pytest.mark.parametrize(
  ('like', 'message'),
  [
    ({'a': np.zeros(3, np.float32)}, r"\['a'\] float32\[3\]; got float32\[2\]"),
    ({'a': np.zeros(2, np.int32)}, r"\['a'\] int32\[2\]; got float32\[2\]"),
    ({'b': np.zeros(2, np.float32)}, r"\['a'\] no such leaf; got float32\[2\]"),
    ({}, r"\['a'\] no such leaf"),
  ],
)
def test_a_template_unlike_the_file_is_refused(tmp_path, like, message):
  checkpoints.save(tmp_path, 3, {'a': np.zeros(2, np.float32)})
  with pytest.raises(checkpoints.CheckpointError, match=message) as error:
    checkpoints.load(tmp_path, 3, like)
  assert f'step 3 at {tmp_path / "3"}' in one_line(error)


@pytest.mark.sampled(1)
@pytest.mark.parametrize('kind', ['zeroed', 'halved', 'removed', 'one_bit'])
def test_damage_to_any_file_is_refused_or_harmless(
  tmp_path, capfd, caplog, kind
):
  checkpoints.save(tmp_path, 7, weights(), {'x': 1})
  whole = tmp_path / 'whole'
  shutil.copytree(tmp_path / '7', whole)
  noticed = 0
  for file in files_of(tmp_path / '7'):
    data = file.read_bytes()
    middle = len(data) // 2
    if kind == 'zeroed':
      width = min(2048, middle)
      file.write_bytes(
        data[: middle - width // 2]
        + bytes(width)
        + data[middle + width - width // 2 :]
      )
    elif kind == 'halved':
      file.write_bytes(data[:middle])
    elif kind == 'removed':
      file.unlink()
    elif data:
      flipped = bytes([data[middle] ^ 1])
      file.write_bytes(data[:middle] + flipped + data[middle + 1 :])
    try:
      # Files that a load does not need may be damaged without an error.
      assert_same_bits(checkpoints.load(tmp_path, 7), weights())
    except checkpoints.CheckpointError as error:
      noticed += 1
      assert '\n' not in str(error)
      assert 'step 7 at' in str(error)
    shutil.rmtree(tmp_path / '7')
    shutil.copytree(whole, tmp_path / '7')
  assert noticed > 2
  assert capfd.readouterr().err == ''
  assert not caplog.records


def test_zeroed_weights_are_refused_by_the_name_of_the_leaf(tmp_path):
  checkpoints.save(tmp_path, 7, weights())
  file = max(files_of(tmp_path / '7'), key=lambda f: f.stat().st_size)
  data = bytearray(file.read_bytes())
  data[5000:9000] = bytes(4000)
  file.write_bytes(data)
  with pytest.raises(checkpoints.CheckpointError, match=r"\['embed'\]"):
    checkpoints.load(tmp_path, 7)


def test_a_checkpoint_under_another_name_is_refused(tmp_path):
  checkpoints.save(tmp_path, 7, weights())
  (tmp_path / '7').rename(tmp_path / '8')
  with pytest.raises(checkpoints.CheckpointError, match='got step 7'):
    checkpoints.load(tmp_path, 8)


def test_missing_checkpoints_are_refused_by_step_or_directory(tmp_path):
  with pytest.raises(checkpoints.CheckpointError, match='step 4 .*no such'):
    checkpoints.load(tmp_path, 4)
  with pytest.raises(checkpoints.CheckpointError, match='no such directory'):
    checkpoints.steps(tmp_path / 'absent')
  with pytest.raises(checkpoints.CheckpointError, match='got none'):
    checkpoints.metadata(tmp_path)
  (tmp_path / '4').mkdir()
  with pytest.raises(checkpoints.CheckpointError, match='step 4 .*an empty'):
    checkpoints.load(tmp_path, 4)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, bad):
  tree = {'good': np.ones(2), 'bad': np.array([1.0, bad, bad])}
  with pytest.raises(checkpoints.CheckpointError, match=r"\['bad'\].* 2 of 3"):
    checkpoints.save(tmp_path, 1, tree)
  assert checkpoints.steps(tmp_path) == ()


def test_no_checkpoint_is_overwritten(tmp_path):
  checkpoints.save(tmp_path, 1, weights())
  with pytest.raises(checkpoints.CheckpointError, match='none is overwritten'):
    checkpoints.save(tmp_path, 1, weights(2.0))
  assert_same_bits(checkpoints.load(tmp_path, 1), weights())


def test_an_impossible_directory_is_refused_on_one_line(tmp_path, capfd):
  (tmp_path / 'file').touch()
  with pytest.raises(checkpoints.CheckpointError, match='room to write') as e:
    checkpoints.save(tmp_path / 'file' / 'run', 1, weights())
  one_line(e)
  assert capfd.readouterr().err == ''


def test_a_full_disk_leaves_no_file(tmp_path, capfd):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(checkpoints.CheckpointError, match='room to') as error:
      checkpoints.save(tmp_path, 1, weights())
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  one_line(error)
  assert list(tmp_path.iterdir()) == []
  assert capfd.readouterr().err == ''


def test_metadata_other_than_json_is_refused(tmp_path):
  with pytest.raises(checkpoints.CheckpointError, match='JSON'):
    checkpoints.save(tmp_path, 1, weights(), {'x': object()})


def test_remains_of_killed_saves_are_not_listed_and_removed(tmp_path):
  for name in ('2', '3', '1.deleted'):
    remains = tmp_path / f'{name}.orbax-checkpoint-tmp' / 'state'
    remains.mkdir(parents=True)
    (remains / 'data').write_bytes(b'half')
  (tmp_path / 'notes').mkdir()
  assert checkpoints.steps(tmp_path) == ()
  checkpoints.save(tmp_path, 3, weights())
  assert sorted(p.name for p in tmp_path.iterdir()) == ['3', 'notes']


def test_orbax_logs_nothing_and_other_loggers_are_heard(tmp_path, caplog):
  with caplog.at_level(logging.INFO, logger='absl'):
    checkpoints.save(tmp_path, 1, weights())
    checkpoints.load(tmp_path, 1)
    assert caplog.records == []
    with orbax_files.silence():
      logging.getLogger('absl').info('heard meanwhile')
    logging.getLogger('asyncio').warning('heard after')
  messages = [record.message for record in caplog.records]
  assert messages == ['heard meanwhile', 'heard after']


def resume_state(scale):
  params = jax.tree.map(jnp.asarray, weights(scale))
  return {'params': params, 'optimizer': optax.adamw(1e-3).init(params)}


def test_a_resume_state_replaces_the_last_and_keeps_its_structure(tmp_path):
  like = jax.eval_shape(lambda: resume_state(0.0))
  assert checkpoints.load_resume(tmp_path / 'absent', like) is None
  for step in (3, 12):
    checkpoints.save_resume(tmp_path, resume_state(step), step)
  assert checkpoints.steps(tmp_path) == (12,)
  state, step = checkpoints.load_resume(tmp_path, like)
  assert step == 12
  assert_same_bits(state, resume_state(12))


def test_a_kill_before_deleting_the_old_state_leaves_the_new_one(
  tmp_path, monkeypatch
):
  checkpoints.save_resume(tmp_path, {'x': np.zeros(2)}, 1)

  def die(*args):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(checkpoints, 'delete', die)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.save_resume(tmp_path, {'x': np.ones(2)}, 2)
  state, step = checkpoints.load_resume(tmp_path, {'x': np.zeros(2)})
  assert step == 2
  np.testing.assert_array_equal(state['x'], [1.0, 1.0])
  checkpoints.save_resume(tmp_path, {'x': np.ones(2)}, 3)
  assert [p.name for p in tmp_path.iterdir()] == ['3']


def test_a_half_deleted_checkpoint_is_not_listed(tmp_path, monkeypatch):
  checkpoints.save(tmp_path, 1, weights())

  def die(path, **kwargs):
    files_of(path)[0].unlink()
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, 'rmtree', die)
    with pytest.raises(KeyboardInterrupt):
      checkpoints.delete(tmp_path, 1)
  assert checkpoints.steps(tmp_path) == ()
  checkpoints.save(tmp_path, 1, weights())
  assert [p.name for p in tmp_path.iterdir()] == ['1']


def test_a_damaged_newest_state_is_refused(tmp_path):
  checkpoints.save(tmp_path, 1, {'x': np.zeros(2)})
  checkpoints.save(tmp_path, 2, {'x': np.zeros(2)})
  for file in files_of(tmp_path / '2'):
    file.write_bytes(bytes(file.stat().st_size))
  with pytest.raises(checkpoints.CheckpointError, match='step 2 at'):
    checkpoints.load_resume(tmp_path, {'x': np.zeros(2)})


def test_log_spaced_steps_are_distinct_and_of_the_requested_number():
  for last in range(1, 70):
    for count in range(2, 75):
      spaced = checkpoints.log_spaced_steps(last, count)
      assert (spaced[0], spaced[-1]) == (0, last)
      assert list(spaced) == sorted(set(spaced))
      assert len(spaced) == min(count, last + 1)


def test_late_log_spaced_steps_have_one_ratio():
  spaced = np.array(checkpoints.log_spaced_steps(50_000, 20), float)
  ratios = spaced[8:] / spaced[7:-1]
  # Rounding moves a step past 50 by half a step, so a ratio by 2 %.
  np.testing.assert_allclose(ratios, 50_000 ** (1 / 18), rtol=0.02)


@pytest.mark.parametrize(('last', 'count'), [(0, 2), (5, 1), (-1, 3)])
def test_log_spaced_steps_refuse_too_few_steps(last, count):
  with pytest.raises(ValueError, match='at least'):
    checkpoints.log_spaced_steps(last, count)
