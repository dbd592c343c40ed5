"""Unembedding and cross-entropy in one, a chunk of tokens at a time.

At most a chunk's logits exist at once, and value and gradient come from one
pass over them. The unembedding is frozen: its gradient is zero. Differentiable
once; second derivatives need `losses.cross_entropy`.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types

# Shapes: N tokens, c in a chunk, D = d_model, V = vocabulary, r and s ranks.


def unembed_cross_entropy(
  x: types.Array,
  W_U: types.Array,
  b_U: types.Array,
  targets: types.Array,
  chunk_size: int,
) -> types.Array:
  """`losses.cross_entropy(x @ W_U + b_U, targets)`.

  Args:
    x: [..., D], what is unembedded; differentiable in it alone.
    W_U: [D, V].
    b_U: [V].
    targets: [...], integers.
    chunk_size: tokens a chunk. Static.
  """
  flat = x.reshape(-1, x.shape[-1])
  return _unembedded(flat, W_U, b_U, targets.ravel(), chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _unembedded(x, W_U, b_U, targets, chunk_size):
  chunk = lambda at: (_unembedded_chunk(at, x, W_U, b_U, targets)[0], ())
  total, () = _over_chunks(chunk, len(x), chunk_size)
  return total / len(x)


def _unembedded_forward(x, W_U, b_U, targets, chunk_size):
  chunk = lambda at: _unembedded_chunk(at, x, W_U, b_U, targets)
  total, d_x = _over_chunks(chunk, len(x), chunk_size)
  return total / len(x), (d_x / len(x), W_U, b_U)


def _unembedded_backward(chunk_size, residual, cotangent):
  del chunk_size
  d_x, W_U, b_U = residual
  return cotangent * d_x, jnp.zeros_like(W_U), jnp.zeros_like(b_U), None


_unembedded.defvjp(_unembedded_forward, _unembedded_backward)


def _unembedded_chunk(at, x, W_U, b_U, targets):
  """The sum of a chunk's losses, [], and the gradient of each token's, [c, D].

  d loss / d x = sum_v p_v W_U[:, v] - W_U[:, target].
  """
  x, targets = at.rows(x), at.rows(targets)
  W_target = W_U[:, targets].T
  logits = x @ W_U + b_U[None]
  odds, partition, log_sum = _softmax(logits)
  chosen = jnp.sum(x * W_target, axis=1) + b_U[targets]
  # A dot with the second axes of both: W_U is not transposed in memory.
  mean_W = jnp.einsum('cv,dv->cd', odds, W_U) / partition
  return at.total(log_sum - chosen), mean_W - W_target


class LowRankLogits(NamedTuple):
  """Logits that differ from shared ones by a matrix of low rank, scaled.

  logits = (base + frozen_left @ frozen_right + left @ right) * scale + bias

  Attributes:
    base: [N, V], shared.
    base_target: [N, 1], its entries at the targets.
    frozen_left: [N, r], frozen.
    frozen_right: [r, V], frozen.
    bias: [V], frozen.
    left: [N, s], moves.
    right: [s, V], moves.
    scale: [N, 1], moves.
  """

  base: types.Array
  base_target: types.Array
  frozen_left: types.Array
  frozen_right: types.Array
  bias: types.Array
  left: types.Array
  right: types.Array
  scale: types.Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def low_rank_cross_entropy(
  logits: LowRankLogits, targets: types.Array, chunk_size: int
) -> types.Array:
  """`losses.cross_entropy` of low-rank logits.

  Args:
    logits: the parts; differentiable in what moves.
    targets: [N], integers.
    chunk_size: tokens a chunk. Static.
  """
  chunk = _low_rank_chunk(logits, targets)
  (total, _), _ = _over_chunks(chunk, targets.size, chunk_size)
  return total / targets.size


def _low_rank_forward(logits, targets, chunk_size):
  chunk = _low_rank_chunk(logits, targets)
  (total, d_right), (d_left, d_scale) = _over_chunks(
    chunk, targets.size, chunk_size
  )
  d_right = d_right.at[:, targets].add(-(logits.left * logits.scale).T)
  gradient = (d_left, d_right, d_scale)
  gradient = jax.tree.map(lambda leaf: leaf / targets.size, gradient)
  return total / targets.size, (logits, gradient)


def _low_rank_backward(chunk_size, residual, cotangent):
  del chunk_size
  logits, gradient = residual
  left, right, scale = jax.tree.map(lambda leaf: cotangent * leaf, gradient)
  frozen = jax.tree.map(jnp.zeros_like, logits)
  return frozen._replace(left=left, right=right, scale=scale), None


low_rank_cross_entropy.defvjp(_low_rank_forward, _low_rank_backward)


def _low_rank_chunk(logits, targets):
  """Chunk -> ((sum of losses, d_right), (d_left, d_scale)) of its tokens.

  d loss / d logits = p - onehot(target). The target's part comes from gathered
  entries, so that no second array [c, V] is made; of d_right it is left out.
  """
  r = logits.frozen_left.shape[1]
  left = jnp.concatenate([logits.frozen_left, logits.left], axis=1)
  right = jnp.concatenate([logits.frozen_right, logits.right], axis=0)

  def chunk(at):
    scale, left_c, target = map(at.rows, (logits.scale, left, targets))
    product = at.rows(logits.base) + left_c @ right
    odds, partition, log_sum = _softmax(product * scale + logits.bias[None])
    right_target = right[:, target].T  # [c, r + s]
    correction = jnp.sum(left_c * right_target, axis=1, keepdims=True)
    at_target = at.rows(logits.base_target) + correction
    chosen = (at_target * scale)[:, 0] + logits.bias[target]
    share = scale / partition
    mean_right = jnp.einsum('cv,sv->cs', odds, logits.right) * share
    d_left = mean_right - right_target[:, r:] * scale
    d_right = (left_c[:, r:] * at.kept(share)).T @ odds
    mean_product = jnp.sum(odds * product, axis=1, keepdims=True) / partition
    d_scale = mean_product - at_target
    return (at.total(log_sum - chosen), d_right), (d_left, d_scale)

  return chunk


def _softmax(logits):
  """exp(logits - peak) [c, V], its sums [c, 1], log-sum-exp of logits [c]."""
  peak = jnp.max(logits, axis=1, keepdims=True)
  odds = jnp.exp(logits - peak)
  partition = jnp.sum(odds, axis=1, keepdims=True)
  return odds, partition, (peak + jnp.log(partition))[:, 0]


class _Chunk(NamedTuple):
  """Some consecutive tokens.

  Attributes:
    start: [], the first.
    fresh: [c], False for a token that an earlier chunk has summed.
  """

  start: types.Array
  fresh: types.Array

  def rows(self, x):
    """The chunk of an array [N, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, self.start, len(self.fresh))

  def kept(self, x):
    """Zero where a token was summed before, [c, 1]."""
    return jnp.where(self.fresh[:, None], x, 0)

  def total(self, losses):
    """The sum over fresh tokens, [c] -> []."""
    return jnp.sum(jnp.where(self.fresh, losses, 0))


def _over_chunks(
  function: Callable[[_Chunk], tuple[types.PyTree, types.PyTree]],
  num_tokens: int,
  chunk_size: int,
) -> tuple[types.PyTree, types.PyTree]:
  """Sums over chunks, and rows [N, ...] put together.

  The last chunk reaches back where chunks do not fit: nothing is padded, and
  its rows are computed twice, with the same result.

  Args:
    function: chunk -> (what is summed, rows [c, ...]).
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
    more, found = function(_Chunk(start, fresh))
    put = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
    return (
      jax.tree.map(jnp.add, sums, more),
      jax.tree.map(lambda all, some: put(all, some, start), rows, found),
    )

  chunk = _Chunk(jnp.int32(0), jnp.ones(size, bool))
  sums, rows = jax.eval_shape(function, chunk)
  zeros = lambda leaf: jnp.zeros(leaf.shape, leaf.dtype)
  whole = lambda leaf: jnp.zeros((num_tokens, *leaf.shape[1:]), leaf.dtype)
  start = jax.tree.map(zeros, sums), jax.tree.map(whole, rows)
  return jax.lax.fori_loop(0, -(-num_tokens // size), body, start)
