"""Cross-entropy by chunks is the plain cross-entropy, value and gradient."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax.models import unembedding

# One token a chunk, chunks that fit, chunks that do not, one chunk for all.
CHUNK_SIZES = (1, 4, 7, 12, 100)


class UnembedTest(parameterized.TestCase):
  @parameterized.parameters(*CHUNK_SIZES)
  def test_any_chunk_is_the_plain_loss(self, chunk_size):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, 4, 5))
    W_U = 3 * jax.random.normal(keys[1], (5, 11))
    b_U = jax.random.normal(keys[2], (11,))
    targets = jax.random.randint(keys[3], (3, 4), 0, 11)

    def plain(x):
      return losses.cross_entropy(x @ W_U + b_U[None, None], targets)

    def by_chunks(x):
      return unembedding.unembed_cross_entropy(x, W_U, b_U, targets, chunk_size)

    with jax.default_matmul_precision('highest'):
      value, gradient = jax.jit(jax.value_and_grad(by_chunks))(x)
      expected, expected_gradient = jax.value_and_grad(plain)(x)
      alone = jax.jit(by_chunks)(x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    # Twenty roundings of numbers near 1.
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)

  def test_far_logits_do_not_overflow(self):
    """exp(1000) is infinite; the loss of a sure and right model is 0."""
    x, targets = jnp.ones((1, 1)), jnp.array([0])
    W_U, b_U = jnp.array([[1000.0, -1000.0]]), jnp.zeros(2)
    value = unembedding.unembed_cross_entropy(x, W_U, b_U, targets, 8)
    self.assertEqual(value, 0.0)


class LowRankTest(parameterized.TestCase):
  @parameterized.parameters(*CHUNK_SIZES)
  def test_any_chunk_is_the_plain_loss(self, chunk_size):
    """In what moves; targets repeat, so that their columns must add up."""
    N, V, r, s = 12, 9, 2, 3
    keys = jax.random.split(jax.random.key(1), 8)
    normal = jax.random.normal
    targets = jax.random.randint(keys[0], (N,), 0, 4)
    base = normal(keys[1], (N, V))
    frozen = normal(keys[2], (N, r)), normal(keys[3], (r, V))
    bias = normal(keys[4], (V,))
    moving = (
      normal(keys[5], (N, s)),
      normal(keys[6], (s, V)),
      jnp.exp(normal(keys[7], (N, 1))),
    )

    def plain(moving):
      left, right, scale = moving
      product = base + frozen[0] @ frozen[1] + left @ right
      return losses.cross_entropy(product * scale + bias[None], targets)

    def by_chunks(moving):
      left, right, scale = moving
      logits = unembedding.LowRankLogits(
        base=base,
        base_target=jnp.take_along_axis(base, targets[:, None], axis=1),
        frozen_left=frozen[0],
        frozen_right=frozen[1],
        bias=bias,
        left=left,
        right=right,
        scale=scale,
      )
      return unembedding.low_rank_cross_entropy(logits, targets, chunk_size)

    with jax.default_matmul_precision('highest'):
      value, gradient = jax.jit(jax.value_and_grad(by_chunks))(moving)
      expected, expected_gradient = jax.value_and_grad(plain)(moving)
      alone = jax.jit(by_chunks)(moving)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    for found, wanted in zip(gradient, expected_gradient, strict=True):
      np.testing.assert_allclose(found, wanted, atol=2e-6)


if __name__ == '__main__':
  absltest.main()
