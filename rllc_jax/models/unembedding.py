"""The logsumexp of logits over a vocabulary, a chunk of tokens at a time.

The cross-entropy of a token is this less the logit of its target, and this part
alone needs all of its logits. At most a chunk's exist at once, and one pass
over them gives value and gradient. The unembedding is frozen: its gradient is
zero. Differentiable once; second derivatives need `losses`.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types

# Shapes: N tokens, c in a chunk, D = d_model, V = vocabulary, r and s ranks.


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def log_partition(
  x: types.Array,
  W_U: types.Array,
  b_U: types.Array,
  weights: types.Array,
  sizes: tuple[int, int],
) -> types.Array:
  """The weighted sum of logsumexp(x W_U + b_U) over tokens, [].

  Args:
    x: [N, D], the normed residual stream; differentiable in it alone.
    W_U: [D, V].
    b_U: [V].
    weights: [N], 1 / N each for a mean.
    sizes: tokens, and logits of each, at once. Static.
  """
  chunk = _unembedded_chunk(x, W_U, b_U, weights, sizes[1], with_gradient=False)
  return _over_chunks(chunk, len(x), sizes[0])[0]


def _forward(x, W_U, b_U, weights, sizes):
  # The gradient here, not in _backward, where logits would be computed again.
  chunk = _unembedded_chunk(x, W_U, b_U, weights, sizes[1], with_gradient=True)
  value, d_x = _over_chunks(chunk, len(x), sizes[0])
  return value, (d_x, W_U, b_U, weights)


def _backward(sizes, residual, cotangent):
  del sizes
  d_x, *frozen = residual
  return cotangent * d_x, *map(jnp.zeros_like, frozen)


log_partition.defvjp(_forward, _backward)


def log_partitions(
  x: types.Array, W_U: types.Array, b_U: types.Array, sizes: tuple[int, int]
) -> types.Array:
  """logsumexp(x W_U + b_U) of every token, [N, D] -> [N].

  Args:
    x: [N, D], the normed residual stream.
    W_U: [D, V].
    b_U: [V].
    sizes: tokens, and logits of each, at once.
  """

  def chunk(at):
    sums = _over_vocabulary(at.rows(x), W_U, b_U, sizes[1], False)
    return (), (sums.peak + jnp.log(sums.total))[:, 0]

  return _over_chunks(chunk, len(x), sizes[0])[1]


def _unembedded_chunk(x, W_U, b_U, weights, size, *, with_gradient):
  """Returns chunk -> (its part of the sum, the gradient in x [c, D] or ()).

  d value / d x = weight sum_v p_v W_U[:, v].
  """

  def chunk(at):
    sums = _over_vocabulary(at.rows(x), W_U, b_U, size, with_gradient)
    log_sum = (sums.peak + jnp.log(sums.total))[:, 0]
    value = jnp.sum(at.fresh_weights(weights) * log_sum)
    if not with_gradient:
      return value, ()
    share = at.rows(weights)[:, None] / sums.total
    return value, sums.weighted_W * share

  return chunk


class _Sums(NamedTuple):
  """Sums over a vocabulary, of exponentials of logits less their peak.

  Attributes:
    peak: [c, 1], the largest logit so far.
    total: [c, 1], of the exponentials.
    weighted_W: [c, D], of them times columns of W_U; or () if not asked for.
  """

  peak: types.Array
  total: types.Array
  weighted_W: types.PyTree


def _over_vocabulary(x, W_U, b_U, most, with_gradient) -> _Sums:
  """Sums over tiles of at most so many columns, with a running peak."""
  vocab_size = W_U.shape[1]
  num_tiles = -(-vocab_size // most)
  size = -(-vocab_size // num_tiles)
  nothing = _Sums(
    jnp.full((len(x), 1), -jnp.inf, x.dtype),
    jnp.zeros((len(x), 1), x.dtype),
    jnp.zeros_like(x) if with_gradient else (),
  )
  if num_tiles == 1:
    return _with_tile(nothing, x, W_U, b_U)

  def with_tile(i, sums):
    start = jnp.minimum(i * size, vocab_size - size)
    tile = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size, axis=-1)
    # The last tile begins earlier: what it shares with another counts once.
    is_new = start + jnp.arange(size) >= i * size
    b = jnp.where(is_new, tile(b_U), -jnp.inf)
    return _with_tile(sums, x, tile(W_U), b)

  return jax.lax.fori_loop(0, num_tiles, with_tile, nothing)


def _with_tile(sums: _Sums, x, W, b) -> _Sums:
  """Adds the columns of a tile, [D, v] and [v]."""
  logits = x @ W + b[None]
  peak = jnp.maximum(sums.peak, jnp.max(logits, axis=1, keepdims=True))
  # The passes for the peak cost 2 to 8 %, but without them exp overflows.
  odds, smaller = jnp.exp(logits - peak), jnp.exp(sums.peak - peak)
  total = sums.total * smaller + jnp.sum(odds, axis=1, keepdims=True)
  if isinstance(sums.weighted_W, tuple):
    return _Sums(peak, total, ())
  # Over the second axes of both, so that W is not transposed in memory.
  weighted_W = jnp.einsum('cv,dv->cd', odds, W)
  return _Sums(peak, total, sums.weighted_W * smaller + weighted_W)


class LowRankLogits(NamedTuple):
  """Logits that differ from shared ones by a matrix of low rank, scaled.

  logits = (base + frozen_left @ frozen_right + left @ right) * scale + bias

  Attributes:
    base: [N, V], shared.
    frozen_left: [N, r], frozen.
    frozen_right: [r, V], frozen.
    bias: [V], frozen.
    left: [N, s], of the moving head.
    right: [s, V], of the moving head.
    scale: [N, 1], of the moving head.
  """

  base: types.Array
  frozen_left: types.Array
  frozen_right: types.Array
  bias: types.Array
  left: types.Array
  right: types.Array
  scale: types.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def low_rank_log_partition(
  logits: LowRankLogits, weights: types.Array, chunk_size: int
) -> types.Array:
  """The weighted sum of logsumexp of low-rank logits over tokens, [].

  Args:
    logits: the parts; differentiable in those of the moving head.
    weights: [N], 1 / N each for a mean.
    chunk_size: tokens a chunk. Static.
  """
  return _low_rank_forward(logits, weights, chunk_size)[0]


def _low_rank_forward(logits, weights, chunk_size):
  chunk = _low_rank_chunk(logits, weights)
  (value, d_right), (d_left, d_scale) = _over_chunks(
    chunk, weights.size, chunk_size
  )
  return value, (logits, weights, (d_left, d_right, d_scale))


def _low_rank_backward(chunk_size, residual, cotangent):
  del chunk_size
  logits, weights, gradient = residual
  left, right, scale = jax.tree.map(lambda leaf: cotangent * leaf, gradient)
  frozen = jax.tree.map(jnp.zeros_like, logits)
  moving = frozen._replace(left=left, right=right, scale=scale)
  return moving, jnp.zeros_like(weights)


# By hand: jax.grad of the plain expression took 1.65 times the streamed path.
low_rank_log_partition.defvjp(_low_rank_forward, _low_rank_backward)


def _low_rank_chunk(logits, weights):
  """Returns chunk -> ((its sum, d_right), (d_left, d_scale) of its rows).

  d value / d logits = weight p.
  """
  # One product of twice the rank instead of two.
  left = jnp.concatenate([logits.frozen_left, logits.left], axis=1)
  right = jnp.concatenate([logits.frozen_right, logits.right], axis=0)

  def chunk(at):
    weight = at.fresh_weights(weights)
    scale = at.rows(logits.scale)
    product = at.rows(logits.base) + at.rows(left) @ right
    odds, partition, log_sum = _softmax(product * scale + logits.bias[None])
    # Rows of an overlap are written twice, but sums count them once.
    share = at.rows(weights)[:, None] / partition
    fresh_share = weight[:, None] / partition
    d_left = jnp.einsum('cv,sv->cs', odds, logits.right) * (share * scale)
    d_right = (at.rows(logits.left) * (fresh_share * scale)).T @ odds
    d_scale = jnp.sum(odds * product, axis=1, keepdims=True) * share
    return (jnp.sum(weight * log_sum), d_right), (d_left, d_scale)

  return chunk


def _softmax(logits):
  """exp(logits - peak) [c, V], its sums [c, 1], log-sum-exp of logits [c]."""
  # The pass for the peak costs 2 to 8 %, but without it exp overflows.
  peak = jnp.max(logits, axis=1, keepdims=True)
  odds = jnp.exp(logits - peak)
  partition = jnp.sum(odds, axis=1, keepdims=True)
  return odds, partition, (peak + jnp.log(partition))[:, 0]


class _Chunk(NamedTuple):
  """A chunk of consecutive tokens.

  Attributes:
    start: [], the first token.
    fresh: [c], False for a token that an earlier chunk has summed.
  """

  start: types.Array
  fresh: types.Array

  def rows(self, x):
    """The chunk of an array [N, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, self.start, len(self.fresh))

  def fresh_weights(self, weights):
    """The chunk of the weights, [c], zero where a token was summed before."""
    return jnp.where(self.fresh, self.rows(weights), 0)


def _over_chunks(
  function: Callable[[_Chunk], tuple[types.PyTree, types.PyTree]],
  num_tokens: int,
  chunk_size: int,
) -> tuple[types.PyTree, types.PyTree]:
  """Adds up sums over chunks, and assembles rows [N, ...].

  If chunks do not divide N, the last one begins earlier instead of being
  padded. Some rows are then computed twice, with the same result.

  Args:
    function: chunk -> (a tree to sum, rows [c, ...]).
    num_tokens: N.
    chunk_size: c; all tokens if there are fewer.
  """
  size = min(chunk_size, num_tokens)
  if size == num_tokens:
    return function(_Chunk(jnp.int32(0), jnp.ones(size, bool)))

  def body(i, carry):
    sums, rows = carry
    start = jnp.minimum(i * size, num_tokens - size)
    fresh = start + jnp.arange(size) >= i * size
    more, new_rows = function(_Chunk(start, fresh))
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
    return (
      jax.tree.map(jnp.add, sums, more),
      jax.tree.map(lambda all, some: put(all, some, start), rows, new_rows),
    )

  chunk = _Chunk(jnp.int32(0), jnp.ones(size, bool))
  sums, rows = jax.eval_shape(function, chunk)
  zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
  whole = lambda leaf: jnp.zeros((num_tokens, *leaf.shape[1:]), leaf.dtype)
  start = jax.tree.map(zeros, sums), jax.tree.map(whole, rows)
  return jax.lax.fori_loop(0, -(-num_tokens // size), body, start)
