"""The paper's transformer: attention only, positions at queries and keys.

Weights are a plain nested dict, named as in TransformerLens, head axis first:

  embed.W_E [V, d_model]                 pos_embed.W_pos [T, d_model]
  blocks_0.ln1.{w, b} [d_model]          ... one block a layer
  blocks_0.attn.{W_Q, W_K, W_V} [H, d_model, d_head], W_O [H, d_head, d_model]
  blocks_0.attn.{b_Q, b_K, b_V} [H, d_head], b_O [d_model]
  ln_final.{w, b} [d_model]              unembed.W_U [d_model, V], b_U [V]

The mathematics is pure functions of such dicts, which the faster losses in
`models.factored` use too; the flax modules declare the weights and call them.
"""

import math
from typing import cast

from flax import linen as nn
import jax
import jax.numpy as jnp

from rllc_jax import types

LAYER_NORM_EPSILON = 1e-5


# Shapes: B sequences, T positions, D = d_model, E = d_head.


def linear(x: types.Array, W: types.Array, b: types.Array) -> types.Array:
  """The affine map x W + b, [..., D] -> [..., E]."""
  product = x @ W
  # Explicitly, because jax_numpy_rank_promotion may be set to 'raise'.
  return product + jnp.broadcast_to(b, product.shape)


def deviation(x: types.Array) -> types.Array:
  """The divisor of LayerNorm, [..., D] -> [..., 1]."""
  return jnp.sqrt(jnp.var(x, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)


def centered(x: types.Array) -> types.Array:
  """Subtracts the mean of the last axis."""
  return x - jnp.mean(x, axis=-1, keepdims=True)


def layer_norm(weights: types.PyTree, x: types.Array) -> types.Array:
  """LayerNorm with gain `w` and bias `b`, [..., D] -> [..., D]."""
  gain, bias = (jnp.broadcast_to(weights[name], x.shape) for name in 'wb')
  return centered(x) / deviation(x) * gain + bias


def attention_pattern(
  head: types.PyTree, positioned: types.Array
) -> types.Array:
  """Causal attention of one head, [B, T, D] -> [B, T, T], rows sum to 1.

  Args:
    head: its W_Q, W_K, b_Q, b_K, without the head axis.
    positioned: normed residual stream plus positions.
  """
  q = linear(positioned, head['W_Q'], head['b_Q'])  # [B, T, E]
  k = linear(positioned, head['W_K'], head['b_K'])
  scores = jnp.einsum('bqe,bke->bqk', q, k) / math.sqrt(q.shape[-1])
  causal = jnp.tril(jnp.ones(scores.shape[1:], bool))
  # -inf is safe, because every query sees its own key.
  return jax.nn.softmax(jnp.where(causal[None], scores, -jnp.inf), axis=-1)


def head_values(
  head: types.PyTree, x: types.Array, positions: types.Array
) -> types.Array:
  """Attention-weighted values of one head, before W_O, [B, T, E].

  Args:
    head: its seven leaves, without the head axis.
    x: [B, T, D], normed residual stream.
    positions: [T, D], added to the input of queries and keys, not of values.
  """
  pattern = attention_pattern(head, x + positions[None])
  return pattern @ linear(x, head['W_V'], head['b_V'])


def all_head_values(
  attention: types.PyTree, x: types.Array, positions: types.Array
) -> types.Array:
  """`head_values` of every head of a layer, [H, B, T, E]."""
  # b_O belongs to the layer and has no head axis.
  heads = {name: w for name, w in attention.items() if name != 'b_O'}
  return jax.vmap(head_values, (0, None, None))(heads, x, positions)


def write(attention: types.PyTree, values: types.Array) -> types.Array:
  """The output of a layer's heads, [H, B, T, E] -> [B, T, D]."""
  summed = jnp.einsum('hbte,hed->btd', values, attention['W_O'])
  return summed + jnp.broadcast_to(attention['b_O'], summed.shape)


def attend(
  attention: types.PyTree, x: types.Array, positions: types.Array
) -> types.Array:
  """One layer of attention, [B, T, D] -> [B, T, D]."""
  return write(attention, all_head_values(attention, x, positions))


def first_positions(W_pos: types.Array, length: int) -> types.Array:
  """The first rows of W_pos, [T, D].

  Raises:
    ValueError: if the model has fewer positions.
  """
  if length > len(W_pos):  # A slice would be shorter without an error.
    raise ValueError(
      'Sequences must be at most context_length tokens long, as W_pos has '
      f'{len(W_pos)} rows; got {length} tokens.'
    )
  return W_pos[:length]


class LayerNorm(nn.Module):
  """Holds a gain and a bias."""

  @nn.compact
  def __call__(self, x):
    size = x.shape[-1]
    w = self.param('w', nn.initializers.ones, (size,))
    b = self.param('b', nn.initializers.zeros, (size,))
    return layer_norm({'w': w, 'b': b}, x)


class Attention(nn.Module):
  """Holds the weights of one layer of heads."""

  num_heads: int
  d_head: int
  initializer: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x, positions):
    H, D, E = self.num_heads, x.shape[-1], self.d_head
    shapes = dict.fromkeys(('W_Q', 'W_K', 'W_V'), (H, D, E)) | {
      'W_O': (H, E, D)
    }
    biases = dict.fromkeys(('b_Q', 'b_K', 'b_V'), (H, E)) | {'b_O': (D,)}
    zeros = nn.initializers.zeros
    weights = {n: self.param(n, self.initializer, s) for n, s in shapes.items()}
    weights |= {n: self.param(n, zeros, s) for n, s in biases.items()}
    return attend(weights, x, positions)


class Block(nn.Module):
  """Adds one layer of attention to the residual stream."""

  num_heads: int
  d_head: int
  initializer: nn.initializers.Initializer

  def setup(self):
    self.ln1 = LayerNorm()
    self.attn = Attention(self.num_heads, self.d_head, self.initializer)

  def __call__(self, residual, positions):
    return residual + self.attn(self.ln1(residual), positions)


class Table(nn.Module):
  """Holds one array, [rows, columns]."""

  name_of_array: str
  shape: tuple[int, int]
  initializer: nn.initializers.Initializer

  @nn.compact
  def __call__(self):
    return self.param(self.name_of_array, self.initializer, self.shape)


class Unembed(nn.Module):
  """Maps the residual stream to logits, with a bias."""

  vocab_size: int
  initializer: nn.initializers.Initializer

  @nn.compact
  def __call__(self, x):
    W_U = self.param('W_U', self.initializer, (x.shape[-1], self.vocab_size))
    b_U = self.param('b_U', nn.initializers.zeros, (self.vocab_size,))
    return linear(x, W_U, b_U)


class AttentionOnly(nn.Module):
  """The shortformer transformer of Wang et al. (2410.02984).

  At the paper's size, the defaults, it has 3,355,016 weights. Matrices start at
  N(0, 0.64 / d_model), biases at 0, gains at 1.

  Attributes:
    num_layers: blocks, at least 1.
    num_heads: heads a block.
    d_model: width of the residual stream.
    d_head: width of a head.
    context_length: longest sequence, the rows of W_pos.
    vocab_size: tokens.

  Examples:
    >>> model = AttentionOnly()
    >>> tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    >>> shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
    >>> sum(leaf.size for leaf in jax.tree.leaves(shapes))
    3355016
  """

  num_layers: int = 2
  num_heads: int = 8
  d_model: int = 256
  d_head: int = 32
  context_length: int = 1024
  vocab_size: int = 5000

  def setup(self):
    # At the paper's width, 256, a standard deviation of 0.05.
    init = nn.initializers.normal(0.8 / math.sqrt(self.d_model))
    vocabulary = (self.vocab_size, self.d_model)
    places = (self.context_length, self.d_model)
    self.embed = Table('W_E', vocabulary, init)
    self.pos_embed = Table('W_pos', places, init)
    self.blocks = [
      Block(self.num_heads, self.d_head, init) for _ in range(self.num_layers)
    ]
    self.ln_final = LayerNorm()
    self.unembed = Unembed(self.vocab_size, init)

  def __call__(self, tokens):
    """Maps tokens [B, T] to logits [B, T, V]."""
    residual = self.embed()[tokens]
    positions = first_positions(self.pos_embed(), tokens.shape[-1])
    for block in self.blocks:
      residual = block(residual, positions)
    return self.unembed(self.ln_final(residual))


def init_params(rng_key: types.Key, model: AttentionOnly) -> types.Params:
  """Draws the weights of a model. The key is consumed."""
  # One token suffices: no shape depends on the batch.
  return model.init(rng_key, jnp.zeros((1, 1), jnp.int32))['params']


def params_shapes(model: AttentionOnly) -> types.Params:
  """Computes the shapes of the weights without drawing them."""
  return jax.eval_shape(lambda key: init_params(key, model), jax.random.key(0))


def apply(
  model: AttentionOnly, params: types.Params, tokens: types.Array
) -> types.Array:
  """Maps tokens [B, T] to logits [B, T, V]: a pure function of weights."""
  logits = model.apply({'params': params}, tokens)
  return cast(
    types.Array, logits
  )  # Flax returns a pair only with mutable collections.
