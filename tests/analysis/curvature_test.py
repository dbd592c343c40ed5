"""Top eigenvalues that are known, or found by brute force."""

import functools

from absl.testing import parameterized
import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.analysis import curvature
from rllc_jax.data import minibatches
from rllc_jax.models import transformer
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights

KEY = jax.random.key(0)
NO_DATA = minibatches.uniform(jnp.zeros(1), 1)
ONE = types.Window(0, 1)


def rotated(values):
  """A symmetric matrix with these eigenvalues, dense."""
  rng = np.random.default_rng(1)
  basis, _ = np.linalg.qr(rng.normal(size=(len(values),) * 2))
  return (basis * values) @ basis.T


def bowl_family(matrix, lens, indices, names):
  hessian = jnp.asarray(matrix, jnp.float32)
  loss_fn = lambda w, batch: 0.5 * w @ hessian @ w
  return types.Refinements(names, lens, indices, weights.refine(loss_fn, lens))


class BowlTest(parameterized.TestCase):
  @parameterized.parameters(
    ((7.0,),),
    ((1.0, 2.0, 5.0),),
    ((-9.0, 1.0, 5.0),),  # The largest, not the largest in size.
    ((-3.0, -2.0),),
    ((4.0, 4.0, 4.0),),
    ((0.0, 0.0),),
  )
  def test_a_small_bowl_is_exact(self, values):
    values = np.array(values)
    family = bowl_family(
      rotated(values), weights.all_weights(), jnp.zeros(1, jnp.int32), ('all',)
    )
    (top,) = curvature.top_curvatures(
      KEY, family, jnp.ones(len(values)), NO_DATA, ONE, num_batches=2
    )
    # Float32 products of a matrix of the size of its largest eigenvalue.
    self.assertLess(abs(top - values.max()), 1e-6 * abs(values).max() + 1e-12)

  def test_a_large_bowl_is_approached_from_below(self):
    """With 200 eigenvalues in a row, 32 products reach the edge to 1 %."""
    values = np.linspace(-1, 3, 200)
    matrix = rotated(values)
    calls = []

    def product(vector):
      calls.append(1)
      return matrix @ vector

    top = curvature.top_eigenvalue(product, 200, 32)
    self.assertLess(len(calls), 33)
    self.assertLess(top, 3 + 1e-9)
    self.assertGreater(top, 3 * 0.99)

  def test_an_outlier_takes_few_products(self):
    values = np.append(np.linspace(0, 1, 399), 10.0)
    calls = []

    def product(vector):
      calls.append(1)
      return values * vector

    # The error is of second order in the residual, which is 1e-3.
    self.assertLess(abs(curvature.top_eigenvalue(product, 400, 32) - 10), 1e-4)
    self.assertLess(len(calls), 12)

  def test_only_moving_weights_count(self):
    """Each block of a matrix has its own top eigenvalue."""
    matrix = rotated(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 60.0]))
    blocks = jnp.array([[0, 1, 2], [3, 4, 5]])
    family = bowl_family(matrix, masks.coordinates(), blocks, ('a', 'b'))
    tops = curvature.top_curvatures(
      KEY, family, jnp.ones(6), NO_DATA, ONE, num_batches=1
    )
    expected = [
      np.linalg.eigvalsh(matrix[np.ix_(block, block)])[-1] for block in blocks
    ]
    np.testing.assert_allclose(tops, expected, rtol=1e-5)
    self.assertGreater(abs(expected[0] - expected[1]), 1)

  def test_the_hessian_is_averaged_over_minibatches(self):
    """With directions that differ by minibatch, so no mean of eigenvalues."""
    x = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    data = minibatches.uniform(x, 3)
    loss_fn = lambda w, batch: 0.5 * jnp.mean((batch @ w) ** 2)
    family = types.Refinements(
      ('all',),
      weights.all_weights(),
      jnp.zeros(1, jnp.int32),
      weights.refine(loss_fn, weights.all_weights()),
    )
    window = types.Window(10, 20)
    (top,) = curvature.top_curvatures(
      KEY, family, jnp.zeros(4), data, window, num_batches=5
    )
    batches = [
      np.asarray(data.draw(jax.random.fold_in(KEY, i), i, data.data, window))
      for i in range(5)
    ]
    hessian = np.mean([b.T @ b / 3 for b in batches], axis=0)
    expected = np.linalg.eigvalsh(hessian)[-1]
    np.testing.assert_allclose(top, expected, rtol=1e-5)

  def test_a_product_that_is_not_finite_gives_nan(self):
    nothing = lambda vector: np.nan * vector
    self.assertTrue(np.isnan(curvature.top_eigenvalue(nothing, 3, 32)))


def test_heads_of_a_transformer_agree_with_the_dense_hessian():
  model = transformer.Architecture(
    num_layers=1,
    num_heads=2,
    d_model=6,
    d_head=2,
    vocab_size=11,
    context_length=5,
  )
  rng = np.random.default_rng(0)
  tokens = jnp.asarray(rng.integers(0, 11, (12, 6)), jnp.int32)
  params = jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    model.shapes(),
  )
  apply = functools.partial(transformer.apply, model)
  loss_fn = losses.next_token_loss(apply)
  (family,) = weights.families(['0:0', '0:1'], params, loss_fn)
  data, window = minibatches.uniform(tokens, 12), types.Window(0, 12)
  tops = curvature.top_curvatures(
    KEY, family, params, data, window, num_batches=1, num_iterations=100
  )
  batch = data.draw(jax.random.fold_in(KEY, 0), 0, tokens, window)

  @jax.jit
  def hessian(head):
    flat, unravel = ravel_pytree(family.lens.extract(params, head))
    loss = lambda u: loss_fn(
      family.lens.insert(unravel(u), params, head), batch
    )
    return jax.hessian(loss)(flat)

  expected = [np.linalg.eigvalsh(hessian(head))[-1] for head in range(2)]
  # Lanczos stops at a residual of 1e-3, of which the error is the square.
  np.testing.assert_allclose(tops, expected, rtol=1e-4)
  assert abs(expected[0] - expected[1]) > 0.01 * expected[0]
