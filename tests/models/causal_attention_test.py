"""Attention by blocks is attention, value and gradient."""

import math

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.models import causal_attention


def plain(q, k, v):
  """All of the pattern at once, [N, T, E]."""
  scores = jnp.einsum('nqe,nke->nqk', q, k)
  causal = jnp.tril(jnp.ones(scores.shape[1:], bool))
  scores = jnp.where(causal[None], scores, -jnp.inf)
  return jax.nn.softmax(scores, axis=-1) @ v


class CausalAttentionTest(parameterized.TestCase):
  @parameterized.parameters(1, 4, 5, 10, 64)
  def test_any_block_is_the_whole_pattern(self, block_size):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, weight = (jax.random.normal(key, (3, 10, 4)) for key in keys)
    by_blocks = lambda *qkv: jnp.sum(
      weight * causal_attention.causal_attention(*qkv, block_size)
    )
    whole = lambda *qkv: jnp.sum(weight * plain(*qkv))
    every = (0, 1, 2)
    with jax.default_matmul_precision('highest'):
      found = jax.jit(jax.value_and_grad(by_blocks, every))(q, k, v)
      expected = jax.jit(jax.value_and_grad(whole, every))(q, k, v)
    leaves = map(jax.tree.leaves, (found, expected))
    for ours, wanted in zip(*leaves, strict=True):
      np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=3e-6)

  def test_without_leading_axes_and_mapped(self):
    """One head of one sequence, alone and as part of a vmap."""
    keys = jax.random.split(jax.random.key(1), 3)
    qkv = tuple(jax.random.normal(key, (2, 6, 4)) for key in keys)
    attend = lambda q, k, v: causal_attention.causal_attention(q, k, v, 4)
    together = jax.vmap(attend)(*qkv)
    alone = jnp.stack([attend(*(x[i] for x in qkv)) for i in range(2)])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)

  def test_far_scores_do_not_overflow(self):
    """A query that is sure of a key takes its value, however far the score."""
    q = jnp.array([[0.0], [1e4]])
    k, v = jnp.array([[1.0], [-1.0]]), jnp.array([[3.0], [5.0]])
    attend = lambda q: causal_attention.causal_attention(q, k, v, 1)
    np.testing.assert_allclose(attend(q), [[3.0], [3.0]])
    gradient = jax.grad(lambda q: jnp.sum(attend(q)))(q)
    self.assertTrue(math.isfinite(float(jnp.sum(gradient))))


if __name__ == '__main__':
  absltest.main()
