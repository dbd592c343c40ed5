"""Orbax checkpoints of other programs are read, or refused with a remedy."""

import base64
import json
import pathlib
import shutil

from flax import nnx
from flax.training import train_state
import jax
import numpy as np
import optax
import orbax.checkpoint as v0
from orbax.checkpoint import v1
import pytest

from rllc_jax import trees
from rllc_jax.training import checkpoints
from rllc_jax.training import orbax_files

REMOVE = 'training run'


def weights(scale=1.0):
  rng = np.random.default_rng(0)
  draw = lambda *shape: scale * rng.normal(size=shape).astype(np.float32)
  return {'dense': {'kernel': draw(3, 2), 'bias': draw(2)}, 'rest': [draw(4)]}


def state(scale=1.0):
  """A training state: weights, optimizer state, step."""
  return train_state.TrainState.create(
    apply_fn=None,
    params=jax.tree.map(jax.numpy.asarray, weights(scale)),
    tx=optax.adamw(1e-3),
  )


def manager(directory, tree, step=10, **options):
  options = v0.CheckpointManagerOptions(**options)
  with v0.CheckpointManager(directory, options=options) as writer:
    writer.save(step, args=v0.args.StandardSave(tree), metrics={'loss': 1.0})
    writer.wait_until_finished()


def manager_with_items(directory, tree, step=10):
  items = v0.args.Composite(
    weights=v0.args.StandardSave(tree),
    average=v0.args.StandardSave(jax.tree.map(np.negative, tree)),
    notes=v0.args.JsonSave({'a': 1}),
  )
  with v0.CheckpointManager(directory) as writer:
    writer.save(step, args=items)
    writer.wait_until_finished()


def standard(directory, tree, step=10):
  with v0.StandardCheckpointer() as writer:
    writer.save(directory / str(step), tree)
    writer.wait_until_finished()


def pytree(directory, tree, step=10):
  v0.PyTreeCheckpointer().save(directory / str(step), tree)


def without_ocdbt(directory, tree, step=10):
  handler = v0.PyTreeCheckpointHandler(use_ocdbt=False)
  v0.Checkpointer(handler).save(directory / str(step), tree)


def version_1(directory, tree, step=10):
  v1.save(directory / str(step), tree, custom_metadata={'step': 5})


def version_1_training(directory, tree, step=10):
  with v1.training.Checkpointer(directory) as writer:
    writer.save(step, tree)


WRITERS = (
  manager,
  standard,
  pytree,
  without_ocdbt,
  version_1,
  version_1_training,
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
  monkeypatch.setattr(orbax_files, '_SETTLING_SECONDS', 0.01)


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(actual))
  assert trees.content_hash(actual) == trees.content_hash(expected)


def refusal(act):
  """The text of a refusal: one line, without blame or advice to remove."""
  with pytest.raises(checkpoints.CheckpointError) as error:
    act()
  message = str(error.value)
  assert '\n' not in message
  assert 'damage' not in message
  assert 'emove' not in message
  return message


@pytest.mark.sampled(2)
@pytest.mark.parametrize('write', WRITERS)
def test_weights_of_every_writer_are_read(tmp_path, write):
  write(tmp_path, weights())
  assert checkpoints.steps(tmp_path) == (10,)
  assert_same(checkpoints.load(tmp_path, 10), weights())
  assert_same(checkpoints.load(tmp_path, 10, weights(0.0)), weights())


@pytest.mark.sampled(2)
@pytest.mark.parametrize('write', WRITERS)
def test_a_training_state_gives_its_weights(tmp_path, write):
  write(tmp_path, state())
  assert_same(checkpoints.load(tmp_path, 10), weights())


def test_a_training_state_is_restored_by_a_template(tmp_path):
  like = state()
  manager(tmp_path, like)
  assert_same(checkpoints.load(tmp_path, 10, weights()), weights())
  for part in (None, ''):
    restored = checkpoints.load(tmp_path, 10, like, part)
    assert jax.tree.structure(restored) == jax.tree.structure(like)
    assert_same(restored.params, weights())
    assert restored.opt_state[0].count == 0
  whole = checkpoints.load(tmp_path, 10, part='')
  assert sorted(whole) == ['opt_state', 'params', 'step']


def test_an_nnx_state_is_restored_by_a_template(tmp_path):
  model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
  graph, params = nnx.split(model)
  standard(tmp_path, params)
  for like in (params, nnx.to_pure_dict(params)):
    restored = checkpoints.load(tmp_path, 10, like)
    np.testing.assert_array_equal(
      nnx.merge(graph, restored)(np.ones(3)), model(np.ones(3))
    )


def test_a_named_part_is_read(tmp_path):
  standard(tmp_path, state())
  part = checkpoints.load(tmp_path, 10, part='params/dense')
  assert_same(part, weights()['dense'])
  part = checkpoints.load(tmp_path, 10, part='opt_state')
  assert part[0]['mu']['dense']['bias'].shape == (2,)
  message = refusal(lambda: checkpoints.load(tmp_path, 10, part='param'))
  assert "a part named 'param'" in message
  assert "got 'opt_state', 'params', 'step'. Give one" in message


def test_one_of_several_items_must_be_named(tmp_path):
  manager_with_items(tmp_path, weights())
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert "got several, 'average', 'weights'" in message
  assert "part='average'" in message
  for name, sign in (('weights', 1), ('average', -1)):
    item = checkpoints.load(tmp_path, 10, part=name)
    assert_same(item, weights(sign))
  item = checkpoints.load(tmp_path, 10, part='weights/rest')
  assert_same(item, weights()['rest'])


def test_foreign_checkpoints_form_a_trajectory(tmp_path):
  with v0.CheckpointManager(tmp_path) as writer:
    for step in (3, 12):
      writer.save(step, args=v0.args.StandardSave(state(step)))
      writer.wait_until_finished()
  trajectory = checkpoints.trajectory(tmp_path)
  assert trajectory.steps == (3, 12)
  stack = trajectory.load([12, 3])
  for i, step in enumerate((12, 3)):
    row = jax.tree.map(lambda leaf, i=i: leaf[i], stack)
    assert_same(row, weights(step))
  dense = checkpoints.trajectory(tmp_path, part='params/dense')
  assert_same(
    dense.load([3]), jax.tree.map(lambda x: x[None], weights(3)['dense'])
  )
  assert dense.fingerprint(3) != trajectory.fingerprint(3)


def test_foreign_and_own_checkpoints_of_equal_weights_share_a_fingerprint(
  tmp_path,
):
  """A store continues when a foreign run is saved again by `save`."""
  standard(tmp_path / 'foreign', state())
  checkpoints.save(tmp_path / 'here', 10, weights())
  checkpoints.save(tmp_path / 'other', 10, weights(2.0))
  foreign, here, other = (
    checkpoints.trajectory(tmp_path / name).fingerprint(10)
    for name in ('foreign', 'here', 'other')
  )
  assert foreign == here != other


def test_a_checkpoint_of_eight_devices_is_read_on_fewer(tmp_path):
  """Orbax would place the arrays on devices that are absent here."""
  standard(tmp_path, {'w': np.arange(8.0)})
  sharding = {
    'sharding_type': 'NamedSharding',
    'shape': [8],
    'axis_names': ['d'],
    'axis_types': ['AxisType.Explicit'],
    'partition_spec': ['d'],
    'device_mesh': {'mesh': [{'id': i} for i in range(8)]},
  }
  name = base64.b64encode(b'w').decode()
  text = json.dumps({name: json.dumps(sharding)})
  (tmp_path / '10' / '_sharding').write_text(text)
  assert_same(checkpoints.load(tmp_path, 10), {'w': np.arange(8.0)})


def test_reading_weights_skips_the_optimizer_state(tmp_path, monkeypatch):
  """The optimizer state is twice as large as the weights."""
  standard(tmp_path, state())
  read, templates = orbax_files.read, []

  def watched(path, template, item):
    templates.append(template)
    return read(path, template, item)

  monkeypatch.setattr(orbax_files, 'read', watched)
  checkpoints.load(tmp_path, 10)
  checkpoints.load(tmp_path, 10, part='params/rest/0')
  whole, one = templates
  assert whole['step'] is orbax_files.SKIPPED
  assert {*jax.tree.leaves(whole['opt_state'])} == {orbax_files.SKIPPED}
  assert {*jax.tree.leaves(one['params']['dense'])} == {orbax_files.SKIPPED}


def test_the_metadata_of_a_foreign_checkpoint_are_orbax_s_custom_metadata(
  tmp_path,
):
  version_1(tmp_path, weights())
  assert checkpoints.metadata(tmp_path) == {'step': 5}
  manager(tmp_path / 'manager', weights())
  assert checkpoints.metadata(tmp_path / 'manager') == {}


def test_a_template_unlike_a_foreign_checkpoint_is_refused(tmp_path):
  standard(tmp_path, weights())
  like = weights()
  like['dense']['bias'] = np.zeros(3, np.float32)
  message = refusal(lambda: checkpoints.load(tmp_path, 10, like))
  assert "['dense']['bias'] float32[3]; got float32[2]" in message


def test_foreign_weights_that_are_not_finite_are_refused(tmp_path):
  standard(tmp_path, {'w': np.array([1.0, np.nan])})
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert "finite numbers in ['w']" in message


def test_a_leaf_that_is_no_array_is_refused_by_name(tmp_path):
  version_1(tmp_path, {'w': np.ones(2), 'name': 'cat'})
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert "['name']" in message
  assert_same(checkpoints.load(tmp_path, 10, part='w'), np.ones(2))


def test_weights_beside_a_boolean_are_read(tmp_path):
  version_1(tmp_path, {'params': weights(), 'opt_state': {}, 'done': True})
  assert_same(checkpoints.load(tmp_path, 10), weights())


@pytest.mark.sampled(2)
@pytest.mark.parametrize('write', WRITERS)
def test_unreadable_foreign_data_is_refused_without_blame(
  tmp_path, write, capfd
):
  write(tmp_path, weights())
  for path in (tmp_path / '10').rglob('*'):
    if path.is_file() and path.name not in (
      '_CHECKPOINT_METADATA',
      '_METADATA',
    ):
      path.write_bytes(path.read_bytes()[:3])
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert f'step 10 at {tmp_path / "10"}' in message
  assert 'that Orbax can read' in message
  assert 'types.Trajectory' in message
  assert capfd.readouterr().err == ''


def test_a_directory_without_orbax_files_is_refused_with_its_contents(tmp_path):
  step = tmp_path / '10'
  step.mkdir()
  (step / 'model.safetensors').touch()
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert "got a directory with 'model.safetensors'" in message
  assert 'checkpoints.save(' in message
  (step / 'model.safetensors').unlink()
  message = refusal(lambda: checkpoints.trajectory(tmp_path).fingerprint(10))
  assert 'got an empty directory' in message


def test_the_remedy_of_a_refusal_works(tmp_path):
  """The remedy is to load with Orbax and to save here."""
  step = tmp_path / '10'
  manager(tmp_path, weights())
  (step / 'default' / '_METADATA').rename(step / 'lost')
  message = refusal(lambda: checkpoints.load(tmp_path, 10))
  assert 'checkpoints.save(NEW_DIRECTORY, 10, weights)' in message
  (step / 'lost').rename(step / 'default' / '_METADATA')
  arrays = v1.load(step, checkpointable_name='default')
  checkpoints.save(tmp_path / 'new', 10, arrays)
  assert_same(checkpoints.load(tmp_path / 'new', 10), weights())


def test_a_lost_record_does_not_make_a_checkpoint_foreign(tmp_path):
  """Otherwise unverified weights would be accepted."""
  checkpoints.save(tmp_path, 10, weights())
  path = tmp_path / '10' / '_CHECKPOINT_METADATA'
  content = json.loads(path.read_text())
  record = content['custom_metadata']
  for key in record:
    fewer = {name: x for name, x in record.items() if name != key}
    path.write_text(json.dumps({**content, 'custom_metadata': fewer}))
    with pytest.raises(checkpoints.CheckpointError):
      checkpoints.load(tmp_path, 10)
  for text in ('', '{}', '[]', '{"custom', '\x00' * 40):
    path.write_text(text)
    with pytest.raises(checkpoints.CheckpointError):
      checkpoints.load(tmp_path, 10)
  path.unlink()
  with pytest.raises(checkpoints.CheckpointError):
    checkpoints.load(tmp_path, 10)


def test_damage_to_weights_of_a_user_s_loop_advises_no_training(tmp_path):
  """A user's own loop called `save`, so we cannot train again."""
  for step in (10, 20):
    checkpoints.save(tmp_path, step, weights(), {'mine': 1})
  (tmp_path / '10' / '_CHECKPOINT_METADATA').unlink()
  with pytest.raises(checkpoints.CheckpointError, match='Put back') as error:
    checkpoints.load(tmp_path, 10)
  assert 'train' not in str(error.value).replace(str(tmp_path), '')


@pytest.mark.parametrize('directory', ['checkpoints', 'resume'])
def test_damage_to_a_run_of_train_advises_to_train_again(tmp_path, directory):
  run = {'run': '0123abcd'}
  for step in (10, 20):
    checkpoints.save(tmp_path / 'checkpoints', step, weights(), run)
  checkpoints.save(tmp_path / 'resume', 10, weights())
  broken = tmp_path / directory / '10'
  shutil.rmtree(broken)
  pathlib.Path(broken).mkdir()
  with pytest.raises(checkpoints.CheckpointError, match='train again'):
    checkpoints.load(tmp_path / directory, 10)
