"""logsumexp by chunks is the plain one, value and gradient."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.models import unembedding

# One token a chunk, chunks that fit, chunks that do not, one chunk for all.
CHUNK_SIZES = (1, 4, 7, 12, 100)


class UnembedTest(parameterized.TestCase):
  @parameterized.parameters(*CHUNK_SIZES)
  def test_any_chunk_is_the_plain_sum(self, chunk_size):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (12, 5))
    W_U = 3 * jax.random.normal(keys[1], (5, 11))
    b_U = jax.random.normal(keys[2], (11,))
    weights = jax.random.normal(keys[3], (12,))

    def plain(x):
      return weights @ jax.nn.logsumexp(x @ W_U + b_U[None], axis=1)

    def by_chunks(x):
      return unembedding.log_partition(x, W_U, b_U, weights, chunk_size)

    with jax.default_matmul_precision('highest'):
      value, gradient = jax.jit(jax.value_and_grad(by_chunks))(x)
      expected, expected_gradient = jax.value_and_grad(plain)(x)
      alone = jax.jit(by_chunks)(x)
      doubled = jax.grad(lambda x: 2 * by_chunks(x))(x)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(alone, expected, rtol=2e-6)
    # Twenty roundings of numbers near 10.
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-5)
    np.testing.assert_allclose(doubled, 2 * expected_gradient, atol=4e-5)

  def test_far_logits_do_not_overflow(self):
    """exp(1000) is infinite."""
    x, weights = jnp.ones((1, 1)), jnp.ones(1)
    W_U, b_U = jnp.array([[1000.0, -1000.0]]), jnp.zeros(2)
    value = unembedding.log_partition(x, W_U, b_U, weights, 8)
    self.assertEqual(value, 1000.0)


class LowRankTest(parameterized.TestCase):
  @parameterized.parameters(*CHUNK_SIZES)
  def test_any_chunk_is_the_plain_sum(self, chunk_size):
    """In what moves."""
    N, V, r, s = 12, 9, 2, 3
    keys = jax.random.split(jax.random.key(1), 8)
    normal = jax.random.normal
    weights = normal(keys[0], (N,))
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
      logits = product * scale + bias[None]
      return weights @ jax.nn.logsumexp(logits, axis=1)

    def by_chunks(moving):
      logits = unembedding.LowRankLogits(base, *frozen, bias, *moving)
      return unembedding.low_rank_log_partition(logits, weights, chunk_size)

    with jax.default_matmul_precision('highest'):
      value, gradient = jax.jit(jax.value_and_grad(by_chunks))(moving)
      expected, expected_gradient = jax.value_and_grad(plain)(moving)
      alone = jax.jit(by_chunks)(moving)
      doubled = jax.grad(lambda moving: 2 * by_chunks(moving))(moving)
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(alone, expected, rtol=2e-6)
    for found, twice, wanted in zip(
      gradient, doubled, expected_gradient, strict=True
    ):
      np.testing.assert_allclose(found, wanted, atol=2e-5)
      np.testing.assert_allclose(twice, 2 * wanted, atol=4e-5)


if __name__ == '__main__':
  absltest.main()
