"""Every weight refinement is a lens, and its name says which."""

from absl.testing import absltest
from absl.testing import parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax.models import attention_only
from rllc_jax.refinement import weights

MODEL = attention_only.AttentionOnly(
  num_layers=2, num_heads=3, d_model=8, d_head=2, context_length=5, vocab_size=7
)
SHAPES = attention_only.params_shapes(MODEL)
NAMES = (
  'all',
  'embed',
  'unembed',
  '1',
  '0:attn',
  '1:2',
  '0:1+1:0',
  'embed+1:1',
)


def random_params(seed):
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), SHAPES)
  return trees.normal_like(jax.random.key(seed), zeros)


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
  index, lens = weights.mask_index(mask, params), weights.coordinates()
  return (
    lambda params: lens.extract(params, index),
    lambda position, params: lens.insert(position, params, index),
  )


class LensTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES, 'mask')
  def test_laws(self, name):
    extract, insert = mask_lens() if name == 'mask' else lens_of(name)
    w = random_params(0)
    u, v = extract(random_params(1)), extract(random_params(2))
    with self.subTest('writing back what was read changes nothing'):
      chex.assert_trees_all_equal(insert(extract(w), w), w)
    with self.subTest('what was written is what is read'):
      chex.assert_trees_all_equal(extract(insert(u, w)), u)
    with self.subTest('the last write wins'):
      chex.assert_trees_all_equal(insert(v, insert(u, w)), insert(v, w))

  def test_heads_tile_the_attention_weights_but_for_b_O(self):
    w = random_params(0)
    heads = [lens_of(n)[0](w) for n in weights.head_names(SHAPES)]
    layers = [lens_of(f'{i}:attn')[0](w) for i in range(2)]
    expected = sum(
      trees.norm(layer) ** 2 - trees.norm(layer['b_O']) ** 2 for layer in layers
    )
    total = sum(trees.norm(head) ** 2 for head in heads)
    np.testing.assert_allclose(total, expected, rtol=1e-6)

  def test_a_head_of_the_paper_has_32864_numbers(self):
    shapes = attention_only.params_shapes(attention_only.AttentionOnly())
    (family,) = weights.families(['1:7'], shapes, lambda p, b: 0.0)
    index = jnp.int32(7)
    head = jax.eval_shape(family.lens.extract, shapes, index)
    self.assertEqual(trees.size(head), 32_864)
    self.assertLen(jax.tree.leaves(head), 7)

  @parameterized.parameters(*NAMES)
  def test_the_mask_of_a_lens_frees_the_same_numbers(self, name):
    (family,) = weights.families([name], SHAPES, lambda p, b: 0.0)
    index = jax.tree.map(lambda leaf: leaf[0], family.indices)
    params = random_params(0)
    mask = weights.mask_of(family.lens, index, params)
    moved = family.lens.extract(params, index)
    flat = weights.coordinates().extract(
      params, weights.mask_index(mask, params)
    )
    numbers = np.concatenate([x.ravel() for x in jax.tree.leaves(moved)])
    np.testing.assert_array_equal(np.sort(flat), np.sort(numbers))


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ('1:0+0:2+0:1', '0:1+0:2+1:0'), (' 0:1 + embed', '0:1+embed'), ('01', '1')
  )
  def test_one_refinement_has_one_name(self, name, canonical):
    self.assertEqual(weights.canonical_name(name, SHAPES), canonical)

  def test_families_are_what_differs_in_heads_alone(self):
    names = ['0:0', '1:1', '0:2', 'all', '0:1+1:0', '1:2+0:0', '0:1+0:2']
    found = weights.families(names, SHAPES, lambda p, b: 0.0)
    self.assertEqual(
      [family.names for family in found],
      [
        ('0:0', '0:2'),
        ('1:1',),
        ('all',),
        ('0:1+1:0', '0:0+1:2'),
        ('0:1+0:2',),
      ],
    )
    np.testing.assert_array_equal(found[0].indices, [0, 2])
    np.testing.assert_array_equal(found[3].indices, [[1, 0], [0, 2]])

  def test_the_same_lens_is_the_same_object(self):
    """So that a compiled program is found again."""
    a, b = (
      weights.families(['0:0+0:1'], SHAPES, random_params)[0] for _ in range(2)
    )
    self.assertIs(a.lens, b.lens)
    self.assertIs(a.loss, b.loss)

  @parameterized.parameters('0:3', '2:0', '2', '0:x', '', 'mlp', '-1:0', '0:-1')
  def test_what_does_not_exist_is_named_with_what_does(self, name):
    with self.assertRaisesRegex(ValueError, '0:0, 0:1, 0:2, 1:0, 1:1, 1:2'):
      weights.families([name], SHAPES, lambda p, b: 0.0)

  @parameterized.parameters('0:1+0', '0:attn+0:1', 'all+embed', '1:1+1:1')
  def test_parts_that_overlap_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, 'must not overlap'):
      weights.families([name], SHAPES, lambda p, b: 0.0)

  def test_a_refinement_named_twice_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'named once'):
      weights.families(['0:1+1:0', '1:0+0:1'], SHAPES, lambda p, b: 0.0)


class MaskTest(absltest.TestCase):
  def test_neither_0_nor_1_is_refused(self):
    with self.assertRaisesRegex(ValueError, '0 and 1 alone.*0.5'):
      weights.mask_index({'a': np.array([0.5, 1])}, {'a': np.zeros(2)})

  def test_nothing_to_move_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      weights.mask_index({'a': 0}, {'a': np.zeros(2)})


if __name__ == '__main__':
  absltest.main()
