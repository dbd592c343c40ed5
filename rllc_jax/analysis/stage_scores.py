"""Behavioral scores of a model at each checkpoint.

As in Hoogland et al. (2402.02364): in-context learning, cross-entropy with
bigrams, and losses on frequent n-grams. They compare the 500th token of a row
with the 50th; one position of some hundred rows has an error as large as the
effect, so here bands of positions are compared.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import grouped_means
from rllc_jax.analysis import ngram_scores
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer

_PLACES = 16  # Of a row, where bigrams are scored.


class Bands(NamedTuple):
  """Tokens of a row that are compared, first and last, numbered from 1."""

  early: tuple[int, int]
  late: tuple[int, int]


def bands(length: int) -> Bands:
  """The early and the late tokens of a row.

  In rows of 600 tokens or more they lie around the 50th and the 500th token. In
  shorter ones they are the first eighth, but for a quarter of it, and the
  second half.

  Raises:
    ValueError: if rows are shorter than 4 tokens.

  Examples:
    >>> bands(1024)
    Bands(early=(40, 60), late=(400, 600))
    >>> bands(128)
    Bands(early=(4, 16), late=(65, 128))
  """
  if length < 4:
    raise ValueError(
      'Rows must have at least 4 tokens, because early ones are compared with '
      f'late ones; got {length}.'
    )
  if length >= 600:
    return Bands((40, 60), (400, 600))
  # The first token is not predicted, so 2 is the earliest.
  early = max(2, length // 32), max(2, length // 8)
  return Bands(early, (length // 2 + 1, length))


def in_context_score(losses_of_tokens: types.Array) -> grouped_means.Mean:
  """Loss of late tokens of a row less that of early ones, nats.

  Negative if context helps.

  Args:
    losses_of_tokens: [N, T - 1], from `token_losses`.

  Returns:
    The mean over rows, [], and its standard error between them.
  """
  losses = np.asarray(losses_of_tokens)
  early, late = (
    # Entry j is the loss of token j + 2.
    losses[:, first - 2 : last - 1].mean(axis=1)
    for first, last in bands(losses.shape[1] + 1)
  )
  return grouped_means.mean_over_rows((late - early)[:, None])


def read_stages(
  rng_key: types.Key,
  model: transformer.Architecture,
  trajectory: types.Trajectory,
  tokens: np.ndarray,
  table: np.ndarray,
  ngrams: Mapping[int, np.ndarray],
) -> xr.Dataset:
  """Scores of the whole model at every checkpoint.

  Args:
    rng_key: of the places where bigrams are scored.
    model: its sizes.
    trajectory: the checkpoints.
    tokens: [N, T], sequences that losses are measured on. Their first token
      begins n-grams, too.
    table: of pairs, from `ngram_scores.bigram_table` of the training set.
    ngrams: by length, from `ngram_scores.frequent_ngrams`.

  Returns:
    Over (checkpoint): `in_context`, nats, see `bands`; `bigram`, nats, and
    `bigram_floor`; `ngram_LENGTH` for each length. All but the floor have a
    standard error, `NAME_error`, between rows.
  """
  batch, special = jnp.asarray(tokens, jnp.int32), int(tokens[0, 0])
  places = _places(rng_key, *batch.shape)

  def at_checkpoint(params):
    losses = token_losses.token_losses(model, params, batch)
    pairs = ngram_scores.bigram_score(model, params, batch, places, table)
    scores = {
      f'ngram_{length}': ngram_scores.ngram_score(
        model, params, grams, losses, special
      )
      for length, grams in ngrams.items()
    }
    scores['in_context'] = in_context_score(losses)
    scores['bigram'] = grouped_means.Mean(pairs.cross_entropy, pairs.error)
    means = {name: score.mean for name, score in scores.items()}
    errors = {f'{name}_error': score.error for name, score in scores.items()}
    return means | errors | {'bigram_floor': pairs.floor}

  rows = every_checkpoint.map_checkpoints(at_checkpoint, trajectory)
  values = {
    name: ('checkpoint', np.stack([row[name] for row in rows]))
    for name in rows[0]
  }
  return xr.Dataset(values, {'checkpoint': list(trajectory.steps)})


def _places(rng_key, num_rows, length):
  """Different positions of each row, but for the first, [N, P]."""
  draw = lambda key: 1 + jax.random.permutation(key, length - 1)[:_PLACES]
  return jax.vmap(draw)(jax.random.split(rng_key, num_rows))
