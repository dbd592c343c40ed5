"""Attention scores of heads, on random tokens and on text.

As in the code of Hoogland et al. (2402.02364), for the transformer of Wang et
al. (2410.02984). A score is an attention weight, so between 0 and 1; how high
it gets depends on the model, so rank heads by it and compare with the weight of
an even attention.

A small model may match prefixes in its kind of text but not among random
tokens, which it never saw. `repeated_pairs` selects places in text for that;
the score there is ours, not the paper's.
"""

from collections.abc import Callable
from collections.abc import Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.analysis import grouped_means
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer

_CHUNK = 256  # Sequences at once.
_LEAST_CONTEXT = 8
_FIRST_PLACE = 16  # Earlier positions have few others to attend to.

# Shapes: L layers, H heads, N sequences, T positions, B questions.


class Vocabulary(NamedTuple):
  """The ids that random sequences are made of.

  Attributes:
    special: [], the id that begins a row, as in the model's training.
    ordinary: [V], ids that are drawn, all alike. Leave out those of other
      special tokens and those that only fill up the embedding, because no
      training has met them.
  """

  special: types.Array | int
  ordinary: types.Array | np.ndarray


def own_vocabulary(vocab_size: int) -> Vocabulary:
  """The vocabulary of this library's tokenizers: the last id is special."""
  return Vocabulary(vocab_size - 1, jnp.arange(vocab_size - 1))


class Questions(NamedTuple):
  """Sequences, and the positions whose attention weights a score averages.

  Attributes:
    tokens: [N, T], the special token first.
    rows: [B], which sequence each is about.
    queries: [B], the position that attends.
    keys: [B], what it attends to.
  """

  tokens: types.Array
  rows: types.Array
  queries: types.Array
  keys: types.Array


def previous_token_questions(
  rng_key: types.Key,
  vocabulary: Vocabulary,
  context_length: int,
  num_sequences: int,
) -> Questions:
  """Questions about the last position and the one before it.

  Sequences have 16 to 64 random tokens.
  """
  tokens, last = _random_sequences(
    rng_key, vocabulary, context_length, num_sequences
  )
  return Questions(tokens, jnp.arange(len(tokens)), last, last - 1)


def current_token_questions(
  rng_key: types.Key,
  vocabulary: Vocabulary,
  context_length: int,
  num_sequences: int,
) -> Questions:
  """Questions about the last position and itself, in 16 to 64 random tokens.

  The paper names current-token heads without a method to find them; this is the
  previous-token score, one position on.
  """
  tokens, last = _random_sequences(
    rng_key, vocabulary, context_length, num_sequences
  )
  return Questions(tokens, jnp.arange(len(tokens)), last, last)


def prefix_matching_questions(
  rng_key: types.Key,
  vocabulary: Vocabulary,
  context_length: int,
  num_sequences: int,
) -> Questions:
  """Questions about a repeated token and the position after its first copy.

  The first lies at 1 to 63 of 128, the second at 65 to 127; all others differ.
  """
  length, size = _prefix_length(context_length), len(vocabulary.ordinary)
  keys = jax.random.split(rng_key, 4)
  draw = lambda key, low, high: jax.random.randint(
    key, (num_sequences, 1), low, high
  )
  first = draw(keys[0], 1, length // 2)
  second = draw(keys[1], length // 2 + 1, length)
  repeated = draw(keys[2], 0, size)
  fillers = jax.random.randint(keys[3], (num_sequences, length), 0, size - 1)
  # Skips the repeated token, so that all others are equally likely.
  fillers += (fillers >= repeated).astype(fillers.dtype)
  positions = jnp.arange(length)[None]
  places = jnp.where(
    (positions == first) | (positions == second), repeated, fillers
  )
  tokens = _begin_rows(vocabulary, places)
  return Questions(
    tokens, jnp.arange(len(tokens)), second[:, 0], first[:, 0] + 1
  )


def _random_sequences(rng_key, vocabulary, context_length, num_sequences):
  """Draws tokens [B, T] and the last position of each sequence, [B]."""
  low, high = _lengths(context_length)
  token_key, length_key = jax.random.split(rng_key)
  shape, size = (num_sequences, high), len(vocabulary.ordinary)
  places = jax.random.randint(token_key, shape, 0, size)
  lengths = jax.random.randint(length_key, (num_sequences,), low, high + 1)
  return _begin_rows(vocabulary, places), lengths - 1


def _begin_rows(vocabulary, places):
  """Ids at places of the vocabulary, the special token first."""
  ids = jnp.asarray(vocabulary.ordinary)[places]
  return ids.at[:, 0].set(vocabulary.special)


def _lengths(context_length):
  return min(16, context_length), min(64, context_length)


def _prefix_length(context_length):
  return min(128, context_length)


def repeated_pairs(
  tokens: np.ndarray,
  pair_odds: Mapping[tuple[int, int], float],
  count: int,
  *,
  common: float = 0.05,
) -> Questions:
  """Questions about repeated pairs in text, and the position to attend to.

  At the first token of a repeated pair, a head that matches prefixes attends to
  the position after its last occurrence, and so predicts the second token.

  Args:
    tokens: [N, T], text.
    pair_odds: {(token, next): odds}, from `multigrams.pair_odds`.
    count: questions at most, evenly spaced among those there are.
    common: odds from which a pair is a bigram and needs no earlier one.
  """
  questions = []
  for row, sequence in enumerate(np.asarray(tokens).tolist()):
    last: dict[int, int] = {}  # Last place of each token.
    for place in range(len(sequence) - 1):
      token, following = sequence[place], sequence[place + 1]
      before = last.get(token, place)
      repeats = before + 1 < place and sequence[before + 1] == following
      if repeats and pair_odds.get((token, following), 0.0) <= common:
        questions.append((row, place, before + 1))
      last[token] = place
  chosen = np.linspace(
    0, len(questions) - 1, min(count, len(questions))
  ).astype(int)
  places = np.array(questions, int).reshape(-1, 3)[chosen]
  return Questions(*map(jnp.asarray, (tokens, *places.T)))


def previous_places(tokens: np.ndarray, count: int) -> Questions:
  """Questions about positions in text and the one before each.

  Args:
    tokens: [N, T], text.
    count: questions at most, evenly spaced among the positions from 16 on, or
      from the middle of shorter rows.
  """
  num_rows, length = np.shape(tokens)
  first = min(_FIRST_PLACE, length // 2)
  total = num_rows * (length - first)
  chosen = np.linspace(0, total - 1, min(count, total)).astype(int)
  rows, places = np.divmod(chosen, length - first)
  fields = tokens, rows, places + first, places + first - 1
  return Questions(*map(jnp.asarray, fields))


class Score(NamedTuple):
  """Mean attention weights of questions, and their standard errors.

  Attributes:
    mean: [L, H].
    error: [L, H]; of questions about text it is between rows.
  """

  mean: types.Array | np.ndarray
  error: types.Array | np.ndarray


class TextScore(NamedTuple):
  """Attention to the continuation of a repeated pair, and to its neighbors.

  Attributes:
    score: [L, H], mean weight on the key of each question; NaN without any.
    error: [L, H], its standard error between rows.
    beside: [L, H], mean weight on the two positions next to it, or of even
      attention, whichever is more: the weight expected without matching.
  """

  score: np.ndarray
  error: np.ndarray
  beside: np.ndarray


def text_score(
  model: transformer.Architecture, params: types.Params, questions: Questions
) -> TextScore:
  """Scores prefix matching in text, on questions from `repeated_pairs`."""
  if not len(questions.rows):
    empty = np.full((model.num_layers, model.num_heads), np.nan)
    return TextScore(empty, empty, empty)
  # One pass serves the three offsets below.
  rows = attention_rows(model, params, *questions[:3])
  to = lambda offset: np.asarray(_take_keys(rows, questions.keys + offset))
  even = np.mean(1 / (np.asarray(questions.queries) + 1))
  beside = np.mean((to(-1) + to(1)) / 2, axis=-1)
  score = grouped_means.grouped_mean(to(0), questions.rows)
  return TextScore(*score, np.maximum(beside, even))


def score_in_text(
  model: transformer.Architecture, params: types.Params, questions: Questions
) -> Score:
  """Mean attention weight of questions about text, rows ascending."""
  weights = attention_to(model, params, questions)
  return Score(*grouped_means.grouped_mean(weights, questions.rows))


# A score asks for its questions: (rng_key, vocabulary, context_length, number).
SCORES: dict[str, Callable[..., Questions]] = {
  'previous_token': previous_token_questions,
  'current_token': current_token_questions,
  'prefix_matching': prefix_matching_questions,
}


@functools.partial(jax.jit, static_argnums=(0, 1, 4))
def head_scores(
  score: str,
  model: transformer.Architecture,
  params: types.Params,
  rng_key: types.Key,
  num_sequences: int = 10_000,
  vocabulary: Vocabulary | None = None,
) -> Score:
  """The mean attention weight of a score's questions, for every head.

  Each question has its own random sequence, so questions are independent.

  Args:
    score: a key of `SCORES`.
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    rng_key: of the sequences. The key is consumed.
    num_sequences: 2 or more; rounded up to a multiple of what runs at once.
    vocabulary: ids of random sequences; by default `own_vocabulary`.

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
  ids = vocabulary or own_vocabulary(model.vocab_size)

  def chunk(key):
    questions = SCORES[score](key, ids, model.context_length, size)
    weights = attention_to(model, params, questions)
    return jnp.mean(weights, axis=-1), jnp.var(weights, axis=-1)

  means, variances = jax.lax.map(chunk, jax.random.split(rng_key, num_chunks))
  # Within chunks and between them: a difference of squares would cancel.
  variance = jnp.mean(variances, axis=0) + jnp.var(means, axis=0)
  error = jnp.sqrt(variance / (num_chunks * size - 1))
  return Score(jnp.mean(means, axis=0), error)


def attention_to(
  model: transformer.Architecture, params: types.Params, questions: Questions
) -> types.Array:
  """The attention weight of each question, in every head, [L, H, B]."""
  rows = attention_rows(model, params, *questions[:3])
  return _take_keys(rows, questions.keys)


def _take_keys(rows, keys):
  """The entry of each row at its key, [..., B, T] and [B] -> [..., B]."""
  return jnp.take_along_axis(rows, keys[None, None, :, None], axis=3)[..., 0]


@functools.partial(jax.jit, static_argnums=0)
def attention_rows(
  model: transformer.Architecture,
  params: types.Params,
  tokens: types.Array,
  rows: types.Array,
  queries: types.Array,
) -> types.Array:
  """Attention patterns of selected positions, in every head.

  Args:
    model: its sizes.
    params: its weights. Traced.
    tokens: [N, T], integers.
    rows: [B], in which sequence each position is.
    queries: [B], positions.

  Returns:
    [L, H, B, T], weights that add up to 1 over the last axis.
  """

  def of_layer(layer, q, k):
    places = jnp.arange(tokens.shape[1])
    seen = transformer.visible(model, layer, queries, places)

    def of_head(heads):
      q, k = heads  # [N, T, E], as scores take them.
      scores = jnp.einsum('be,bke->bk', q[rows, queries], k[rows])
      return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)

    # Head by head: only selected queries, never a whole [T, T] pattern.
    return jax.lax.map(of_head, (q, k))

  return _of_layers(model, params, tokens, of_layer)


def _of_layers(model, params, tokens, of_layer):
  """Stacks of_layer(layer, q, k), both [H, N, T, E] as scores take them."""
  runner = frozen_layers.Runner(model)
  residual = transformer.embedded(model, params, tokens)
  results = []
  for i, frozen in enumerate(runner.layers(params, tokens.shape[1])):
    x = runner.norm(frozen.ln1, residual)
    q, k, _ = runner.queries_keys_values(frozen, x)
    k = jnp.repeat(k, model.group_size, axis=1)
    results.append(of_layer(i, q.swapaxes(0, 1), k.swapaxes(0, 1)))
    residual = runner.run(i, frozen, residual)
  return jnp.stack(results)


@functools.partial(jax.jit, static_argnums=0)
def most_attended(
  model: transformer.Architecture, params: types.Params, tokens: types.Array
) -> types.Array:
  """The position that each attends to most, [B, T] -> [L, H, B, T]."""

  def of_layer(layer, q, k):
    places = jnp.arange(tokens.shape[1])
    seen = transformer.visible(model, layer, places, places)

    def of_pair(pair):
      q, k = pair  # [T, E]. No softmax: it does not change the argmax.
      return jnp.argmax(jnp.where(seen, q @ k.T, -jnp.inf), axis=-1)

    flat = lambda x: x.reshape(-1, *x.shape[2:])
    most = jax.lax.map(of_pair, (flat(q), flat(k)))
    return most.reshape(q.shape[:3])

  return _of_layers(model, params, tokens, of_layer)


def even_attention(score: str, context_length: int = 1024) -> float:
  """The score of a head that attends to all positions alike.

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
    low = high // 2 + 2  # The second copy lies in the second half.
  return sum(1 / num_visible for num_visible in range(low, high + 1)) / (
    high + 1 - low
  )
