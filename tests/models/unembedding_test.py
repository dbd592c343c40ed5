"""logsumexp by chunks has the value and the gradient of the plain sum."""

import jax
import numpy as np
import pytest

from rllc_jax.models import unembedding

# One token a chunk, chunks that fit, chunks that do not, one chunk for all.
CHUNK_SIZES = (1, 4, 7, 12, 100)


def normal(seed, *shapes):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def check(by_chunks, plain, at):
  """Compares value and gradient by chunks with the plain ones, also doubled."""

  def every(at):
    doubled = jax.grad(lambda at: 2 * by_chunks(at))(at)
    both = [jax.value_and_grad(loss)(at) for loss in (by_chunks, plain)]
    return by_chunks(at), doubled, *both

  with jax.default_matmul_precision('highest'):
    alone, doubled, (value, gradient), (expected, expected_gradient) = jax.jit(
      every
    )(at)
  np.testing.assert_allclose(value, expected, rtol=2e-6)
  np.testing.assert_allclose(alone, expected, rtol=2e-6)
  for actual, twice, plain_slope in zip(
    *map(jax.tree.leaves, (gradient, doubled, expected_gradient)), strict=True
  ):
    # Twenty roundings of numbers near 10.
    np.testing.assert_allclose(actual, plain_slope, atol=2e-5)
    np.testing.assert_allclose(twice, 2 * plain_slope, atol=4e-5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize('columns', [1, 3, 4, 11, 100])
@pytest.mark.parametrize('chunk_size', CHUNK_SIZES)
def test_tiles_of_any_size_agree_with_the_plain_sum(chunk_size, columns):
  """Of 12 tokens and 11 columns."""
  x, W_U, b_U, weights = normal(0, (12, 5), (5, 11), (11,), (12,))
  W_U *= 3

  def plain(x):
    return weights @ jax.nn.logsumexp(x @ W_U + b_U[None], axis=1)

  def by_chunks(x):
    sizes = chunk_size, columns
    return unembedding.log_partition(x, W_U, b_U, weights, sizes)

  check(by_chunks, plain, x)


def test_far_logits_do_not_overflow():
  """exp(1000) is infinite."""
  weights, b_U = np.ones(1, np.float32), np.zeros(2, np.float32)
  W_U = np.float32([[1000.0, -1000.0]])
  log_partition = jax.jit(unembedding.log_partition, static_argnums=4)
  for x in (np.ones((1, 1), np.float32), -np.ones((1, 1), np.float32)):
    for columns in (1, 8):  # Column by column, in either order.
      assert log_partition(x, W_U, b_U, weights, (8, columns)) == 1000.0


@pytest.mark.sampled(2)
@pytest.mark.parametrize('chunk_size', CHUNK_SIZES)
def test_low_rank_chunks_of_any_size_agree_with_the_plain_sum(chunk_size):
  """The gradient is in the parts of the moving head."""
  N, V, r, s = 12, 9, 2, 3
  shapes = (N,), (N, V), (N, r), (r, V), (V,), (N, s), (s, V), (N, 1)
  weights, base, left, right, bias, *moving = normal(1, *shapes)
  moving[2] = np.exp(moving[2])

  def plain(moving):
    moving_left, moving_right, scale = moving
    product = base + left @ right + moving_left @ moving_right
    logits = product * scale + bias[None]
    return weights @ jax.nn.logsumexp(logits, axis=1)

  def by_chunks(moving):
    logits = unembedding.LowRankLogits(base, left, right, bias, *moving)
    return unembedding.low_rank_log_partition(logits, weights, chunk_size)

  check(by_chunks, plain, moving)
