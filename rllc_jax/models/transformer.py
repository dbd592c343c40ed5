"""Transformers as pure functions of nested dicts of weights.

See `models.architecture` for what they compute and how weights are named. These
functions are plain: any weight may move, and any order of derivative exists.
`models.frozen_layers` computes the same faster, where most weights are fixed.
"""

import jax
import jax.numpy as jnp

from rllc_jax import types
from rllc_jax.models import architecture as architectures

Architecture = architectures.Architecture

# Shapes: B sequences, T positions, D = d_model, E = d_head, F = d_mlp, H query
# heads, K key and value heads.


def linear(
  x: types.Array, W: types.Array, b: types.Array | None
) -> types.Array:
  """The affine map x W + b, [..., D] -> [..., E]; b None for 0."""
  product = x @ W
  if b is None:
    return product
  # Explicitly, because jax_numpy_rank_promotion may be set to 'raise'.
  return product + jnp.broadcast_to(b, product.shape)


def centered(x: types.Array) -> types.Array:
  """Subtracts the mean of the last axis."""
  return x - jnp.mean(x, axis=-1, keepdims=True)


def norm_divisor(architecture: Architecture, x: types.Array) -> types.Array:
  """What a norm divides by, [..., D] -> [..., 1]."""
  if architecture.norm == 'layer':
    square = jnp.var(x, axis=-1, keepdims=True)
  else:
    square = jnp.mean(x**2, axis=-1, keepdims=True)
  return jnp.sqrt(square + architecture.norm_epsilon)


def norm(
  architecture: Architecture, weights: types.PyTree, x: types.Array
) -> types.Array:
  """LayerNorm or RMSNorm with gain `w` and perhaps bias `b`, [..., D]."""
  gain = jnp.broadcast_to(weights['w'], x.shape)
  numerator = centered(x) if architecture.norm == 'layer' else x
  normed = numerator / norm_divisor(architecture, x) * gain
  if 'b' not in weights:
    return normed
  return normed + jnp.broadcast_to(weights['b'], x.shape)


def norm_of_head(
  architecture: Architecture, weights: types.PyTree, x: types.Array
) -> types.Array:
  """RMSNorm over the dimensions of a head, [..., E]."""
  square = jnp.mean(x**2, axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(square + architecture.norm_epsilon)
  return x * scale * jnp.broadcast_to(weights['w'], x.shape)


def turned(
  architecture: Architecture, x: types.Array, places: types.Array | None = None
) -> types.Array:
  """Queries or keys, turned by their positions, [..., T, E].

  Args:
    architecture: `rotary` has the angles.
    x: [..., T, E].
    places: [T], positions; 0, 1, ... by default.
  """
  if architecture.rotary is None:
    return x
  half = architecture.rotary.num_dims // 2
  places = jnp.arange(x.shape[-2]) if places is None else places
  per_position = jnp.asarray(architecture.rotary.angles, x.dtype)
  angles = places.astype(x.dtype)[:, None] * per_position[None]
  leading = (1,) * (x.ndim - 2)
  cos, sin = (
    f(angles).reshape(*leading, *angles.shape) for f in (jnp.cos, jnp.sin)
  )
  first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
  turned_pair = first * cos - second * sin, second * cos + first * sin
  return jnp.concatenate([*turned_pair, rest], axis=-1)


def visible(
  architecture: Architecture,
  layer: int,
  queries: types.Array,
  keys: types.Array,
) -> types.Array:
  """Which keys each query sees, places [Q] and [K] -> [Q, K]."""
  distance = queries[:, None] - keys[None]
  seen = distance >= 0
  if window := architecture.window(layer):
    seen &= distance < window
  return seen


def first_positions(
  architecture: Architecture, params: types.Params, length: int
) -> types.Array | None:
  """The first rows of W_pos, [T, D]; None for a model without.

  Raises:
    ValueError: if the model has fewer positions.
  """
  if length > architecture.context_length:
    # A slice would be shorter without an error.
    raise ValueError(
      'Sequences must be at most context_length tokens long, for which the '
      f'model has {architecture.context_length} positions; got {length} tokens.'
    )
  if 'pos_embed' not in params:
    return None
  return params['pos_embed']['W_pos'][:length]


def embedded(
  architecture: Architecture, params: types.Params, tokens: types.Array
) -> types.Array:
  """The residual stream before the first layer, [B, T] -> [B, T, D]."""
  residual = params['embed']['W_E'][tokens]
  positions = first_positions(architecture, params, tokens.shape[-1])
  if architecture.positions == 'learned':
    assert positions is not None
    residual = residual + positions[None]
  return residual


def positioned(
  architecture: Architecture, params: types.Params, x: types.Array
) -> types.Array:
  """What queries and keys read where values read x, [B, T, D]."""
  if architecture.positions != 'shortformer':
    return x
  positions = first_positions(architecture, params, x.shape[1])
  assert positions is not None
  return x + positions[None]


def head_leaves(attention: types.PyTree, names: str) -> dict:
  """The weights of some of 'QKVO' that have a head axis, of a layer."""
  leaves = [f'W_{x}' for x in names] + [f'b_{x}' for x in names if x != 'O']
  return {name: attention[name] for name in leaves if name in attention}


def attention_pattern(
  architecture: Architecture,
  layer: int,
  norms: types.PyTree,
  q: types.Array,
  k: types.Array,
) -> types.Array:
  """Causal attention of one head, [B, T, E] twice -> [B, T, T].

  Args:
    architecture: of the model.
    layer: its number.
    norms: the layer's attention weights, of which `q_norm` and `k_norm` count.
    q: queries, [B, T, E].
    k: keys.

  Returns:
    Rows that sum to 1.
  """
  q, k = (
    of_head(architecture, norms.get(f'{name}_norm'), x)
    for name, x in (('q', q), ('k', k))
  )
  divisor = architecture.score_divisor(layer)
  scores = jnp.einsum('bqe,bke->bqk', q, k) / divisor
  places = jnp.arange(scores.shape[1])
  seen = visible(architecture, layer, places, places)
  # -inf is safe, because every query sees its own key.
  return jax.nn.softmax(jnp.where(seen[None], scores, -jnp.inf), axis=-1)


def of_head(
  architecture: Architecture,
  norm_weights: types.PyTree | None,
  x: types.Array,
  places: types.Array | None = None,
) -> types.Array:
  """Queries or keys as scores read them, normed and turned, [..., T, E]."""
  if norm_weights is not None:
    x = norm_of_head(architecture, norm_weights, x)
  return turned(architecture, x, places)


def head_values(
  architecture: Architecture,
  layer: int,
  attention: types.PyTree,
  x: types.Array,
  read: types.Array,
) -> types.Array:
  """Attention-weighted values of every head, before W_O, [H, B, T, E].

  Args:
    architecture: of the model.
    layer: its number.
    attention: its attention weights.
    x: [B, T, D], normed residual stream.
    read: [B, T, D], what queries and keys read.
  """
  norms = {n: w for n, w in attention.items() if n.endswith('_norm')}
  leaves = head_leaves(attention, 'QKV')
  repeats = {n: architecture.num_heads // len(W) for n, W in leaves.items()}
  # Keys and values that heads share are computed for each: this is the plain
  # form.
  leaves = {n: jnp.repeat(W, repeats[n], axis=0) for n, W in leaves.items()}

  def of_head(weights):
    q, k, v = (
      linear(y, weights[f'W_{name}'], weights.get(f'b_{name}'))
      for name, y in (('Q', read), ('K', read), ('V', x))
    )
    return attention_pattern(architecture, layer, norms, q, k) @ v

  return jax.vmap(of_head)(leaves)


def write(attention: types.PyTree, values: types.Array) -> types.Array:
  """The output of a layer's heads, [H, B, T, E] -> [B, T, D]."""
  summed = jnp.einsum('hbte,hed->btd', values, attention['W_O'])
  if 'b_O' not in attention:
    return summed
  return summed + jnp.broadcast_to(attention['b_O'], summed.shape)


def mlp(
  architecture: Architecture, weights: types.PyTree, x: types.Array
) -> types.Array:
  """The MLP of a layer, [B, T, D] -> [B, T, D]."""
  activation = architectures.ACTIVATIONS[architecture.activation]
  hidden = linear(x, weights['W_in'], weights.get('b_in'))
  if architecture.gated:
    gate = linear(x, weights['W_gate'], weights.get('b_gate'))
    hidden = activation(gate) * hidden
  else:
    hidden = activation(hidden)
  return linear(hidden, weights['W_out'], weights.get('b_out'))


def after_layer(
  architecture: Architecture,
  params: types.Params,
  layer: int,
  residual: types.Array,
) -> types.Array:
  """One layer of attention, and its MLP if it has one, [B, T, D]."""
  block = params[f'blocks_{layer}']
  x = norm(architecture, block['ln1'], residual)
  read = positioned(architecture, params, x)
  values = head_values(architecture, layer, block['attn'], x, read)
  stream = residual + write(block['attn'], values)
  if not architecture.d_mlp:
    return stream
  before = residual if architecture.parallel else stream
  x = norm(architecture, block['ln2'], before)
  return stream + mlp(architecture, block['mlp'], x)


def unembedding(params: types.Params) -> tuple[types.Array, types.Array]:
  """W_U [D, V] and b_U [V]; the embedding's transpose in a tied model."""
  unembed = params.get('unembed', {})
  W_U = unembed['W_U'] if unembed else params['embed']['W_E'].T
  zeros = jnp.zeros(W_U.shape[1], W_U.dtype)
  return W_U, unembed.get('b_U', zeros)


def apply(
  architecture: Architecture, params: types.Params, tokens: types.Array
) -> types.Array:
  """Maps tokens [B, T] to logits [B, T, V]."""
  residual = embedded(architecture, params, tokens)
  for layer in range(architecture.num_layers):
    residual = after_layer(architecture, params, layer, residual)
  normed = norm(architecture, params['ln_final'], residual)
  return linear(normed, *unembedding(params))
