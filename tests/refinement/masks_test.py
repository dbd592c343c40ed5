"""A mask is a lens onto exactly the leaves that it touches."""

from typing import NamedTuple

from absl.testing import absltest
from absl.testing import parameterized
import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld


class Pair(NamedTuple):
  u: jax.Array
  v: jax.Array


def tree():
  values = np.random.default_rng(0).normal(size=40).astype(np.float32)
  return {
    'box': jnp.asarray(values[:12].reshape(3, 4)),
    'fixed': jnp.asarray(values[12:15]),
    'pair': Pair(jnp.asarray(values[15:21].reshape(2, 3)), values[21:22]),
    'scalar': jnp.asarray(values[22]),
    'scattered': jnp.asarray(values[23:31].reshape(2, 2, 2)),
  }


def tree_mask():
  """A box, one leaf alone, an upper part, and places without a pattern."""
  box = np.zeros((3, 4), bool)
  box[1:, 2:] = True
  return {
    'box': box,
    'fixed': False,
    'pair': True,
    'scalar': 1,
    'scattered': np.array([[[1, 0], [0, 1]], [[0, 1], [1, 1]]]),
  }


def sample(lens, index, loss_fn, params, num_steps=25):
  """Losses and squared distances of a chain of SGLD, [num_steps] each."""
  kernel, step_size = sgld.sgld(), jnp.float32(1e-3)
  refined = weights.refine(loss_fn, lens)
  center = lens.extract(params, index)

  def squared_distance(u):
    difference = trees.subtract(u, center)
    return trees.dot(difference, difference)

  def step(state, key):
    noise_key, batch_key = jax.random.split(key)
    batch = jax.random.randint(batch_key, (2, 5), 0, 7)
    context, _ = refined.context(params, batch)
    potential = types.Potential(
      lambda u: refined.loss(u, context, index),
      lambda u: 50 * squared_distance(u),
      30.0,
    )
    new, info = kernel.step(noise_key, state, potential, step_size)
    return new, (info.loss, squared_distance(state.position))

  keys = jax.random.split(jax.random.key(3), num_steps)
  run = jax.jit(lambda state: jax.lax.scan(step, state, keys)[1])
  return run(kernel.init(center))


def quartic(params, batch):
  """A loss in which every number has another curvature."""
  flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
  scale = 1 + jnp.arange(len(flat)) / len(flat)
  noise = jnp.mean(batch.astype(jnp.float32))
  return jnp.sum(scale * flat**2 + flat**4 / 10) * noise / 10


class LensTest(parameterized.TestCase):
  def test_lens_laws_hold_for_all_kinds_of_leaves(self):
    w, (lens, index) = tree(), masks.mask_lens(tree_mask(), tree())
    u = lens.extract(jax.tree.map(lambda leaf: leaf + 1, w), index)
    moved = lens.insert(u, w, index)
    chex.assert_trees_all_equal(
      lens.insert(lens.extract(w, index), w, index), w
    )
    chex.assert_trees_all_equal(lens.extract(moved, index), u)
    frees = jax.tree.map(
      lambda m, part: jax.tree.map(lambda x: np.broadcast_to(m, x.shape), part),
      tree_mask(),
      w,
    )
    expected = jax.tree.map(lambda x, m: np.where(m, x + 1, x), w, frees)
    chex.assert_trees_all_equal(moved, expected)

  def test_numbers_keep_the_order_of_ravel_pytree(self):
    lens, index = masks.mask_lens(tree_mask(), tree())
    flat = masks.coordinates().extract(
      tree(), masks.mask_index(tree_mask(), tree())
    )
    position = lens.extract(tree(), index)
    numbers = np.concatenate([np.ravel(x) for x in jax.tree.leaves(position)])
    np.testing.assert_array_equal(numbers, flat)

  def test_leaves_that_stay_are_not_copied(self):
    w, (lens, index) = tree(), masks.mask_lens(tree_mask(), tree())
    moved = lens.insert(lens.extract(w, index), w, index)
    self.assertIs(moved['fixed'], w['fixed'])

  def test_leaves_that_stay_are_not_ravelled(self):
    """The work of a write is that of the leaves that it touches."""
    params = {'a': jnp.zeros(4), 'b': jnp.zeros((50, 7)), 'c': jnp.zeros(4)}
    mask = {'a': np.array([1, 0, 0, 1]), 'b': False, 'c': True}
    lens, index = masks.mask_lens(mask, params)
    u = lens.extract(params, index)
    program = str(jax.make_jaxpr(lens.insert)(u, params, index))
    self.assertNotIn('350', program)
    self.assertNotIn('concatenate', program)
    self.assertEqual(program.count('scatter['), 1)
    self.assertNotIn('slice', program)  # A whole leaf is replaced.

  def test_masks_of_one_shape_share_a_program(self):
    def head(h):
      mask = np.zeros((4, 3, 2), bool)
      mask[h] = True
      return {'W': mask, 'b': np.arange(8) % 4 == h}

    params = {'W': jnp.zeros((4, 3, 2)), 'b': jnp.zeros(8)}
    (a, i), (b, j) = (masks.mask_lens(head(h), params) for h in (0, 3))
    self.assertIs(a, b)
    self.assertEqual(jax.tree.structure(i), jax.tree.structure(j))
    chex.assert_trees_all_equal_shapes_and_dtypes(i, j)
    write = jax.jit(a.insert)
    for index in (i, j):
      write(a.extract(params, index), params, index)
    self.assertEqual(write._cache_size(), 1)

  def test_a_box_needs_no_index_per_number(self):
    """Or every chain would hold as many places as it holds weights."""
    mask = {'W': np.zeros((6, 50), bool), 'b': True}
    mask['W'][:, 10:30] = True
    _, index = masks.mask_lens(mask, {'W': np.zeros((6, 50)), 'b': np.zeros(9)})
    self.assertEqual(sum(np.size(leaf) for leaf in index), 3)

  def test_an_nnx_state_takes_a_mask(self):
    _, params = nnx.split(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Param)
    mask = jax.tree.map(lambda leaf: leaf.ndim == 1, params)
    lens, index = masks.mask_lens(mask, params)
    (bias,) = lens.extract(params, index)
    moved = lens.insert((bias + 1,), params, index)
    chex.assert_trees_all_equal(moved['bias'][...], params['bias'][...] + 1)
    chex.assert_trees_all_equal(moved['kernel'][...], params['kernel'][...])

  def test_shapes_may_stand_for_params(self):
    shapes = jax.eval_shape(tree)
    lens, index = masks.mask_lens(tree_mask(), shapes)
    self.assertIs(lens, masks.mask_lens(tree_mask(), tree())[0])
    moving = jax.eval_shape(lens.extract, shapes, index)
    self.assertEqual(sum(leaf.size for leaf in moving), 4 + 7 + 1 + 5)


class ChainTest(absltest.TestCase):
  """Chains are those of the lens that ravels every weight, number by number."""

  def assert_same_chains(self, mask, loss_fn, params):
    raveled = masks.coordinates(), masks.mask_index(mask, params)
    expected = sample(*raveled, loss_fn, params)
    chain = sample(*masks.mask_lens(mask, params), loss_fn, params)
    for trace, expected_trace in zip(chain, expected, strict=True):
      np.testing.assert_allclose(trace, expected_trace, rtol=2e-5)
    self.assertGreater(expected[1].max(), 1e-3)
    self.assertLess(expected[1].max(), 10)

  def test_any_tree_takes_a_mask(self):
    self.assert_same_chains(tree_mask(), quartic, tree())


class DtypeTest(parameterized.TestCase):
  @parameterized.parameters('int32', 'bfloat16', 'float16', 'bool')
  def test_a_free_leaf_of_another_dtype_is_refused_by_path(self, dtype):
    params = {'a': jnp.ones(3), 'n': {'b': jnp.ones(3).astype(dtype)}}
    for mask in (True, {'a': True, 'n': np.array([0, 1, 0])}):
      with self.assertRaisesRegex(
        ValueError, rf"float32 or float64.*got {dtype} at \['n'\]\['b'\].*ast"
      ):
        masks.mask_lens(mask, params)

  def test_a_fixed_leaf_keeps_its_bits(self):
    params = {
      'a': jnp.arange(4.0),
      'half': jnp.asarray([1.1, 2.7], jnp.bfloat16),
      'key': jax.random.key(7),
      'large': jnp.asarray([2**24 + 1, -1], jnp.int32),
    }
    mask = {'a': np.array([1, 0, 1, 1]), 'half': 0, 'key': 0, 'large': 0}
    lens, index = masks.mask_lens(mask, params)
    moved = lens.insert(lens.extract(params, index), params, index)
    self.assertEqual(moved['half'].dtype, jnp.bfloat16)
    self.assertEqual(int(moved['large'][0]), 2**24 + 1)
    self.assertEqual(moved['key'], params['key'])

  def test_chains_run_beside_fixed_leaves_of_any_dtype(self):
    params = {
      'a': jnp.arange(4.0) / 4,
      'half': jnp.ones(2, jnp.bfloat16),
      'n': jnp.asarray([2**24 + 1], jnp.int32),
    }

    def loss_fn(params, batch):
      assert params['half'].dtype == jnp.bfloat16
      odd = (params['n'][0] % 2).astype(jnp.float32)  # 0 after float32.
      return odd * jnp.sum(params['a'] ** 2) * jnp.float32(len(batch))

    mask = {'a': np.array([1, 0, 1, 1]), 'half': False, 'n': False}
    lens, index = masks.mask_lens(mask, params)
    loss, _ = sample(lens, index, loss_fn, params)
    self.assertGreater(loss.min(), 0.05)


class RefusalTest(parameterized.TestCase):
  @parameterized.parameters(
    ({'w': [1, 0]}, {'w': np.zeros(2)}, r"at \['w'\].*list.*np.array"),
    ({'w': {'u': 1}}, {'w': np.zeros(2)}, r"at \['w'\].*dict.*'u'.*\[2\]"),
    ({'w': 1}, {'w': np.zeros(2), 'b': 0.0}, r"at the top.*'w'.*'b', 'w'"),
    ({'a': {'u': 1, 'x': 0}}, {'a': {'u': 0.0}}, r"at \['a'\].*'u', 'x'.*'u'"),
    ({'w': None}, {'w': np.zeros(2)}, r"at \['w'\].*NoneType"),
    ({'l': [1, 1]}, {'l': [1.0, 2.0, 3.0]}, r"at \['l'\]"),
    ({'p': (1, 0)}, {'p': Pair(1.0, 2.0)}, r"at \['p'\].*tuple.*Pair"),
    ({'p': [1, 0]}, {'p': (1.0, 2.0)}, r"at \['p'\].*list.*tuple"),
  )
  def test_another_structure_is_refused_by_path(self, mask, params, text):
    start = '^mask must be a tree like params or its upper part'
    with self.assertRaisesRegex(ValueError, f'{start}.*{text}'):
      masks.mask_lens(mask, params)

  @parameterized.parameters(
    (np.array([1, 0, 1]),), (np.ones((2, 2, 1)),), (np.ones((1, 2, 2)),)
  )
  def test_a_shape_that_does_not_broadcast_is_refused_by_path(self, marks):
    with self.assertRaisesRegex(
      ValueError, rf"broadcast.*at \['w'\] got .*{marks.shape[-1]}\].*\[2, 2\]"
    ):
      masks.mask_lens({'w': marks}, {'w': np.zeros((2, 2))})

  def test_values_other_than_0_and_1_are_refused(self):
    for bad in (0.5, -1, np.nan):
      with self.assertRaisesRegex(
        ValueError, rf"0 and 1 alone.*{bad}.*\['a'\]"
      ):
        masks.mask_lens({'a': np.array([bad, 1])}, {'a': np.zeros(2)})

  @parameterized.parameters(
    ({'a': 0}, {'a': np.zeros(2)}), (True, {'a': np.zeros(0)}), (True, {})
  )
  def test_a_mask_of_zeros_is_refused(self, mask, params):
    with self.assertRaisesRegex(ValueError, 'at least one'):
      masks.mask_lens(mask, params)

  def test_a_mask_may_free_one_number(self):
    mask = {'a': np.array([0, 1, 0])}
    lens, index = masks.mask_lens(mask, {'a': np.arange(3.0)})
    (moving,) = lens.extract({'a': jnp.arange(3.0)}, index)
    np.testing.assert_array_equal(moving, [1])


if __name__ == '__main__':
  absltest.main()
