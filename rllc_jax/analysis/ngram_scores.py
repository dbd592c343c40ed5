"""Bigram and n-gram scores of a model's predictions.

As in the code of Hoogland et al. (2402.02364). Their n-grams are words of
GPT-2's vocabulary that the model's tokenizer cuts into n tokens; ours are the
most frequent runs of n tokens of the corpus that begin a word and end one, so
that no second tokenizer is needed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.analysis import grouped_means
from rllc_jax.analysis import token_losses
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer


class BigramScore(NamedTuple):
  """Cross-entropy of the model's predictions with the corpus's bigrams, nats.

  Attributes:
    cross_entropy: of the corpus's distribution after the token alone, with the
      model's distribution after the whole context.
    error: its standard error between rows.
    floor: the entropy of the former, a lower bound for every model.
  """

  cross_entropy: np.ndarray
  error: np.ndarray
  floor: np.ndarray


def bigram_table(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
  """Frequencies of next tokens, [V, V]; rows add up to 1, or 0 if unseen.

  Examples:
    >>> print(bigram_table(np.array([[0, 1, 0, 2]]), 3))
    [[0.  0.5 0.5]
     [1.  0.  0. ]
     [0.  0.  0. ]]
  """
  wide = tokens.astype(np.int64)
  pairs = (wide[:, :-1] * vocab_size + wide[:, 1:]).ravel()
  counts = np.bincount(pairs, minlength=vocab_size**2)
  counts = counts.reshape(vocab_size, vocab_size).astype(np.float32)
  totals = counts.sum(axis=1, keepdims=True)
  return np.divide(counts, totals, out=counts, where=totals > 0)


def bigram_score(
  model: transformer.Architecture,
  params: types.Params,
  tokens: types.Array,
  places: types.Array,
  table: types.Array | np.ndarray,
) -> BigramScore:
  """Cross-entropy of the model with the corpus's bigrams, at some places.

  Args:
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    tokens: [B, T], integers.
    places: [B, P], positions of each row, 1 to T - 1; the first is special.
    table: [V, V], from `bigram_table` of the training set.
  """
  scores, floors = _bigram_scores(model, params, tokens, places, table)
  mean, error = grouped_means.mean_over_rows(np.asarray(scores))
  return BigramScore(mean, error, np.asarray(np.mean(floors)))


@functools.partial(jax.jit, static_argnums=0)
def _bigram_scores(model, params, tokens, places, table):
  """Cross-entropies and entropies at each place, both [B, P]."""
  runner, tokens = frozen_layers.Runner(model), tokens.astype(jnp.int32)
  normed = runner.final_norm(params, tokens)
  rows = jnp.arange(len(tokens))[:, None]
  W_U, b_U = transformer.unembedding(params)

  def of_row(row):
    x, token = row
    log_odds = jax.nn.log_softmax(x @ W_U + b_U)
    odds = table[token]
    # 0 log 0 = 0.
    safe_odds = jnp.where(odds > 0, odds, 1)
    return -odds @ log_odds, -odds @ jnp.log(safe_odds)

  flat = normed[rows, places].reshape(-1, normed.shape[-1])
  scores = jax.lax.map(
    of_row, (flat, tokens[rows, places].ravel()), batch_size=runner.tiles.tokens
  )
  return tuple(x.reshape(places.shape) for x in scores)


def frequent_ngrams(
  tokens: np.ndarray, length: int, is_start: np.ndarray, count: int
) -> np.ndarray:
  """The most frequent words of a given number of tokens, [n, length].

  Args:
    tokens: [N, T], of the corpus.
    length: tokens of an n-gram.
    is_start: [V], True for tokens that begin a word, and so end the last one.
    count: how many, at most.

  Raises:
    ValueError: if the corpus has none.
  """
  wide = tokens[:, 1:].astype(np.int64)
  starts = is_start[wide]
  ends = np.ones(starts.shape, bool)  # A row's end ends a word.
  ends[:, :-1] = starts[:, 1:]
  windows = np.lib.stride_tricks.sliding_window_view(wide, length, axis=1)
  first = starts[:, : windows.shape[1]]
  last = ends[:, length - 1 :]
  # Windows that a word starts within are two words.
  inside = np.zeros(first.shape, bool)
  for place in range(1, length):
    inside |= starts[:, place : place + windows.shape[1]]
  words = windows[first & last & ~inside]
  if not len(words):
    raise ValueError(
      f'The corpus must have words of {length} tokens, to measure how well '
      'they are known; got none.'
    )
  grams, counts = np.unique(words, axis=0, return_counts=True)
  # Stable: ties in frequency keep the order of token ids.
  return grams[np.argsort(-counts, kind='stable')[:count]]


def ngram_score(
  model: transformer.Architecture,
  params: types.Params,
  ngrams: np.ndarray,
  losses_of_tokens: types.Array,
  special: int,
) -> grouped_means.Mean:
  """Ratio of ordinary losses to those of the last tokens of n-grams.

  Above 1 the model knows the n-grams better than text in general.

  Args:
    model: its sizes.
    params: its weights.
    ngrams: [n, length], each read after the special token.
    losses_of_tokens: of ordinary rows, from `token_losses`: those at the same
      place are compared with.
    special: the id that begins a row.

  Returns:
    The ratio, [], and its standard error over rows and n-grams.
  """
  length = ngrams.shape[1]
  first = np.full((len(ngrams), 1), special)
  batch = jnp.asarray(np.concatenate([first, ngrams], axis=1), jnp.int32)
  last = np.asarray(token_losses.token_losses(model, params, batch))[:, -1:]
  ordinary = np.asarray(losses_of_tokens)[:, length - 1 : length]
  above, below = map(grouped_means.mean_over_rows, (ordinary, last))
  ratio = above.mean / below.mean
  # To first order, relative errors of independent means add in squares.
  relative = np.hypot(above.error / above.mean, below.error / below.mean)
  return grouped_means.Mean(ratio, ratio * relative)
