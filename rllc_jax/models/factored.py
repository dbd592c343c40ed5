r"""Two-half losses of the transformer when one attention head moves.

The context holds what no chain can change: the normed residual stream that the
layer reads, every head's attention-weighted values z* at the checkpoint, what
the layer writes, and the layers above in the form in which they are fastest to
run. A chain recomputes the values z of its own head, replaces that head's
contribution and goes on from there. All of it agrees with the plain model
(`attention_only`), gradient included.

In the last layer only the unembedding follows. With the final LayerNorm's gain
folded into W_U and its bias into b_U,

.. math:: \text{logits} = (C x\, W_U) / \sigma(x) + b_U,

C subtracts the mean and sigma is one number a token. Head h changes x by
z W_O - z* W_O*, hence the logits by a matrix of rank d_head:

.. math:: C x W_U = \text{base} - z^* (W_O^* C W_U) + z\, (W_O C W_U)

where base, [B, T, V], is shared by all heads and chains of the minibatch.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import causal_attention
from rllc_jax.models import unembedding


class Tiles(NamedTuple):
  """How much of a column's work is done at once: memory, and no number.

  Attributes:
    scores: attention scores; at least one head's of a block of queries.
    queries: queries of a block.
    tokens: tokens whose logits exist.
  """

  scores: int
  queries: int
  tokens: int


# On a CPU a tile should fit into a core's cache. An accelerator wants work for
# all of its units at once.
CPU_TILES = Tiles(scores=2**17, queries=128, tokens=256)
ACCELERATOR_TILES = Tiles(scores=2**30, queries=256, tokens=8192)


class FrozenLayer(NamedTuple):
  """A layer of heads that does not move, its matrices side by side.

  Attributes:
    norm: the weights of its LayerNorm.
    W_QKV: [D, 3 H E], queries divided by sqrt(E).
    b_QKV: [T, 3 H E], biases, and what positions add to queries and keys.
    W_O: [H E, D].
    b_O: [D].
  """

  norm: types.PyTree
  W_QKV: types.Array
  b_QKV: types.Array
  W_O: types.Array
  b_O: types.Array


class HeadContext(NamedTuple):
  """What one moving head of a layer leaves unchanged.

  Attributes:
    params: the checkpoint.
    x: [B, T, D], the normed residual stream that the layer reads.
    positioned: [B, T, D], the same with positions: queries and keys read it.
    values: [H, B, T, E], z* of every head of the layer.
    written: [B, T, D], the residual stream after the layer.
    above: the layers that follow.
    targets: [B, T], the tokens to predict.
  """

  params: types.Params
  x: types.Array
  positioned: types.Array
  values: types.Array
  written: types.Array
  above: tuple[FrozenLayer, ...]
  targets: types.Array


class LastLayerContext(NamedTuple):
  """What one moving head of the last layer leaves unchanged.

  Attributes:
    head: the same as in any layer.
    W_U: [D, V], centered, the final gain folded in: C W_U above.
    b_U: [V], the final bias folded in.
    base: [B T, V], the written residual stream times W_U.
    base_target: [B T, 1], its entries at the targets.
    W_OU: [H, E, V], W_O* of every head of the layer times W_U.
  """

  head: HeadContext
  W_U: types.Array
  b_U: types.Array
  base: types.Array
  base_target: types.Array
  W_OU: types.Array


def head_losses(
  model: attention_only.AttentionOnly,
  *,
  share_logits: bool = True,
  tiles: Tiles | None = None,
) -> dict[str, types.RefinedLoss]:
  """The two-half losses of all head families, for `weights.families`.

  Args:
    model: its sizes.
    share_logits: whether the last layer keeps the logits of a minibatch at the
      checkpoint, B T V numbers a row, and updates them by rank d_head. False
      streams over the tokens instead, as in the other layers.
    tiles: how the work is cut; by the default backend if None.

  Returns:
    {'0:*': loss, '1:*': loss, ...}.
  """
  tiles = default_tiles() if tiles is None else tiles
  last = model.num_layers - 1
  found = {
    f'{i}:*': head_loss(model, i, tiles) for i in range(model.num_layers)
  }
  if share_logits:
    found[f'{last}:*'] = last_layer_head_loss(model, tiles)
  return found


def default_tiles() -> Tiles:
  """What was fastest on JAX's default backend."""
  return CPU_TILES if jax.default_backend() == 'cpu' else ACCELERATOR_TILES


def head_loss(
  model: attention_only.AttentionOnly, layer: int, tiles: Tiles
) -> types.RefinedLoss:
  """The two halves of the next-token loss for the heads of one layer."""

  def unembedded(params, above, residual, targets):
    for frozen in above:
      residual = _attend(frozen, residual, model.num_heads, tiles)
    normed = attention_only.layer_norm(params['ln_final'], residual)
    W_U, b_U = params['unembed']['W_U'], params['unembed']['b_U']
    return unembedding.unembed_cross_entropy(
      normed, W_U, b_U, targets, tiles.tokens
    )

  def context(params, batch):
    shared = _head_context(model, params, batch, layer, tiles)
    return shared, unembedded(
      params, shared.above, shared.written, shared.targets
    )

  def loss(position, shared, head):
    _, residual = _rewritten(position, shared, head, layer, tiles)
    return unembedded(shared.params, shared.above, residual, shared.targets)

  return types.RefinedLoss(context, loss)


def last_layer_head_loss(
  model: attention_only.AttentionOnly, tiles: Tiles
) -> types.RefinedLoss:
  """The same for the last layer, by a low-rank update of shared logits."""
  layer = model.num_layers - 1

  def cross_entropy(shared, frozen, moving, residual):
    logits = unembedding.LowRankLogits(
      base=shared.base,
      base_target=shared.base_target,
      frozen_left=frozen[0],
      frozen_right=frozen[1],
      bias=shared.b_U,
      left=moving[0],
      right=moving[1],
      scale=1 / _flat(attention_only.deviation(residual)),
    )
    targets = shared.head.targets.ravel()
    return unembedding.low_rank_cross_entropy(logits, targets, tiles.tokens)

  def context(params, batch):
    shared = _head_context(model, params, batch, layer, tiles)
    final, W_U = params['ln_final'], params['unembed']['W_U']
    folded = attention_only.centered((final['w'][:, None] * W_U).T).T
    b_U = params['unembed']['b_U'] + final['b'] @ W_U
    base = _flat(shared.written) @ folded
    targets = shared.targets.reshape(-1, 1)
    found = LastLayerContext(
      head=shared,
      W_U=folded,
      b_U=b_U,
      base=base,
      base_target=jnp.take_along_axis(base, targets, axis=1),
      W_OU=_weights(shared, layer)['W_O'] @ folded,
    )
    nothing = jnp.zeros_like(base[:, :0]), jnp.zeros_like(folded[:0])
    return found, cross_entropy(found, nothing, nothing, shared.written)

  def loss(position, shared, head):
    values, residual = _rewritten(position, shared.head, head, layer, tiles)
    frozen = -_flat(shared.head.values[head]), shared.W_OU[head]
    moving = _flat(values), position['W_O'] @ shared.W_U
    return cross_entropy(shared, frozen, moving, residual)

  return types.RefinedLoss(context, loss)


def _head_context(model, params, batch, layer, tiles) -> HeadContext:
  tokens, targets = losses.inputs_and_targets(batch)
  residual = params['embed']['W_E'][tokens]
  W_pos = params['pos_embed']['W_pos']
  positions = attention_only.first_positions(W_pos, tokens.shape[1])
  layers = [
    _frozen(params[f'blocks_{i}'], positions) for i in range(model.num_layers)
  ]
  for below in layers[:layer]:
    residual = _attend(below, residual, model.num_heads, tiles)
  own, above = layers[layer], tuple(layers[layer + 1 :])
  x = attention_only.layer_norm(own.norm, residual)
  values = _all_values(own, x, model.num_heads, tiles)  # [B, T, H, E]
  return HeadContext(
    params=params,
    x=x,
    positioned=x + positions[None],
    values=values.transpose(2, 0, 1, 3),
    written=residual + _write(own, values),
    above=above,
    targets=targets,
  )


def _frozen(block, positions) -> FrozenLayer:
  """Puts the weights of a layer side by side."""
  attention = block['attn']
  scale = 1 / math.sqrt(attention['W_Q'].shape[-1])
  side_by_side = lambda W: W.transpose(1, 0, 2).reshape(W.shape[1], -1)
  W_Q, W_K, W_V = (side_by_side(attention[f'W_{i}']) for i in 'QKV')
  b_Q, b_K, b_V = (attention[f'b_{i}'].ravel() for i in 'QKV')
  return FrozenLayer(
    norm=block['ln1'],
    W_QKV=jnp.concatenate([W_Q * scale, W_K, W_V], axis=1),
    b_QKV=jnp.concatenate(
      [
        attention_only.linear(positions, W_Q, b_Q) * scale,
        attention_only.linear(positions, W_K, b_K),
        jnp.broadcast_to(b_V, (len(positions), b_V.size)),
      ],
      axis=1,
    ),
    W_O=attention['W_O'].reshape(-1, attention['W_O'].shape[-1]),
    b_O=attention['b_O'],
  )


def _attend(layer: FrozenLayer, residual, num_heads, tiles):
  """Adds a frozen layer to the residual stream, [B, T, D]."""
  x = attention_only.layer_norm(layer.norm, residual)
  return residual + _write(layer, _all_values(layer, x, num_heads, tiles))


def _all_values(layer: FrozenLayer, x, num_heads, tiles):
  """Attention-weighted values of every head, [B, T, D] -> [B, T, H, E]."""
  B, T, _ = x.shape
  H, E = num_heads, layer.W_O.shape[0] // num_heads
  qkv = x @ layer.W_QKV + jnp.broadcast_to(layer.b_QKV, (B, *layer.b_QKV.shape))
  qkv = qkv.reshape(B, T, 3, H, E).transpose(2, 0, 3, 1, 4)
  q, k, v = qkv.reshape(3, B * H, T, E)
  values = _patterned(q, k, v, tiles)
  return values.reshape(B, H, T, E).transpose(0, 2, 1, 3)


def _write(layer: FrozenLayer, values):
  """What all heads write, [B, T, H, E] -> [B, T, D]."""
  B, T, H, E = values.shape
  return attention_only.linear(
    values.reshape(B, T, H * E), layer.W_O, layer.b_O
  )


def _patterned(q, k, v, tiles):
  """Causal attention of N heads and sequences, [N, T, E] -> [N, T, E]."""
  attend = lambda qkv: causal_attention.causal_attention(*qkv, tiles.queries)
  num_patterns, length, _ = q.shape
  at_once = tiles.scores // (min(tiles.queries, length) * length)
  if at_once >= num_patterns:
    return attend((q, k, v))
  size = at_once if at_once > 1 else None
  return jax.lax.map(attend, (q, k, v), batch_size=size)


def _rewritten(position, shared: HeadContext, head, layer, tiles):
  """The moving head's values, and the residual stream with them written."""
  scale = 1 / math.sqrt(position['W_Q'].shape[-1])
  reads = {'Q': shared.positioned, 'K': shared.positioned, 'V': shared.x}
  q, k, v = (
    attention_only.linear(x, position[f'W_{i}'], position[f'b_{i}'])
    for i, x in reads.items()
  )
  values = _patterned(q * scale, k, v, tiles)
  W_O = _weights(shared, layer)['W_O'][head]
  change = values @ position['W_O'] - shared.values[head] @ W_O
  return values, shared.written + change


def _weights(shared: HeadContext, layer):
  return shared.params[f'blocks_{layer}']['attn']


def _flat(x):
  """[B, T, ...] -> [B T, ...]."""
  return x.reshape(-1, x.shape[-1])
