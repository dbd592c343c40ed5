"""Frozen layers of a transformer, in their fastest form.

Values, and gradients in the input, agree with `models.transformer`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import causal_attention
from rllc_jax.models import transformer

Architecture = architectures.Architecture

# Shapes: B sequences, T positions, D = d_model, E = d_head, H query heads, K
# key and value heads.


class Tiles(NamedTuple):
  """Sizes of the pieces of work of a column; they change no result.

  Attributes:
    scores: attention scores at once; at least one head's of a block.
    queries: queries of a block.
    tokens: tokens whose logits exist at once.
    vocabulary: logits of a token at once.
    logits: of tokens at once where each has all of its logits.
  """

  scores: int
  queries: int
  tokens: int
  vocabulary: int = 2**30
  logits: int = 2**62

  def whole_rows(self, vocab_size: int) -> int:
    """Tokens at once where each has all of its logits."""
    return max(1, min(self.tokens, self.logits // vocab_size))


# On a CPU a tile should fit into a core's cache. Times with 128 to 512 tokens
# and 64 to 256 queries agree within 5 %; 1,024 tokens take 20 to 90 % longer.
CPU_TILES = Tiles(
  scores=2**17, queries=128, tokens=256, vocabulary=2**13, logits=2**22
)
# An accelerator needs work for all of its units at once.
ACCELERATOR_TILES = Tiles(scores=2**30, queries=256, tokens=8192)


def default_tiles() -> Tiles:
  """Returns the tile sizes for JAX's default backend."""
  return CPU_TILES if jax.default_backend() == 'cpu' else ACCELERATOR_TILES


class Projections(NamedTuple):
  """The weights of a layer's heads, side by side.

  Attributes:
    W_QKV: [D, (H + 2 K) E], queries scaled unless they are normed.
    b_QKV: [T, (H + 2 K) E], biases, plus positions times W_Q and W_K; or [1,
      ...] where positions are not added there.
    W_O: [H E, D].
    b_O: [D].
    norms: {'q_norm', 'k_norm'}, the former scaled; or {}.
  """

  W_QKV: types.Array
  b_QKV: types.Array
  W_O: types.Array
  b_O: types.Array
  norms: types.PyTree


class FrozenLayer(NamedTuple):
  """A layer whose weights do not move.

  Attributes:
    ln1: the norm before attention.
    heads: its heads.
    ln2: the norm before the MLP; {} without one.
    mlp: its MLP; {} without one.
  """

  ln1: types.PyTree
  heads: Projections
  ln2: types.PyTree
  mlp: types.PyTree


@dataclasses.dataclass(frozen=True)
class Runner:
  """Runs frozen layers; all of it is static.

  Attributes:
    architecture: of the model.
    tiles: sizes of the pieces of work; by the default backend if not given.
  """

  architecture: Architecture
  tiles: Tiles = dataclasses.field(default_factory=default_tiles)

  def layers(
    self, params: types.Params, length: int
  ) -> tuple[FrozenLayer, ...]:
    """The layers of a model for sequences of so many tokens."""
    return tuple(
      self.of_block(i, params[f'blocks_{i}'], params, length)
      for i in range(self.architecture.num_layers)
    )

  def of_block(
    self, layer: int, block: types.PyTree, params: types.Params, length: int
  ) -> FrozenLayer:
    """Concatenates the weights of a layer.

    Args:
      layer: its number.
      block: its weights.
      params: the model's, of which positions are read.
      length: tokens of a sequence.
    """
    positions = None
    if self.architecture.positions == 'shortformer':
      positions = transformer.first_positions(self.architecture, params, length)
    projections = self._projections(layer, block['attn'], positions)
    return FrozenLayer(
      block['ln1'], projections, block.get('ln2', {}), block.get('mlp', {})
    )

  def _projections(self, layer, attention, positions) -> Projections:
    scale = 1 / self.architecture.score_divisor(layer)
    norms = {n: w for n, w in attention.items() if n.endswith('_norm')}
    if norms:  # A norm would undo a factor of W_Q.
      norms = norms | {'q_norm': {'w': norms['q_norm']['w'] * scale}}
    scales = {'Q': 1 if norms else scale, 'K': 1, 'V': 1}
    W_QKV, b_QKV = [], []
    for name, factor in scales.items():
      W = attention[f'W_{name}']
      # One product for queries, keys and values of all heads.
      W = W.transpose(1, 0, 2).reshape(W.shape[1], -1)
      b = attention.get(f'b_{name}', jnp.zeros(W.shape[1], W.dtype)).ravel()
      if positions is None:
        b = b[None]
      elif name == 'V':
        b = jnp.broadcast_to(b, (len(positions), b.size))
      else:
        b = transformer.linear(positions, W, b)
      W_QKV.append(W * factor)
      b_QKV.append(b * factor)
    W_O = attention['W_O']
    b_O = attention.get('b_O', jnp.zeros(W_O.shape[-1], W_O.dtype))
    return Projections(
      jnp.concatenate(W_QKV, axis=1),
      jnp.concatenate(b_QKV, axis=1),
      W_O.reshape(-1, W_O.shape[-1]),
      b_O,
      norms,
    )

  def norm(self, weights: types.PyTree, x: types.Array) -> types.Array:
    """`transformer.norm` of this architecture."""
    return transformer.norm(self.architecture, weights, x)

  def run(
    self, layer: int, frozen: FrozenLayer, residual: types.Array
  ) -> types.Array:
    """The residual stream after a layer, [B, T, D]."""
    values = self.values(layer, frozen, self.norm(frozen.ln1, residual))
    return self.finish(frozen, residual, self.write(frozen, values))

  def finish(
    self, frozen: FrozenLayer, residual: types.Array, attended: types.Array
  ) -> types.Array:
    """The residual stream after a layer, from the output of its heads.

    Args:
      frozen: the layer.
      residual: [B, T, D], before it.
      attended: [B, T, D], the output of its attention.
    """
    stream = residual + attended
    before = residual if self.architecture.parallel else stream
    return stream + self.mlp(frozen, before)

  def mlp(
    self, frozen: FrozenLayer, stream: types.Array
  ) -> types.Array | float:
    """The output of a layer's MLP, of what its norm reads; 0 without one."""
    if not frozen.mlp:
      return 0.0
    x = self.norm(frozen.ln2, stream)
    return transformer.mlp(self.architecture, frozen.mlp, x)

  def stream(
    self, params: types.Params, tokens: types.Array, layer: int | None = None
  ) -> types.Array:
    """The residual stream before a layer, or after all, [B, T] -> [B, T, D]."""
    residual = transformer.embedded(self.architecture, params, tokens)
    layers = self.layers(params, tokens.shape[1])[:layer]
    for i, frozen in enumerate(layers):
      residual = self.run(i, frozen, residual)
    return residual

  def final_norm(
    self, params: types.Params, tokens: types.Array
  ) -> types.Array:
    """The input of the unembedding, tokens [B, T] -> [B, T, D]."""
    return self.norm(params['ln_final'], self.stream(params, tokens))

  def reads(
    self, frozen: FrozenLayer, x: types.Array
  ) -> tuple[types.Array, types.Array, types.Array]:
    """Queries, keys and values before norms and turns.

    Args:
      frozen: the layer.
      x: [B, T, D], normed residual stream.

    Returns:
      q [B, H, T, E], scaled unless normed; k, v [B, K, T, E].
    """
    (B, T, _), heads = x.shape, frozen.heads
    b_QKV = jnp.broadcast_to(heads.b_QKV[None], (B, T, heads.b_QKV.shape[1]))
    H, K = self.architecture.num_heads, self.architecture.kv_heads
    qkv = x @ heads.W_QKV + b_QKV
    qkv = qkv.reshape(B, T, H + 2 * K, -1).transpose(0, 2, 1, 3)
    q, k, v = jnp.split(qkv, (H, H + K), axis=1)
    return q, k, v

  def queries_keys_values(
    self, frozen: FrozenLayer, x: types.Array
  ) -> tuple[types.Array, types.Array, types.Array]:
    """`reads` as scores take them: normed, turned and scaled."""
    q, k, v = self.reads(frozen, x)
    return *self.turned(frozen, q, k), v

  def turned(
    self, frozen: FrozenLayer, q: types.Array, k: types.Array
  ) -> tuple[types.Array, types.Array]:
    """Queries, scaled unless normed, and keys as scores take them."""
    norms = frozen.heads.norms
    of_head = lambda name, heads: transformer.of_head(
      self.architecture, norms.get(name), heads
    )
    return of_head('q_norm', q), of_head('k_norm', k)

  def scored(
    self, layer: int, frozen: FrozenLayer, q: types.Array, k: types.Array
  ) -> tuple[types.Array, types.Array]:
    """The same of queries that are not scaled."""
    if not frozen.heads.norms:
      q = q / self.architecture.score_divisor(layer)
    return self.turned(frozen, q, k)

  def values(
    self, layer: int, frozen: FrozenLayer, x: types.Array
  ) -> types.Array:
    """Attention-weighted values of every head, [B, T, D] -> [B, T, H, E]."""
    q, k, v = self.queries_keys_values(frozen, x)
    k, v = (jnp.repeat(y, q.shape[1] // k.shape[1], axis=1) for y in (k, v))
    B, H, T, E = q.shape
    q, k, v = (y.reshape(B * H, T, E) for y in (q, k, v))
    values = self.attended(layer, q, k, v)
    return values.reshape(B, H, T, E).transpose(0, 2, 1, 3)

  def values_of_head(
    self,
    layer: int,
    params: types.Params,
    head: types.Array,
    frozen: FrozenLayer,
    x: types.Array,
  ) -> types.Array:
    """Attention-weighted values of one head, [B, T, D] -> [B, T, E].

    Args:
      layer: its number.
      params: the weights of the model.
      head: [], its number in the layer.
      frozen: the layer.
      x: [B, T, D], normed residual stream.
    """
    attention = params[f'blocks_{layer}']['attn']
    read = transformer.positioned(self.architecture, params, x)
    group = head // self.architecture.group_size
    rows = transformer.head_leaves(attention, 'Q')
    weights = jax.tree.map(lambda leaf: leaf[head], rows)
    rows = transformer.head_leaves(attention, 'KV')
    weights |= jax.tree.map(lambda leaf: leaf[group], rows)
    q, k, v = (
      transformer.linear(y, weights[f'W_{name}'], weights.get(f'b_{name}'))
      for name, y in (('Q', read), ('K', read), ('V', x))
    )
    return self.attended(layer, *self.scored(layer, frozen, q, k), v)

  def write(self, frozen: FrozenLayer, values: types.Array) -> types.Array:
    """The output of all heads, [B, T, H, E] -> [B, T, D]."""
    heads = frozen.heads
    flat = values.reshape(*values.shape[:2], -1)
    return transformer.linear(flat, heads.W_O, heads.b_O)

  def attended(
    self, layer: int, q: types.Array, k: types.Array, v: types.Array
  ) -> types.Array:
    """Causal attention of N heads and sequences, [N, T, E] -> [N, T, E].

    Args:
      layer: whose window it is.
      q: queries as scores take them.
      k: keys likewise.
      v: values.
    """
    window = self.architecture.window(layer)
    pattern = lambda qkv: causal_attention.causal_attention(
      *qkv, self.tiles.queries, window
    )
    num_patterns, length, _ = q.shape
    at_once = self.tiles.scores // (min(self.tiles.queries, length) * length)
    # Short sequences at once: one after another took 15 % longer at 4 x 63.
    if at_once >= num_patterns:
      return pattern((q, k, v))
    size = at_once if at_once > 1 else None
    return jax.lax.map(pattern, (q, k, v), batch_size=size)
