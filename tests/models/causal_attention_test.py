"""Attention by blocks has the value and the gradient of plain attention."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax.models import causal_attention


def plain(q, k, v, window=0):
  """Attention with the whole pattern at once, [N, T, E]."""
  scores = jnp.einsum('nqe,nke->nqk', q, k)
  causal = jnp.tril(jnp.ones(scores.shape[1:], bool))
  if window:
    causal &= ~jnp.tril(causal, -window)
  scores = jnp.where(causal[None], scores, -jnp.inf)
  return jax.nn.softmax(scores, axis=-1) @ v


def normal(seed, count, *shape):
  draws = np.random.default_rng(seed).normal(size=(count, *shape))
  return list(draws.astype(np.float32))


@pytest.mark.sampled(2)
@pytest.mark.parametrize('window', [0, 1, 3, 20])
@pytest.mark.parametrize('block_size', [1, 4, 5, 10, 64])
def test_blocks_of_any_size_agree_with_plain_attention(block_size, window):
  *qkv, weight = normal(0, 4, 3, 10, 4)
  by_blocks = lambda *qkv: jnp.sum(
    weight * causal_attention.causal_attention(*qkv, block_size, window)
  )
  whole = lambda *qkv: jnp.sum(weight * plain(*qkv, window))
  both = lambda *qkv: [
    jax.value_and_grad(loss, (0, 1, 2))(*qkv) for loss in (by_blocks, whole)
  ]
  with jax.default_matmul_precision('highest'):
    leaves = map(jax.tree.leaves, jax.jit(both)(*qkv))
  for ours, expected in zip(*leaves, strict=True):
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=3e-6)


def test_vmap_agrees_with_single_sequences():
  """One head of one sequence, alone and as part of a vmap."""
  qkv = normal(1, 3, 2, 6, 4)
  attend = lambda q, k, v: causal_attention.causal_attention(q, k, v, 4)
  together = jax.jit(jax.vmap(attend))(*qkv)
  alone = jax.jit(attend)
  alone = [alone(*(x[i] for x in qkv)) for i in range(2)]
  np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


def test_far_scores_do_not_overflow():
  """A query whose scores are far apart takes the value of one key."""
  q = np.float32([[0.0], [1e4]])
  k, v = np.float32([[1.0], [-1.0]]), np.float32([[3.0], [5.0]])
  attend = lambda q: causal_attention.causal_attention(q, k, v, 1)
  gradient = jax.grad(lambda q: jnp.sum(attend(q)))
  values, slope = jax.jit(lambda q: (attend(q), gradient(q)))(q)
  np.testing.assert_allclose(values, [[3.0], [3.0]])
  assert math.isfinite(float(slope.sum()))
