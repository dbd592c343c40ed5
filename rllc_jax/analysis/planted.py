"""Losses and attention on a planted language, and its least losses."""

import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import token_losses
from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws
from rllc_jax.models import transformer

_SAMPLE = 512  # Symbols of a kind whose sources are scored.


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


def floors(name: str) -> xr.Dataset:
  """The least possible losses, by kind."""
  laws = synthetic_laws.laws(synthetic.LANGUAGES[name])
  values = [
    laws[kind].floor if kind in laws else np.nan for kind in synthetic.KINDS
  ]
  return xr.Dataset(
    {'kind_floor': ('kind', values)}, {'kind': list(synthetic.KINDS)}
  )
