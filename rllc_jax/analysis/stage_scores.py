"""Behavioral scores of a model at each checkpoint.

As in Hoogland et al. (2402.02364): in-context learning, cross-entropy with
bigrams, and losses on frequent n-grams.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import ngram_scores
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer

_LATE = 500  # Of the paper's 1,024 tokens; 50 is the early one.


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
    Over (checkpoint): `in_context`, the loss of the 500th token of a row less
    that of the 50th, or of the last and one at a tenth of a shorter row;
    `bigram`, nats, and `bigram_floor`; `ngram_LENGTH` for each length.
  """
  batch, special = jnp.asarray(tokens, jnp.int32), int(tokens[0, 0])
  places = jax.random.randint(rng_key, (len(batch),), 1, batch.shape[1])
  late = min(_LATE, batch.shape[1])
  # The first token is not predicted, so 2 is the earliest.
  early = max(2, late // 10)

  def at_checkpoint(params):
    losses = token_losses.token_losses(model, params, batch)
    pairs = ngram_scores.bigram_score(model, params, batch, places, table)
    scores = {
      f'ngram_{length}': ngram_scores.ngram_score(
        model, params, grams, losses, special
      )
      for length, grams in ngrams.items()
    }
    return scores | {
      'in_context': token_losses.in_context_score(losses, late, early),
      'bigram': pairs.cross_entropy,
      'bigram_floor': pairs.floor,
    }

  rows = every_checkpoint.map_checkpoints(at_checkpoint, trajectory)
  values = {
    name: ('checkpoint', np.stack([row[name] for row in rows]))
    for name in rows[0]
  }
  return xr.Dataset(values, {'checkpoint': list(trajectory.steps)})
