"""Parts of anybody's model, by patterns of paths."""

import functools

from flax import linen
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax.refinement import weights
from tests.models import small


def no_loss(params, batch):
  del params, batch
  return jnp.zeros(())


def numbered(shapes):
  """Weights that are all different, so that rows tell where they come from."""
  leaves, structure = jax.tree.flatten(shapes)
  ends = np.cumsum([leaf.size for leaf in leaves])
  return structure.unflatten(
    jnp.arange(end - leaf.size, end, dtype=jnp.float32).reshape(leaf.shape)
    for leaf, end in zip(leaves, ends, strict=True)
  )


def moved_by(parts, params, name):
  """The sorted numbers of the weights that a part moves."""
  (family,) = (family for family in parts if name in family.names)
  columns = zip(*family.indices, strict=True)
  index = dict(zip(family.names, columns, strict=True))[name]
  mask = weights.mask_of(family.lens, index, params)
  pairs = zip(jax.tree.leaves(params), jax.tree.leaves(mask), strict=True)
  numbers = in_leaves(*[np.asarray(w)[np.asarray(x)] for w, x in pairs])
  read = family.lens.extract(params, index)
  np.testing.assert_array_equal(in_leaves(*jax.tree.leaves(read)), numbers)
  return numbers


def in_leaves(*leaves):
  return np.sort(np.concatenate([np.ravel(leaf) for leaf in leaves]))


OURS = {
  '{layer}:{head}': {
    'blocks_{layer}/attn/(W|b)_[QKV]': rllc_jax.axis(0, shared=True),
    'blocks_{layer}/attn/W_O': rllc_jax.axis(0),
  },
  '{layer}:mlp': {'blocks_{layer}/mlp': rllc_jax.everything},
  'embed': {'embed': rllc_jax.everything},
}


@pytest.mark.parametrize('by_place', [False, True])
def test_parts_are_those_that_have_names_here(by_place):
  """Of a model with grouped queries, against the lenses written by hand."""
  shapes = small.KINDS['llama'].shapes()
  params = numbered(shapes)
  parts = rllc_jax.parts(params, OURS, no_loss, by_place=by_place)
  heads = [f'{i}:{h}' for i in range(2) for h in range(4)]
  assert parts.names == (*heads, '0:mlp', '1:mlp', 'embed')
  for name in parts.names:
    (family,) = weights.families([name], shapes, no_loss)
    index = family.indices[0]
    expected = in_leaves(*jax.tree.leaves(family.lens.extract(params, index)))
    np.testing.assert_array_equal(moved_by(parts, params, name), expected)
  # All layers of one shape share a program, unless each has its own.
  assert len(parts) == (5 if by_place else 3)


def test_lens_laws_hold():
  shapes = small.KINDS['llama'].shapes()
  w, v = numbered(shapes), jax.tree.map(jnp.negative, numbered(shapes))
  for family in rllc_jax.parts(w, OURS, no_loss):
    index = jax.tree.map(lambda leaf: leaf[-1], family.indices)
    extract, insert = family.lens
    u = extract(v, index)
    same = lambda x, y: jax.tree.map(np.testing.assert_array_equal, x, y)
    same(insert(extract(w, index), w, index), w)
    same(extract(insert(u, w, index), index), u)


def test_an_axis_may_hold_other_things_beside_heads():
  """Fused queries, keys and values of GPT-2 (D, 3 H E) and NeoX (H 3 E, D)."""
  H, E, D = 2, 3, 5
  shapes = {
    'c_attn': jax.ShapeDtypeStruct((D, 3 * H * E), np.float32),
    'query_key_value': jax.ShapeDtypeStruct((H * 3 * E, D), np.float32),
  }
  params = numbered(shapes)
  parts = rllc_jax.parts(
    params,
    {
      'gpt2:{head}': {'c_attn': rllc_jax.axis(-1, (3, H, E), at=1)},
      'neox:{head}': {'query_key_value': rllc_jax.axis(0, (H, -1))},
    },
    no_loss,
  )
  assert parts.names == ('gpt2:0', 'gpt2:1', 'neox:0', 'neox:1')
  for h in range(H):
    fused = np.asarray(params['c_attn']).reshape(D, 3, H, E)[:, :, h]
    np.testing.assert_array_equal(
      moved_by(parts, params, f'gpt2:{h}'), in_leaves(fused)
    )
    fused = np.asarray(params['query_key_value']).reshape(H, 3, E, D)[h]
    np.testing.assert_array_equal(
      moved_by(parts, params, f'neox:{h}'), in_leaves(fused)
    )


def attention_of(module, H=2):
  """Rows of head 1 of flax's attention."""
  rows = [module[x]['kernel'][:, 1] for x in ('query', 'key', 'value')]
  rows += [module[x]['bias'][1] for x in ('query', 'key', 'value')]
  return in_leaves(*rows, module['out']['kernel'][1])


def test_heads_of_linen():
  attention = linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)
  shapes = jax.eval_shape(
    attention.init, jax.random.key(0), jnp.zeros((1, 3, 4))
  )
  params = numbered({'layers_0': shapes['params']})
  parts = rllc_jax.parts(
    params, {'{n}:{head}': rllc_jax.flax_attention('layers_{n}')}, no_loss
  )
  np.testing.assert_array_equal(
    moved_by(parts, params, '0:1'), attention_of(params['layers_0'])
  )
  assert parts.fixed == ['layers_0/out/bias']


class Block(nnx.Module):
  def __init__(self, rngs):
    self.attn = nnx.MultiHeadAttention(2, 4, 6, decode=False, rngs=rngs)
    self.up = nnx.Linear(4, 5, rngs=rngs)


class Stack(nnx.Module):
  def __init__(self, rngs):
    self.blocks = nnx.List([Block(rngs) for _ in range(3)])


def test_a_state_of_nnx_is_taken_as_it_is():
  state = nnx.eval_shape(lambda: nnx.state(Stack(nnx.Rngs(0)), nnx.Param))
  params = numbered(state)
  parts = rllc_jax.parts(
    params,
    {
      '{n}:{head}': rllc_jax.flax_attention('blocks/{n}/attn'),
      '{n}:up': {'blocks/{n}/up': rllc_jax.everything},
    },
    no_loss,
  )
  assert isinstance(parts.params, nnx.State)
  assert len(parts.names) == 9 and len(parts) == 2
  plain = nnx.to_pure_dict(params)['blocks'][2]
  np.testing.assert_array_equal(
    moved_by(parts, params, '2:1'), attention_of(plain['attn'])
  )
  np.testing.assert_array_equal(
    moved_by(parts, params, '2:up'), in_leaves(*plain['up'].values())
  )
  text = str(parts)
  assert text.startswith('9 parts: 0:0, 0:1, 1:0')
  assert 'blocks/{n}/up: blocks/0/up/bias, blocks/0/up/kernel' in text
  assert 'held fixed: blocks/0/attn/out/bias' in text


def test_what_is_no_array_is_held_fixed():
  """As in modules of Equinox, whose leaves may be functions."""
  model = {'w': jnp.ones(2), 'activation': jnp.tanh, 'rate': 0.5}

  def loss_fn(model, batch):
    return jnp.sum(model['activation'](model['w'] * batch)) * model['rate']

  parts = rllc_jax.parts(model, {'w': {'w': rllc_jax.everything}}, loss_fn)
  assert jax.tree.leaves(parts.params)[0] is model['w']
  (family,) = parts
  context, _ = family.loss.context(parts.params, jnp.ones(2))
  index = jax.tree.map(lambda leaf: leaf[0], family.indices)
  position = {'w': jnp.full(2, 3.0)}
  np.testing.assert_allclose(
    family.loss.loss(position, context, index), np.tanh(3.0), rtol=1e-6
  )


def test_the_same_lens_is_the_same_object():
  """Compiled programs are looked up by it."""
  params = numbered(small.KINDS['llama'].shapes())
  a, b = (rllc_jax.parts(params, OURS, no_loss) for _ in range(2))
  assert [x.lens for x in a] == [x.lens for x in b]
  assert [x.loss for x in a] == [x.loss for x in b]


everything, axis = rllc_jax.everything, rllc_jax.axis
shared = functools.partial(axis, shared=True)
TREE = {
  'a_0': {'w': np.zeros((4, 3), np.float32), 'b': np.zeros(2, np.float32)},
  'a_1': {'w': np.zeros((4, 3), np.float32), 'b': np.zeros(2, np.float32)},
  'n': np.zeros(3, np.int32),
}
REFUSED = {
  'no match': ({'x': {'b_{n}': everything}}, "'b_{n}' among a_0/b, a_0/w"),
  'no expression': ({'x': {'(': everything}}, r"'\(' is none"),
  'a variable too few': (
    {'x': {'a_{n}/w': everything}},
    "'x' for paths with n",
  ),
  'a variable too many': ({'{m}{n}': {'a_{n}/w': everything}}, "'{m}{n}'"),
  'no row number': ({'{n}': {'a_{n}/w': axis(0)}}, 'one more'),
  'unequal rows': (
    {'{n}:{h}': {'a_{n}/(w|b)': axis(0)}},
    'got 2 in a_0/b where others have 4.*shared=True',
  ),
  'rows that do not divide': (
    {
      '{n}:{h}': {
        'a_{n}/w': axis(1, shared=True),
        'a_{n}/b': axis(0, shared=True),
      }
    },
    'got 2 in a_0/b where others have 3',
  ),
  'no axis': ({'{n}:{h}': {'a_{n}/b': axis(1)}}, r'a_0/b.*axis 1 in \[2\]'),
  'no product': (
    {'{n}:{h}': {'a_{n}/w': axis(0, (3, -1))}},
    r'4 is no product',
  ),
  'two patterns': (
    {'{n}': {'a_{n}': everything, 'a_{n}/w': everything}},
    'got two for a_{n}/w',
  ),
  'whole numbers': ({'n': {'n': everything}}, 'int32 at n'),
  'one name': (
    {'x{n}': {'a_{n}/w': everything}, 'x0': {'a_0/b': everything}},
    "'x0' twice",
  ),
}


@pytest.mark.parametrize(('rules', 'message'), REFUSED.values(), ids=REFUSED)
def test_rules_that_do_not_fit_are_refused(rules, message):
  with pytest.raises(ValueError, match=message) as error:
    rllc_jax.parts(TREE, rules, no_loss)
  assert '\n' not in str(error.value)


def test_a_place_out_of_split_is_refused():
  with pytest.raises(ValueError, match=r'split, \(3, 4\).*got 2'):
    rllc_jax.axis(0, (3, 4), at=2)
