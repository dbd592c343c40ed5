r"""Two-half losses of the transformer when one attention head moves.

The context holds what no chain can change: the normed residual stream that the
layer reads, every head's attention-weighted values z* at the checkpoint, and
what the layer writes. A chain recomputes the values z of its own head, replaces
that head's contribution and goes on from there. All of it agrees with the plain
model (`attention_only`), gradient included.

In the last layer only the unembedding follows. With the final LayerNorm's gain
folded into W_U and its bias into b_U,

.. math:: \text{logits} = (C x\, W_U) / \sigma(x) + b_U,

C subtracts the mean and sigma is one number a token. Head h changes x by
z W_O - z* W_O*, hence the logits by a matrix of rank d_head:

.. math:: C x W_U = \text{base} - z^* (W_O^* C W_U) + z\, (W_O C W_U)

where base, [B, T, V], is shared by all heads and chains of the minibatch.
"""

from typing import NamedTuple

import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import attention_only


class HeadContext(NamedTuple):
  """What one moving head of a layer leaves unchanged.

  Attributes:
    params: the checkpoint.
    x: [B, T, D], the normed residual stream that the layer reads.
    values: [H, B, T, E], z* of every head of the layer.
    written: [B, T, D], the residual stream after the layer.
    targets: [B, T], the tokens to predict.
  """

  params: types.Params
  x: types.Array
  values: types.Array
  written: types.Array
  targets: types.Array


class LastLayerContext(NamedTuple):
  """What one moving head of the last layer leaves unchanged.

  Attributes:
    head: the same as in any layer.
    W_U: [D, V], centered, the final gain folded in: C W_U above.
    b_U: [V], the final bias folded in.
    base: [B, T, V], the written residual stream times W_U.
  """

  head: HeadContext
  W_U: types.Array
  b_U: types.Array
  base: types.Array


def head_losses(
  model: attention_only.AttentionOnly, *, share_logits: bool = True
) -> dict[str, types.RefinedLoss]:
  """The two-half losses of all head families, for `weights.families`.

  Args:
    model: its sizes.
    share_logits: whether the last layer keeps the logits of a minibatch at the
      checkpoint, B T V numbers a row, and updates them by rank d_head. False
      streams over the tokens instead, as in the other layers.

  Returns:
    {'0:*': loss, '1:*': loss, ...}.
  """
  last = model.num_layers - 1
  found = {f'{i}:*': head_loss(model, i) for i in range(model.num_layers)}
  if share_logits:
    found[f'{last}:*'] = last_layer_head_loss(model)
  return found


def head_loss(
  model: attention_only.AttentionOnly, layer: int
) -> types.RefinedLoss:
  """The two halves of the next-token loss for the heads of one layer."""

  def unembedded(params, residual, targets):
    residual = _run_blocks(model, params, residual, layer + 1)
    normed = attention_only.layer_norm(params['ln_final'], residual)
    W_U, b_U = params['unembed']['W_U'], params['unembed']['b_U']
    return losses.frozen_unembed_cross_entropy(normed, W_U, b_U, targets)

  def context(params, batch):
    shared = _head_context(model, params, batch, layer)
    return shared, unembedded(params, shared.written, shared.targets)

  def loss(position, shared, head):
    _, residual = _rewritten(position, shared, head, layer)
    return unembedded(shared.params, residual, shared.targets)

  return types.RefinedLoss(context, loss)


def last_layer_head_loss(
  model: attention_only.AttentionOnly,
) -> types.RefinedLoss:
  """The same for the last layer, by a low-rank update of shared logits."""
  layer = model.num_layers - 1

  def context(params, batch):
    shared = _head_context(model, params, batch, layer)
    final, W_U = params['ln_final'], params['unembed']['W_U']
    folded = attention_only.centered((final['w'][:, None] * W_U).T).T
    b_U = params['unembed']['b_U'] + final['b'] @ W_U
    base = shared.written @ folded
    logits = _scaled(base, shared.written, b_U)
    center_loss = losses.cross_entropy(logits, shared.targets)
    return LastLayerContext(shared, folded, b_U, base), center_loss

  def loss(position, shared, head):
    values, residual = _rewritten(position, shared.head, head, layer)
    flat = lambda x: x.reshape(-1, x.shape[-1])
    W_O = shared.head.params[f'blocks_{layer}']['attn']['W_O'][head]
    logits = losses.LowRankLogits(
      base=flat(shared.base),
      frozen_left=-flat(shared.head.values[head]),
      frozen_right=W_O @ shared.W_U,
      bias=shared.b_U,
      left=flat(values),
      right=position['W_O'] @ shared.W_U,
      scale=1 / flat(attention_only.deviation(residual)),
    )
    return losses.low_rank_cross_entropy(logits, shared.head.targets.ravel())

  return types.RefinedLoss(context, loss)


def _scaled(product, residual, b_U):
  """Logits from C x W_U: divided by sigma(x), bias added."""
  scaled = product / attention_only.deviation(residual)
  return scaled + jnp.broadcast_to(b_U, scaled.shape)


def _head_context(model, params, batch, layer) -> HeadContext:
  tokens, targets = losses.inputs_and_targets(batch)
  embedded = params['embed']['W_E'][tokens]
  residual = _run_blocks(model, params, embedded, 0, layer)
  block = params[f'blocks_{layer}']
  x = attention_only.layer_norm(block['ln1'], residual)
  positions = _positions(params, x)
  values = attention_only.all_head_values(block['attn'], x, positions)
  written = residual + attention_only.write(block['attn'], values)
  return HeadContext(params, x, values, written, targets)


def _rewritten(position, shared: HeadContext, head, layer):
  """The moving head's values, and the residual stream with them written."""
  positions = _positions(shared.params, shared.x)
  values = attention_only.head_values(position, shared.x, positions)
  W_O = shared.params[f'blocks_{layer}']['attn']['W_O'][head]
  change = values @ position['W_O'] - shared.values[head] @ W_O
  return values, shared.written + change


def _run_blocks(model, params, residual, first, stop=None):
  for layer in range(first, model.num_layers if stop is None else stop):
    block = params[f'blocks_{layer}']
    x = attention_only.layer_norm(block['ln1'], residual)
    positions = _positions(params, x)
    residual = residual + attention_only.attend(block['attn'], x, positions)
  return residual


def _positions(params, x):
  return attention_only.first_positions(
    params['pos_embed']['W_pos'], x.shape[1]
  )
