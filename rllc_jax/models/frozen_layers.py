"""Frozen layers of the transformer, in their fastest form.

Values, and gradients with respect to the input, agree with `attention_only`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import causal_attention


class Tiles(NamedTuple):
  """Sizes of the pieces of work of a column; they change no result.

  Attributes:
    scores: attention scores at once; at least one head's of a block.
    queries: queries of a block.
    tokens: tokens whose logits exist at once.
  """

  scores: int
  queries: int
  tokens: int


# On a CPU a tile should fit into a core's cache. Times with 128 to 512 tokens
# and 64 to 256 queries agree within 5 %; 1,024 tokens take 20 to 90 % longer.
CPU_TILES = Tiles(scores=2**17, queries=128, tokens=256)
# An accelerator needs work for all of its units at once.
ACCELERATOR_TILES = Tiles(scores=2**30, queries=256, tokens=8192)


class FrozenLayer(NamedTuple):
  """A layer of frozen heads with concatenated matrices.

  Attributes:
    norm: the weights of its LayerNorm.
    W_QKV: [D, 3 H E], queries divided by sqrt(E).
    b_QKV: [T, 3 H E], biases, plus positions times W_Q and W_K.
    W_O: [H E, D].
    b_O: [D].
  """

  norm: types.PyTree
  W_QKV: types.Array
  b_QKV: types.Array
  W_O: types.Array
  b_O: types.Array


def default_tiles() -> Tiles:
  """Returns the tile sizes for JAX's default backend."""
  return CPU_TILES if jax.default_backend() == 'cpu' else ACCELERATOR_TILES


def of_params(
  params: types.Params, length: int
) -> tuple[tuple[FrozenLayer, ...], types.Array]:
  """Returns the layers of a model for one length, and positions [T, D].

  Args:
    params: its weights.
    length: T, tokens of a sequence.
  """
  positions = attention_only.first_positions(
    params['pos_embed']['W_pos'], length
  )
  count = sum(name.startswith('blocks_') for name in params)
  blocks = [params[f'blocks_{i}'] for i in range(count)]
  return tuple(_frozen(block, positions) for block in blocks), positions


def final_norm(
  params: types.Params, tokens: types.Array, num_heads: int, tiles: Tiles
) -> types.Array:
  """The input of the unembedding, tokens [B, T] -> [B, T, D]."""
  layers, _ = of_params(params, tokens.shape[1])
  residual = params['embed']['W_E'][tokens]
  for layer in layers:
    residual = attend(layer, residual, num_heads, tiles)
  return attention_only.layer_norm(params['ln_final'], residual)


def _frozen(block, positions) -> FrozenLayer:
  """Concatenates the weights of a layer."""
  attention = block['attn']
  scale = 1 / math.sqrt(attention['W_Q'].shape[-1])
  # One product for queries, keys and values of all heads.
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


def attend(
  layer: FrozenLayer, residual: types.Array, num_heads: int, tiles: Tiles
) -> types.Array:
  """Adds a frozen layer to the residual stream, [B, T, D]."""
  x = attention_only.layer_norm(layer.norm, residual)
  return residual + write(layer, all_values(layer, x, num_heads, tiles))


def all_values(
  layer: FrozenLayer, x: types.Array, num_heads: int, tiles: Tiles
) -> types.Array:
  """Attention-weighted values of every head, [B, T, D] -> [B, T, H, E]."""
  B, T, _ = x.shape
  H, E = num_heads, layer.W_O.shape[0] // num_heads
  qkv = x @ layer.W_QKV + jnp.broadcast_to(layer.b_QKV, (B, *layer.b_QKV.shape))
  qkv = qkv.reshape(B, T, 3, H, E).transpose(2, 0, 3, 1, 4)
  q, k, v = qkv.reshape(3, B * H, T, E)
  values = patterned(q, k, v, tiles)
  return values.reshape(B, H, T, E).transpose(0, 2, 1, 3)


def write(layer: FrozenLayer, values: types.Array) -> types.Array:
  """The output of all heads, [B, T, H, E] -> [B, T, D]."""
  B, T, H, E = values.shape
  return attention_only.linear(
    values.reshape(B, T, H * E), layer.W_O, layer.b_O
  )


def patterned(
  q: types.Array, k: types.Array, v: types.Array, tiles: Tiles
) -> types.Array:
  """Causal attention of N heads and sequences, [N, T, E] -> [N, T, E]."""
  pattern = lambda qkv: causal_attention.causal_attention(*qkv, tiles.queries)
  num_patterns, length, _ = q.shape
  at_once = tiles.scores // (min(tiles.queries, length) * length)
  # Short sequences at once: one after another took 15 % longer at 4 x 63.
  if at_once >= num_patterns:
    return pattern((q, k, v))
  size = at_once if at_once > 1 else None
  return jax.lax.map(pattern, (q, k, v), batch_size=size)
