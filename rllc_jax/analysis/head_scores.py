"""What heads attend to, on sequences of random tokens.

As in the code of Hoogland et al. (2402.02364), for the transformer of Wang et
al. (2410.02984). A score is an attention weight, so between 0 and 1; how high
it gets depends on the model, so rank heads by it and compare with the weight of
an even attention.
"""

from collections.abc import Callable
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import frozen_layers

_CHUNK = 256  # Sequences at once.
_LEAST_CONTEXT = 8

# Shapes: L layers, H heads, B sequences, T positions.


class Questions(NamedTuple):
  """Sequences, and the attention weights that a score is the mean of.

  Attributes:
    tokens: [B, T], the special token first.
    queries: [B], the position that attends.
    keys: [B], what it attends to.
  """

  tokens: types.Array
  queries: types.Array
  keys: types.Array


def previous_token_questions(
  rng_key: types.Key, model: attention_only.AttentionOnly, num_sequences: int
) -> Questions:
  """The last position and the one before it, in 16 to 64 random tokens."""
  tokens, last = _random_sequences(rng_key, model, num_sequences)
  return Questions(tokens, last, last - 1)


def current_token_questions(
  rng_key: types.Key, model: attention_only.AttentionOnly, num_sequences: int
) -> Questions:
  """The last position and itself, in 16 to 64 random tokens.

  The paper names current-token heads and does not say how it finds them; this
  is the previous-token score, one position on.
  """
  tokens, last = _random_sequences(rng_key, model, num_sequences)
  return Questions(tokens, last, last)


def prefix_matching_questions(
  rng_key: types.Key, model: attention_only.AttentionOnly, num_sequences: int
) -> Questions:
  """The second of two equal tokens, and the position after the first of them.

  The first lies at 1 to 63 of 128, the second at 65 to 127; all others differ.
  """
  length, vocab_size = _prefix_length(model.context_length), model.vocab_size
  keys = jax.random.split(rng_key, 4)
  draw = lambda key, low, high: jax.random.randint(
    key, (num_sequences, 1), low, high
  )
  first = draw(keys[0], 1, length // 2)
  second = draw(keys[1], length // 2 + 1, length)
  twice = draw(keys[2], 0, vocab_size - 1)
  others = jax.random.randint(
    keys[3], (num_sequences, length), 0, vocab_size - 2
  )
  others += (others >= twice).astype(
    others.dtype
  )  # All but that one, equally likely.
  positions = jnp.arange(length)[None]
  tokens = jnp.where(
    (positions == first) | (positions == second), twice, others
  )
  tokens = tokens.at[:, 0].set(vocab_size - 1)
  return Questions(tokens, second[:, 0], first[:, 0] + 1)


def _random_sequences(rng_key, model, num_sequences):
  """Tokens [B, T] and the last position of each sequence, [B]."""
  low, high = _lengths(model.context_length)
  token_key, length_key = jax.random.split(rng_key)
  shape = num_sequences, high
  tokens = jax.random.randint(token_key, shape, 0, model.vocab_size - 1)
  lengths = jax.random.randint(length_key, (num_sequences,), low, high + 1)
  return tokens.at[:, 0].set(model.vocab_size - 1), lengths - 1


def _lengths(context_length):
  return min(16, context_length), min(64, context_length)


def _prefix_length(context_length):
  return min(128, context_length)


# A score asks for its questions: (rng_key, model, num_sequences).
SCORES: dict[str, Callable[..., Questions]] = {
  'previous_token': previous_token_questions,
  'current_token': current_token_questions,
  'prefix_matching': prefix_matching_questions,
}


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def head_scores(
  score: str,
  model: attention_only.AttentionOnly,
  params: types.Params,
  rng_key: types.Key,
  num_sequences: int = 10_000,
) -> types.Array:
  """The mean attention weight that a score asks for, of every head.

  Args:
    score: a key of `SCORES`.
    model: its sizes; its last token is the special one.
    params: its weights. Traced: map over checkpoints.
    rng_key: of the sequences. The key is consumed.
    num_sequences: rounded up to a multiple of what runs at once.

  Returns:
    [L, H].

  Raises:
    ValueError: if the model's context is too short. Sequences are as long as it
      where it is shorter than theirs.
  """
  if model.context_length < _LEAST_CONTEXT:
    raise ValueError(
      f'Scores of heads need a context of at least {_LEAST_CONTEXT} tokens, to '
      f'ask about places in it; got {model.context_length}.'
    )
  size = min(_CHUNK, num_sequences)
  num_chunks = -(-num_sequences // size)

  def chunk(key):
    questions = SCORES[score](key, model, size)
    return jnp.mean(attention_to(model, params, questions), axis=-1)

  means = jax.lax.map(chunk, jax.random.split(rng_key, num_chunks))
  return jnp.mean(means, axis=0)


def attention_to(
  model: attention_only.AttentionOnly,
  params: types.Params,
  questions: Questions,
) -> types.Array:
  """The attention weight of each question, in every head, [L, H, B]."""
  tokens, queries, keys = questions
  rows = attention_rows(model, params, tokens, queries)
  return jnp.take_along_axis(rows, keys[None, None, :, None], axis=3)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def attention_rows(
  model: attention_only.AttentionOnly,
  params: types.Params,
  tokens: types.Array,
  queries: types.Array,
) -> types.Array:
  """What one position of each sequence attends to, in every head.

  Args:
    model: its sizes.
    params: its weights. Traced.
    tokens: [B, T], integers.
    queries: [B], positions.

  Returns:
    [L, H, B, T], weights that add up to 1 over the last axis.
  """
  tiles = frozen_layers.default_tiles()
  layers, positions = frozen_layers.of_params(params, tokens.shape[1])
  residual = params['embed']['W_E'][tokens]
  found = []
  for i, layer in enumerate(layers):
    x = attention_only.layer_norm(layer.norm, residual)
    heads = params[f'blocks_{i}']['attn']
    found.append(
      jax.vmap(_row, (0, None, None))(
        {name: heads[name] for name in ('W_Q', 'W_K', 'b_Q', 'b_K')},
        x + positions[None],
        queries,
      )
    )
    residual = frozen_layers.attend(layer, residual, model.num_heads, tiles)
  return jnp.stack(found)


def _row(head, positioned, queries):
  """A head's attention from one position of each sequence, [B, T]."""
  asking = jnp.take_along_axis(positioned, queries[:, None, None], axis=1)
  q = attention_only.linear(asking, head['W_Q'], head['b_Q'])
  k = attention_only.linear(positioned, head['W_K'], head['b_K'])
  scores = jnp.einsum('bqe,bke->bk', q, k) / math.sqrt(q.shape[-1])
  seen = jnp.arange(k.shape[1])[None] <= queries[:, None]
  return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)


def even_attention(score: str, context_length: int = 1024) -> float:
  """What a head scores that attends to all positions alike.

  Examples:
    >>> for score in SCORES:
    ...   print(f'{score}: {even_attention(score):.5f}')
    previous_token: 0.02910
    current_token: 0.02910
    prefix_matching: 0.01070
  """
  low, high = _lengths(context_length)
  if score == 'prefix_matching':
    high = _prefix_length(context_length)
    low = high // 2 + 2
  return sum(1 / seen for seen in range(low, high + 1)) / (high + 1 - low)
