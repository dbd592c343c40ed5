"""Losses and attention on a planted language, and its least losses.

The words of a planted language are known. A head serves one if resampling the
head raises the loss of what the word determines: by 0.25 nats in the mean over
its occurrences, and beyond three standard errors of that mean, or as many more
as make the few occurrences of a rare word as sure (Student's t).
"""

import jax.numpy as jnp
import numpy as np
from scipy import stats
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import grouped_means
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import token_losses
from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws
from rllc_jax.models import transformer

_SAMPLE = 512  # Symbols of a kind whose sources are scored.
_LEAST_RISE = 0.25  # Nats.
_LEAST_OCCURRENCES = 4  # Fewer have no error to speak of.


def kind_losses(
  model: transformer.Architecture,
  trajectory: types.Trajectory,
  text: synthetic.Rows,
) -> xr.Dataset:
  """Mean losses on the second half of rows, by the kind of the symbol.

  In the first half, the source of a symbol may lie before the row.
  """
  half = text.tokens.shape[1] // 2
  kinds = text.kinds[:, half:]

  def at_checkpoint(params):
    batch_losses = token_losses.token_losses(model, params, text.tokens)
    losses = np.asarray(batch_losses)[:, half - 1 :]
    masks = [kinds == i for i in range(len(synthetic.KINDS))]
    return [losses[m].mean() if m.any() else np.nan for m in masks]

  losses_by_kind = every_checkpoint.map_checkpoints(at_checkpoint, trajectory)
  return xr.Dataset(
    {'kind_loss': (('checkpoint', 'kind'), np.array(losses_by_kind))},
    {'checkpoint': list(trajectory.steps), 'kind': list(synthetic.KINDS)},
  )


def source_attention(
  model: transformer.Architecture, params: types.Params, text: synthetic.Rows
) -> xr.Dataset:
  """Attention of each head to the source that determines a symbol, by its kind.

  From the position that predicts the symbol; on a sample of each kind.

  Returns:
    `source_attention` over (layer, head, kind).
  """
  shape = model.num_layers, model.num_heads, len(synthetic.KINDS)
  attention = np.full(shape, np.nan)
  for i in range(len(synthetic.KINDS)):
    rows, places = np.nonzero((text.kinds == i) & (text.sources >= 0))
    if not rows.size:
      continue
    # Always as many, so that all kinds and checkpoints compile once.
    chosen = np.linspace(0, rows.size - 1, _SAMPLE).astype(int)
    rows, places = rows[chosen], places[chosen]
    fields = text.tokens, rows, places - 1, text.sources[rows, places]
    questions = head_scores.Questions(*map(jnp.asarray, fields))
    weights = head_scores.attention_to(model, params, questions)
    attention[..., i] = np.asarray(weights).mean(axis=-1)
  return xr.Dataset(
    {'source_attention': (('layer', 'head', 'kind'), attention)},
    {'kind': list(synthetic.KINDS)},
  )


def kind_rises(effects: np.ndarray, text: synthetic.Rows) -> xr.Dataset:
  """Rise of the loss of symbols of each kind without each head, nats.

  Args:
    effects: [L, H, N, T - 1], from `ablations.resampling_effects` on the first
      N rows of the text.
    text: its rows; their second halves count, as in `kind_losses`.

  Returns:
    `kind_rise` and its standard error between rows, `kind_rise_error`, over
    (layer, head, kind); NaN for a kind that is not met.
  """
  half = text.tokens.shape[1] // 2
  kinds = text.kinds[: effects.shape[2], half:]
  rises = [
    grouped_means.mean_where(effects[..., half - 1 :], kinds == i)
    for i in range(len(synthetic.KINDS))
  ]
  mean, error = (
    np.stack(values, axis=-1) for values in zip(*rises, strict=True)
  )
  dims = 'layer', 'head', 'kind'
  return xr.Dataset(
    {'kind_rise': (dims, mean), 'kind_rise_error': (dims, error)},
    {'kind': list(synthetic.KINDS)},
  )


def true_multigrams(effects: np.ndarray, text: synthetic.Rows) -> xr.Dataset:
  """Words and skip pairs of the language that each head serves.

  A word is known by its first two symbols, which determine the others: its rise
  is the mean over those that are in the row. A skip pair is a source and its
  target.

  Args:
    effects: as of `kind_rises`.
    text: its rows.

  Returns:
    Over (layer, head): `true_words` and `true_pairs`, distinct ones.
  """
  num_rows = effects.shape[2]
  text = synthetic.Rows(*(x[:num_rows] for x in text))
  counts = {
    'true_words': _num_served(*_words(effects, text)),
    'true_pairs': _num_served(*_pairs(effects, text)),
  }
  return xr.Dataset({k: (('layer', 'head'), v) for k, v in counts.items()})


def _words(effects, text):
  """First two symbols [n, 2] and rises [L, H, n] of all words in the rows."""
  is_determined = text.kinds == synthetic.KINDS.index('ngram')
  # The third symbol follows one that was chosen; its source is the first.
  is_third = is_determined & (text.sources >= 0)
  is_third[:, 1:] &= ~is_determined[:, :-1]
  rows, thirds = np.nonzero(is_third)
  symbols = np.stack([text.tokens[rows, thirds - i] for i in (2, 1)], axis=-1)
  rises = effects[..., rows, thirds - 1]
  has_fourth = thirds + 1 < text.tokens.shape[1]
  # `effects` at j is of the symbol at j + 1.
  fourths = effects[..., rows, np.where(has_fourth, thirds, thirds - 1)]
  return symbols, (rises + fourths) / 2


def _pairs(effects, text):
  """Sources and targets [n, 2], and rises [L, H, n], of all skip pairs."""
  is_target = text.kinds == synthetic.KINDS.index('skip')
  rows, places = np.nonzero(is_target & (text.sources >= 0))
  sources = text.tokens[rows, text.sources[rows, places]]
  symbols = np.stack([sources, text.tokens[rows, places]], axis=-1)
  return symbols, effects[..., rows, places - 1]


def _num_served(symbols, rises):
  """Distinct symbols [n, 2] whose mean rise, of [L, H, n], is large, [L, H]."""
  _, which, counts = np.unique(
    symbols, axis=0, return_inverse=True, return_counts=True
  )
  which = which.ravel()  # NumPy 2.0 gives it another shape.
  # Three errors of four occurrences would make every 35th word of noise one.
  beyond = stats.t.isf(stats.norm.sf(3), np.maximum(counts - 1, 1))
  served = np.zeros(rises.shape[:2], int)
  for layer, head in np.ndindex(served.shape):
    values = np.asarray(rises[layer, head], float)
    mean = np.bincount(which, values) / counts
    squares = np.bincount(which, (values - mean[which]) ** 2)
    error = np.sqrt(squares / np.maximum(counts - 1, 1) / counts)
    is_served = (mean >= _LEAST_RISE) & (mean > beyond * error)
    served[layer, head] = np.sum(is_served & (counts >= _LEAST_OCCURRENCES))
  return served


def floors(name: str) -> xr.Dataset:
  """The least possible losses, by kind."""
  laws = synthetic_laws.laws(synthetic.LANGUAGES[name])
  values = [
    laws[kind].floor if kind in laws else np.nan for kind in synthetic.KINDS
  ]
  return xr.Dataset(
    {'kind_floor': ('kind', values)}, {'kind': list(synthetic.KINDS)}
  )
