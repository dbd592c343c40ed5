"""`load` restores every tree that `save` accepts; others are refused."""

import collections
import json
import re
from typing import Any, NamedTuple

from flax import linen
from flax import nnx
from flax import struct
from flax.core import frozen_dict
from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rllc_jax.training import checkpoints

W = np.arange(3, dtype=np.float32)


class Model(nnx.Module):
  """More than ten layers: as texts, 10 comes before 2."""

  def __init__(self):
    rngs = nnx.Rngs(0)
    self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return x


class Pair(NamedTuple):
  first: Any
  second: Any


@struct.dataclass
class Weights:
  kernel: Any
  width: int = struct.field(pytree_node=False, default=3)


def state():
  return train_state.TrainState.create(
    apply_fn=print, params={'w': jnp.asarray(W)}, tx=optax.adamw(1e-3)
  )


def several_optimizers():
  transforms = {'a': optax.adam(1e-3), 'b': optax.sgd(1.0, momentum=0.9)}
  optimizer = optax.multi_transform(transforms, {'v': 'a', 'w': 'b'})
  return optimizer.init({'v': jnp.ones(2), 'w': jnp.asarray(W)})


def model_state():
  return nnx.state(Model(), nnx.Param)


# Trees that are restored as they are.
PLAIN = {
  'names': {'a': W, 'b': {'c': 2 * W}},
  'names with dots': {'blocks.0.attn.W_Q': W, 'blocks.0': {'x/y': W}, '': W},
  'numbers as texts': {'0': W, '1': W, '10': W, '2': W},
  'numbers': {0: W, 1: {-3: W}, 10: W, 2: W},
  'numbers of empty nodes': {0: {}, 1: W, 2: None, 10: []},
  'lists': [W, [{'a': W}], {3: [W]}],
  'empty nodes': {'a': {}, 'b': [], 'c': None, 'd': W},
  'quotes': {"it's": W, 'say "so"': W, 'both \' and "': W, 'back\\slash': W},
  'brackets': {"a']['b": W, 'a': {'b': W}, '[0]': W, 'é\n': W},
  'one array': W,
  'a scalar': {'a': np.float32(2.0)},
  'nnx': nnx.to_pure_dict(model_state()),
}

# Trees that are restored as dicts and lists, and as they are with `like`.
TYPED = {
  'tuples': ((W, (W, {4: W})), [W, [W, {4: W}]]),
  'fields': (Pair(W, {'x': 2 * W}), {'first': W, 'second': {'x': 2 * W}}),
  'a dataclass': ({'a': Weights(W)}, {'a': {'kernel': W}}),
  'ordered': (collections.OrderedDict(b=W, a=2 * W), {'a': 2 * W, 'b': W}),
  'frozen': (frozen_dict.freeze({'a': {'b': W}}), {'a': {'b': W}}),
  'boxes': ({'k': linen.Partitioned(W, names=('x',))}, {'k': W}),
  'nnx': (model_state(), nnx.to_pure_dict(model_state())),
  'numbers': ({'a': 3, 'b': 0.5}, {'a': np.array(3), 'b': np.array(0.5)}),
}


def assert_same(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, b in zip(
    jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
  ):
    b = np.asarray(b)
    assert isinstance(a, np.ndarray)
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.tobytes() == b.tobytes()


def refusal(tmp_path, tree):
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.save(tmp_path, 1, tree)
  assert not [*tmp_path.iterdir()]
  assert '\n' not in str(error.value)
  assert 'room' not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('name', PLAIN)
def test_dicts_and_lists_are_restored(tmp_path, name):
  checkpoints.save(tmp_path, 1, PLAIN[name])
  assert_same(checkpoints.load(tmp_path, 1), PLAIN[name])
  assert_same(checkpoints.load(tmp_path, 1, PLAIN[name]), PLAIN[name])


@pytest.mark.parametrize('name', TYPED)
def test_other_nodes_load_as_dicts_and_lists_or_as_the_template(tmp_path, name):
  tree, plain = TYPED[name]
  checkpoints.save(tmp_path, 1, tree)
  assert_same(checkpoints.load(tmp_path, 1), plain)
  restored = checkpoints.load(tmp_path, 1, tree)
  assert_same(restored, tree)
  assert type(restored) is type(tree)


@pytest.mark.parametrize('make', [state, several_optimizers])
def test_training_states_are_restored_by_a_template(tmp_path, make):
  tree = make()
  checkpoints.save(tmp_path, 1, tree)
  assert_same(checkpoints.load(tmp_path, 1, tree), tree)
  plain = checkpoints.load(tmp_path, 1)
  checkpoints.save(tmp_path, 2, plain)
  assert_same(checkpoints.load(tmp_path, 2), plain)
  leaves = jax.tree.leaves(plain)
  assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
  assert len(leaves) == len(jax.tree.leaves(tree))


def test_a_training_state_loads_as_a_dict_of_its_fields(tmp_path):
  checkpoints.save(tmp_path, 1, state())
  restored = checkpoints.load(tmp_path, 1)
  assert sorted(restored) == ['opt_state', 'params', 'step']
  np.testing.assert_array_equal(restored['params']['w'], W)
  assert restored['opt_state'][0]['count'] == 0
  part = checkpoints.load(tmp_path, 1, part='params')
  assert_same(part, {'w': W})


def test_a_restored_nnx_model_computes_the_same(tmp_path):
  model, x = Model(), jnp.ones((1, 2))
  graph, params = nnx.split(model)
  checkpoints.save(tmp_path, 1, params)
  for like in (None, params):
    restored = checkpoints.load(tmp_path, 1, like)
    np.testing.assert_array_equal(nnx.merge(graph, restored)(x), model(x))
  stack = checkpoints.trajectory(tmp_path, like=params).load([1])
  first = jax.tree.map(lambda leaf: leaf[0], stack)
  assert isinstance(first, nnx.State)
  np.testing.assert_array_equal(nnx.merge(graph, first)(x), model(x))


def test_a_difference_is_named_by_the_template_s_field(tmp_path):
  checkpoints.save(tmp_path, 1, {'first': W, 'second': W})
  message = r'expected \.first int32\[3\]; got float32\[3\]'
  with pytest.raises(checkpoints.CheckpointError, match=message):
    checkpoints.load(tmp_path, 1, Pair(W.astype(np.int32), W))


def test_a_trajectory_of_a_part_loads_that_part(tmp_path):
  checkpoints.save(tmp_path, 1, state())
  trajectory = checkpoints.trajectory(tmp_path, part='params')
  assert_same(trajectory.load([1]), {'w': W[None]})
  assert trajectory.fingerprint(1) != checkpoints.trajectory(
    tmp_path
  ).fingerprint(1)


@pytest.mark.parametrize(
  ('tree', 'message'),
  [
    ({'a': {'b': 'text'}}, r"\['a'\]\['b'\].*got a str"),
    ({'act': jax.nn.relu, 'w': W}, r"\['act'\].*got a"),
    ({'a': object()}, r"\['a'\].*got a object"),
    ({'a': jax.random.key(0)}, r"\['a'\].*key_data"),
    ({'a': jax.ShapeDtypeStruct((2,), np.float32)}, r"\['a'\].*ShapeDtype"),
    ({'a': np.array(['2020'], 'datetime64[Y]')}, r"\['a'\].*datetime64"),
    ({'a': np.zeros((0, 3), np.float32)}, r"\['a'\].*got shape \[0, 3\]"),
    ({'a': np.ones(2, np.longdouble)}, r"\['a'\].*(float128|longdouble)"),
    ({}, 'at least one array; got none'),
    ({'a': None}, 'at least one array; got none'),
    ({'a': {1.5: W}}, r"\['a'\]\[1.5\].*got a float"),
    ({True: W}, r'\[True\].*got a bool'),
    ({(1, 2): W}, 'got a tuple'),
    ({np.int64(3): W}, 'got a int64'),
    ({'a': {1: W, 'b': W}}, r"\['a'\].*both"),
    ({'a\ud800': W}, 'ud800'),
    ({'a.b': W, 'a': {'b': W}}, r"\['a'\]\['b'\] and \['a.b'\]"),
    (Model(), r'module Model. Give nnx\.state'),
  ],
)
def test_trees_that_cannot_be_restored_are_refused_by_name(
  tmp_path, tree, message
):
  assert re.search(message, refusal(tmp_path, tree))


class Tensor:
  """A tensor that shares its memory with numpy, as those of torch do."""

  def __init__(self, values, reason=''):
    self.values, self.reason = values, reason

  def __array__(self, dtype=None, copy=None):
    if self.reason:
      raise RuntimeError(self.reason)
    return self.values


def test_a_tensor_of_another_library_is_saved_as_an_array(tmp_path):
  checkpoints.save(tmp_path, 1, {'w': Tensor(W)})
  assert_same(checkpoints.load(tmp_path, 1), {'w': W})


def test_a_tensor_that_cannot_be_converted_is_refused_by_name(tmp_path):
  reason = "Can't call numpy() on Tensor that requires grad."
  message = refusal(tmp_path, {'a': [W, Tensor(W, reason)]})
  assert "['a'][1]" in message
  assert reason.rstrip('.') in message
  assert 'detach' in message


def test_big_endian_arrays_are_restored_in_native_order(tmp_path):
  checkpoints.save(tmp_path, 1, {'w': W.astype('>f4')})
  assert_same(checkpoints.load(tmp_path, 1), {'w': W})


def test_a_checkpoint_of_an_older_release_loads_and_hashes_the_same(tmp_path):
  """Records name leaves as they did, and have no further entries."""
  tree = {'blocks': [Pair(W, {0: 2 * W})]}
  checkpoints.save(tmp_path, 1, tree)
  path = tmp_path / '1' / '_CHECKPOINT_METADATA'
  record = json.loads(path.read_text())['custom_metadata']
  assert record == {
    'step': 1,
    'leaves': {
      "['blocks'][0].first": ['float32[3]', 818461808],
      "['blocks'][0].second[0]": ['float32[3]', 1853442045],
    },
    'metadata': {},
    'checksum': record['checksum'],
  }
  plain = {'blocks': [{'first': W, 'second': {0: 2 * W}}]}
  assert_same(checkpoints.load(tmp_path, 1), plain)
  fingerprint = checkpoints.trajectory(tmp_path).fingerprint(1)
  assert fingerprint == '5c9f83c1312b748b28c8a0b56efc97b7'
