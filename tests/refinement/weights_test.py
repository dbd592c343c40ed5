"""Weight refinements: lenses, and names that select them."""

import re

from absl.testing import absltest
from absl.testing import parameterized
import chex
from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import trees
from rllc_jax.models import transformer
from rllc_jax.refinement import masks
from rllc_jax.refinement import parts
from rllc_jax.refinement import weights
from tests.models import small

MODEL = transformer.Architecture(
  num_layers=2, num_heads=3, d_model=8, d_head=2, context_length=5, vocab_size=7
)
SHAPES = MODEL.shapes()
NAMES = (
  'all',
  'embed',
  'pos_embed',
  'unembed',
  '1',
  '0:attn',
  '1:2',
  '0:1+1:0',
  'embed+1:1',
)


def random_params(seed):
  return small.random_params(MODEL, seed)


def lens_of(name):
  """extract and insert of one named refinement."""
  (family,) = weights.families([name], SHAPES, lambda params, batch: 0.0)
  index = jax.tree.map(lambda leaf: leaf[0], family.indices)
  return (
    lambda params: family.lens.extract(params, index),
    lambda position, params: family.lens.insert(position, params, index),
  )


def mask_lens():
  params = random_params(0)
  mask = jax.tree.map(lambda leaf: leaf > 1, params)
  index, lens = masks.mask_index(mask, params), masks.coordinates()
  return (
    lambda params: lens.extract(params, index),
    lambda position, params: lens.insert(position, params, index),
  )


@pytest.mark.sampled(4)
@pytest.mark.parametrize('name', [*NAMES, 'mask'])
def test_lens_laws_hold_for_every_refinement(name):
  extract, insert = mask_lens() if name == 'mask' else lens_of(name)
  w = random_params(0)
  u, v = extract(random_params(1)), extract(random_params(2))
  # Writing back what was read changes nothing; what was written is what is
  # read; the last write wins.
  chex.assert_trees_all_equal(insert(extract(w), w), w)
  chex.assert_trees_all_equal(extract(insert(u, w)), u)
  chex.assert_trees_all_equal(insert(v, insert(u, w)), insert(v, w))


@pytest.mark.sampled(3)
@pytest.mark.parametrize('name', NAMES)
def test_the_mask_of_a_lens_frees_the_same_numbers(name):
  (family,) = weights.families([name], SHAPES, lambda p, b: 0.0)
  index = jax.tree.map(lambda leaf: leaf[0], family.indices)
  params = random_params(0)
  mask = weights.mask_of(family.lens, index, params)
  moved = family.lens.extract(params, index)
  flat = masks.coordinates().extract(params, masks.mask_index(mask, params))
  numbers = np.concatenate([x.ravel() for x in jax.tree.leaves(moved)])
  np.testing.assert_array_equal(np.sort(flat), np.sort(numbers))


class LensTest(absltest.TestCase):
  def test_heads_tile_the_attention_weights_but_for_b_O(self):
    w = random_params(0)
    heads = [lens_of(n)[0](w) for n in parts.head_names(SHAPES)]
    layers = [lens_of(f'{i}:attn')[0](w) for i in range(2)]
    expected = sum(
      trees.norm(layer) ** 2 - trees.norm(layer['b_O']) ** 2 for layer in layers
    )
    total = sum(trees.norm(head) ** 2 for head in heads)
    np.testing.assert_allclose(total, expected, rtol=1e-6)

  def test_a_head_of_the_paper_has_32864_numbers(self):
    shapes = transformer.Architecture().shapes()
    (family,) = weights.families(['1:7'], shapes, lambda p, b: 0.0)
    index = jnp.int32(7)
    head = jax.eval_shape(family.lens.extract, shapes, index)
    self.assertEqual(trees.size(head), 32_864)
    self.assertLen(jax.tree.leaves(head), 7)


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ('1:0+0:2+0:1', '0:1+0:2+1:0'),
    (' 0:1 + embed', '0:1+embed'),
    ('01', '1'),
    ('l1h2+l0h0', '0:0+1:2'),
  )
  def test_one_refinement_has_one_name(self, name, canonical):
    self.assertEqual(parts.canonical_name(name, SHAPES), canonical)

  def test_names_that_differ_in_heads_alone_form_a_family(self):
    names = ['0:0', '1:1', '0:2', 'all', '0:1+1:0', '1:2+0:0', '0:1+0:2']
    families = weights.families(names, SHAPES, lambda p, b: 0.0)
    self.assertEqual(
      [family.names for family in families],
      [
        ('0:0', '0:2'),
        ('1:1',),
        ('all',),
        ('0:1+1:0', '0:0+1:2'),
        ('0:1+0:2',),
      ],
    )
    np.testing.assert_array_equal(families[0].indices, [0, 2])
    np.testing.assert_array_equal(families[3].indices, [[1, 0], [0, 2]])

  def test_the_same_lens_is_the_same_object(self):
    """Compiled programs are looked up by the lens object."""
    a, b = (
      weights.families(['0:0+0:1'], SHAPES, random_params)[0] for _ in range(2)
    )
    self.assertIs(a.lens, b.lens)
    self.assertIs(a.loss, b.loss)

  @parameterized.parameters('0:3', '2:0', '2', '0:x', '', 'mlp', '-1:0', '0:-1')
  def test_an_unknown_name_is_refused_with_the_known_ones(self, name):
    with self.assertRaisesRegex(ValueError, '0:0, 0:1, 0:2, 1:0, 1:1, 1:2'):
      weights.families([name], SHAPES, lambda p, b: 0.0)

  @parameterized.parameters('0:1+0', '0:attn+0:1', 'all+embed', '1:1+1:1')
  def test_parts_that_overlap_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, 'must not overlap'):
      weights.families([name], SHAPES, lambda p, b: 0.0)

  def test_a_refinement_named_twice_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'named once'):
      weights.families(['0:1+1:0', '1:0+0:1'], SHAPES, lambda p, b: 0.0)


def shapes_of(num_heads, num_groups=None, biases=True, d=8, e=2):
  """One block; keys and values of `num_groups` heads."""
  groups = num_groups or num_heads
  count = {'Q': num_heads, 'K': groups, 'V': groups}
  attn = {f'W_{x}': np.zeros((n, d, e)) for x, n in count.items()}
  attn['W_O'] = np.zeros((num_heads, e, d))
  if biases:
    attn |= {f'b_{x}': np.zeros((n, e)) for x, n in count.items()}
    attn['b_O'] = np.zeros(d)
  return {'blocks_0': {'attn': attn}, 'embed': {'W_E': np.zeros((7, d))}}


def family_of(name, params):
  (family,) = weights.families([name], params, lambda p, b: 0.0)
  return family


class HeadAxisTest(parameterized.TestCase):
  @parameterized.parameters(
    lambda params: parts.head_names(params),
    lambda params: family_of('0:1', params),
    lambda params: family_of('embed+0:3', params),
    lambda params: parts.canonical_name('0:1', params),
  )
  def test_groups_of_unequal_size_are_refused_by_leaf(self, ask):
    with self.assertRaisesRegex(
      ValueError, 'one leading axis.*block 0.*W_Q with 4, W_K with 3.*Lens'
    ):
      ask(shapes_of(4, 3))

  def test_each_of_the_seven_weights_must_have_the_head_axis(self):
    for name in parts.HEAD_WEIGHTS:
      params = shapes_of(4)
      attn = params['blocks_0']['attn']
      attn[name] = attn[name][:3]
      with self.assertRaisesRegex(ValueError, f'{name} with 3'):
        family_of('0:1', params)

  def test_a_head_moves_the_keys_and_values_that_it_shares(self):
    params = jax.tree.map(jnp.asarray, shapes_of(4, 2))
    for name, queries, groups in (
      ('0:1', [1], [0]),
      ('0:2', [2], [1]),
      ('0:g1', [2, 3], [1]),
    ):
      family = family_of(name, params)
      mask = weights.mask_of(family.lens, family.indices[0], params)
      attn = mask['blocks_0']['attn']
      for leaf in ('W_Q', 'W_O', 'b_Q', 'W_K', 'W_V', 'b_K', 'b_V'):
        moves = np.asarray(attn[leaf]).reshape(len(attn[leaf]), -1)
        np.testing.assert_array_equal(moves.all(axis=1), moves.any(axis=1))
        expected = groups if leaf[2] in 'KV' else queries
        self.assertEqual(np.flatnonzero(moves.all(axis=1)).tolist(), expected)
      self.assertFalse(attn['b_O'].any())

  @parameterized.parameters('0:0+0:1', '0:1+0:g0', '0:g1+0:g1')
  def test_heads_that_share_keys_overlap(self, name):
    with self.assertRaisesRegex(ValueError, 'must not overlap'):
      family_of(name, shapes_of(4, 2))
    self.assertEqual(family_of('0:2+0:0', shapes_of(4, 2)).names, ('0:0+0:2',))

  def test_an_unknown_name_is_refused_beside_grouped_queries(self):
    with self.assertRaisesRegex(
      ValueError, 'one of all, embed, 0, 0:attn, 0:0, .*, 0:g0, 0:g1.*0:g2'
    ):
      family_of('0:g2', shapes_of(4, 2))
    with self.assertRaisesRegex(ValueError, "0:3, or.*'0:g1'"):
      family_of('0:g1', shapes_of(4))

  def test_tied_weights_are_one_part(self):
    with self.assertRaisesRegex(ValueError, 'tied.*name embed'):
      family_of('unembed', shapes_of(2))

  def test_a_leaf_without_axes_is_refused(self):
    params = shapes_of(4)
    params['blocks_0']['attn']['b_Q'] = np.zeros(())
    with self.assertRaisesRegex(ValueError, 'b_Q with none'):
      family_of('0:1', params)

  def test_names_are_all_heads_and_no_more(self):
    """A larger number would be read from the last head and written nowhere."""
    self.assertEqual(parts.head_names(shapes_of(2)), ('0:0', '0:1'))
    with self.assertRaisesRegex(ValueError, "0:0, 0:1, or.*'0:2'"):
      family_of('0:2', shapes_of(2))

  def test_missing_biases_are_no_part_of_a_head(self):
    params = jax.tree.map(lambda x: x + 1.0, shapes_of(3, biases=False))
    family = family_of('0:2', params)
    index = jnp.int32(2)
    head = family.lens.extract(jax.tree.map(jnp.asarray, params), index)
    self.assertEqual(set(head), {'W_Q', 'W_K', 'W_V', 'W_O'})
    mask = weights.mask_of(family.lens, index, params)['blocks_0']['attn']
    for leaf in mask.values():
      self.assertEqual(leaf.any(axis=(1, 2)).tolist(), [False, False, True])

  def test_a_missing_matrix_is_refused_by_name(self):
    params = shapes_of(3)
    attn = params['blocks_0']['attn']
    attn['_W_K'] = attn.pop('W_K')  # As TransformerLens names grouped ones.
    for ask in (parts.head_names, lambda p: family_of('0:1', p)):
      with self.assertRaisesRegex(ValueError, 'W_K.*_W_K.*Lens'):
        ask(params)

  def test_blocks_without_attention_have_no_heads(self):
    params = {**shapes_of(2), 'blocks_1': {'mlp': {'W_in': np.zeros(3)}}}
    self.assertEqual(parts.head_names(params), ('0:0', '0:1'))
    self.assertEqual(family_of('1', params).names, ('1',))
    for name in ('1:0', '1:attn'):
      with self.assertRaisesRegex(
        ValueError, 'one of all, embed, 0, 1, 0:attn'
      ):
        family_of(name, params)

  def test_blocks_keep_their_numbers(self):
    params = {'blocks_2': shapes_of(2)['blocks_0'], 'blocks': np.zeros(1)}
    self.assertEqual(parts.head_names(params), ('2:0', '2:1'))
    with self.assertRaisesRegex(ValueError, 'one of all, 2, 2:attn, 2:0, 2:1'):
      family_of('0:0', params)


def flat_state_dict():
  nested = traverse_util.flatten_dict(random_params(0), sep='.')
  return {key.replace('blocks_', 'blocks.'): w for key, w in nested.items()}


class NamedWeightsTest(parameterized.TestCase):
  """Params that are no nested dict of blocks are refused with a remedy."""

  def repaired(self, error, params):
    """Runs the lines of a message, as a user would."""
    *imports, last = re.findall('`(.*?)`', str(error))
    scope = {'params': params, 'np': np}
    for line in imports:
      exec(line, scope)
    return eval(last, scope)

  @parameterized.parameters(
    (lambda: flat_state_dict(), 'blocks.0.attn'),
    (lambda: {'params': random_params(0)}, "'params'"),
    (lambda: {'model': random_params(0), 'reference': {}}, "'model'"),
  )
  def test_the_remedy_in_the_message_works(self, make, got):
    params = make()
    for ask in (parts.head_names, lambda p: family_of('0:1', p)):
      with self.assertRaisesRegex(
        ValueError, f'blocks_0.*got.*{got}'
      ) as context:
        ask(params)
      nested = self.repaired(context.exception, params)
      self.assertEqual(
        parts.head_names(nested), parts.head_names(random_params(0))
      )
      chex.assert_trees_all_equal(nested, dict(random_params(0)))

  @parameterized.parameters(
    ({'w': np.zeros(3)}, "'w'"),
    ({}, 'an empty dict'),
    ([np.zeros(3)], 'list'),
    (np.zeros(3), 'ndarray'),
    ({0: np.zeros(3)}, '0'),
    ({'blocks_0': np.zeros(3), 'blocks_x': 0.0}, None),
  )
  def test_other_models_are_refused(self, params, got):
    text = f'got.*{got}' if got else 'attn'
    with self.assertRaisesRegex(ValueError, text):
      parts.head_names(params)
    with self.assertRaises(ValueError):
      family_of('0:0', params)

  def test_all_of_any_model_moves(self):
    for params in ({'w': np.zeros(3)}, [np.zeros(3)], np.zeros(3)):
      self.assertEqual(family_of('all', params).names, ('all',))

  @parameterized.parameters(
    ('all', {}),
    ('all', {'w': np.zeros((0, 3))}),
    ('embed', {'embed': {}, 'w': np.zeros(3)}),
    ('all', ()),
  )
  def test_a_part_without_weights_is_refused_by_name(self, name, params):
    with self.assertRaisesRegex(ValueError, f"at least one.*got '{name}'"):
      family_of(name, params)


class MaskTest(absltest.TestCase):
  def test_mask_values_other_than_0_and_1_are_refused(self):
    with self.assertRaisesRegex(ValueError, '0 and 1 alone.*0.5'):
      masks.mask_index({'a': np.array([0.5, 1])}, {'a': np.zeros(2)})

  def test_a_mask_of_zeros_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      masks.mask_index({'a': 0}, {'a': np.zeros(2)})


if __name__ == '__main__':
  absltest.main()
