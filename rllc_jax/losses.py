"""Losses of a language model, in nats per predicted token."""

from collections.abc import Callable
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types


def cross_entropy(logits: types.Array, targets: types.Array) -> types.Array:
  """Mean of -log softmax(logits)[target].

  Args:
    logits: [..., V].
    targets: [...], integers.

  Examples:
    >>> print(cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 2])))
    1.3862944
  """
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def next_token_loss(
  apply: Callable[[types.Params, types.Array], types.Array],
) -> types.LossFn:
  """The loss of predicting each token of a sequence from those before it.

  Args:
    apply: `apply(params, tokens [B, T]) -> logits [B, T, V]`.

  Returns:
    `loss_fn(params, batch) -> []`, mean over B (T - 1) predictions: the first
    token of a sequence is given, the logits at the last are not used. `batch`
    is [B, T], of any integer type.
  """

  def loss_fn(params, batch):
    inputs, targets = inputs_and_targets(batch)
    return cross_entropy(apply(params, inputs), targets)

  return loss_fn


def inputs_and_targets(batch: types.Batch) -> tuple[types.Array, types.Array]:
  """Splits sequences [B, T] into inputs and targets, both [B, T-1] int32."""
  if batch.shape[1] < 2:
    raise ValueError(
      'Sequences must be at least 2 tokens long, because the first predicts '
      f'the second; got {batch.shape[1]}.'
    )
  tokens = batch.astype(jnp.int32)
  return tokens[:, :-1], tokens[:, 1:]


def frozen_unembed_cross_entropy(
  x: types.Array,
  W_U: types.Array,
  b_U: types.Array,
  targets: types.Array,
  *,
  chunk_size: int = 512,
) -> types.Array:
  """`cross_entropy(x @ W_U + b_U, targets)`, `chunk_size` tokens at a time.

  At most `chunk_size` rows of logits exist at once, and value and gradient come
  from one pass over them. Differentiable in `x` alone, and once: the
  unembedding is taken as frozen, and its gradient is zero. Second derivatives
  need the plain loss.

  Args:
    x: [..., d_model], what is unembedded.
    W_U: [d_model, V].
    b_U: [V].
    targets: [...], integers.
    chunk_size: tokens a chunk. Static.
  """
  flat = x.reshape(-1, x.shape[-1])
  chunk_size = min(chunk_size, len(flat))
  padding = -len(flat) % chunk_size
  chunked = jnp.pad(flat, ((0, padding), (0, 0)))
  chunked = chunked.reshape(-1, chunk_size, x.shape[-1])
  # A target of -1 marks padding: its loss and its gradient are dropped.
  labels = jnp.pad(targets.ravel(), (0, padding), constant_values=-1)
  labels = labels.reshape(-1, chunk_size)
  total = _unembedded_loss(chunked, W_U, b_U, labels)
  return total / flat.shape[0]


@jax.custom_vjp
def _unembedded_loss(chunks, W_U, b_U, labels):
  return _loss_and_gradient(chunks, W_U, b_U, labels, gradient=False)[0]


def _forward(chunks, W_U, b_U, labels):
  total, gradient = _loss_and_gradient(chunks, W_U, b_U, labels, gradient=True)
  return total, (gradient, W_U, b_U)


def _backward(residual, cotangent):
  gradient, W_U, b_U = residual
  zeros = jnp.zeros_like
  return cotangent * gradient, zeros(W_U), zeros(b_U), None


_unembedded_loss.defvjp(_forward, _backward)


def _loss_and_gradient(chunks, W_U, b_U, labels, gradient):
  """Sum of the losses, and its gradient like `chunks` (or None)."""
  body = functools.partial(_chunk_loss, W_U, b_U, gradient=gradient)
  if len(chunks) == 1:
    total, gradients = body((chunks[0], labels[0]))
    return total, None if gradients is None else gradients[None]
  totals, gradients = jax.lax.map(body, (chunks, labels))
  return jnp.sum(totals), gradients


def _chunk_loss(W_U, b_U, chunk_and_labels, gradient):
  x, label = chunk_and_labels
  logits = x @ W_U + b_U[None, :]
  kept = label >= 0
  peak = jnp.max(logits, axis=-1, keepdims=True)
  odds = jnp.exp(logits - peak)
  partition = jnp.sum(odds, axis=-1, keepdims=True)
  target = jnp.maximum(label, 0)[:, None]
  chosen = jnp.take_along_axis(logits, target, axis=-1)
  losses = (jnp.log(partition) + peak - chosen)[:, 0]
  total = jnp.sum(jnp.where(kept, losses, 0.0))
  if not gradient:
    return total, None
  # d loss / d x = sum_v p_v W_U[:, v] - W_U[:, target].
  dx = (odds @ W_U.T) / partition - W_U.T[target[:, 0]]
  return total, jnp.where(kept[:, None], dx, 0.0)


class LowRankLogits(NamedTuple):
  """Logits that differ from shared ones by a matrix of low rank, scaled.

  logits = (base + frozen_left @ frozen_right + left @ right) * scale + bias

  Attributes:
    base: [N, V], shared.
    frozen_left: [N, r], frozen.
    frozen_right: [r, V], frozen.
    bias: [V], frozen.
    left: [N, s], moves.
    right: [s, V], moves.
    scale: [N, 1], moves.
  """

  base: types.Array
  frozen_left: types.Array
  frozen_right: types.Array
  bias: types.Array
  left: types.Array
  right: types.Array
  scale: types.Array


@jax.custom_vjp
def low_rank_cross_entropy(
  logits: LowRankLogits, targets: types.Array
) -> types.Array:
  """`cross_entropy` of low-rank logits; value and gradient in one pass.

  Differentiable, once, in what moves; the gradient of the rest is zero.

  Args:
    logits: the parts; N tokens.
    targets: [N], integers.
  """
  return _low_rank_loss(logits, targets)[0]


def _low_rank_loss(logits: LowRankLogits, targets):
  """The mean loss, and what its gradient needs: product, odds, partition."""
  left = jnp.concatenate([logits.frozen_left, logits.left], axis=1)
  right = jnp.concatenate([logits.frozen_right, logits.right], axis=0)
  product = logits.base + left @ right
  scores = product * logits.scale + logits.bias[None]
  peak = jnp.max(scores, axis=1, keepdims=True)
  odds = jnp.exp(scores - peak)
  partition = jnp.sum(odds, axis=1, keepdims=True)
  chosen = jnp.take_along_axis(scores, targets[:, None], axis=1)
  loss = jnp.mean(jnp.log(partition) + peak - chosen)
  return loss, (product, odds, partition)


def _low_rank_forward(logits: LowRankLogits, targets):
  loss, (product, odds, partition) = _low_rank_loss(logits, targets)
  # d loss / d scores = (softmax - onehot) / N; the target's part is taken from
  # gathered rows, so that no second array [N, V] is made for it.
  share = logits.scale / (partition * targets.size)
  target_right = logits.right.T[targets]  # [N, s]
  at_target = jnp.take_along_axis(product, targets[:, None], axis=1)
  unit = logits.scale / targets.size
  d_left = (odds @ logits.right.T) * share - target_right * unit
  d_right = (logits.left * share).T @ odds
  d_right = d_right.at[:, targets].add(-(logits.left * unit).T)
  weighted = jnp.sum(odds * product, axis=1, keepdims=True) / partition
  d_scale = (weighted - at_target) / targets.size
  return loss, (logits, d_left, d_right, d_scale)


def _low_rank_backward(residual, cotangent):
  logits, d_left, d_right, d_scale = residual
  frozen = jax.tree.map(jnp.zeros_like, logits)
  moving = frozen._replace(
    left=cotangent * d_left,
    right=cotangent * d_right,
    scale=cotangent * d_scale,
  )
  return moving, None


low_rank_cross_entropy.defvjp(_low_rank_forward, _low_rank_backward)
