"""What a model has learned of a planted language, beside what can be known."""

import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import token_losses
from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws
from rllc_jax.models import attention_only

_SAMPLE = 512  # Symbols of a kind whose sources are looked at.


def kind_losses(
  model: attention_only.AttentionOnly,
  trajectory: types.Trajectory,
  text: synthetic.Rows,
) -> xr.Dataset:
  """Mean losses on the second half of rows, by the kind of the symbol.

  In the first half, what a symbol depends on may lie before the row.
  """
  half = text.tokens.shape[1] // 2
  kinds = text.kinds[:, half:]

  def at_checkpoint(params):
    every = token_losses.token_losses(model, params, text.tokens)
    losses = np.asarray(every)[:, half - 1 :]
    masks = [kinds == i for i in range(len(synthetic.KINDS))]
    return [losses[m].mean() if m.any() else np.nan for m in masks]

  found = every_checkpoint.map_checkpoints(at_checkpoint, trajectory)
  return xr.Dataset(
    {'kind_loss': (('checkpoint', 'kind'), np.array(found))},
    {'checkpoint': list(trajectory.steps), 'kind': list(synthetic.KINDS)},
  )


def source_attention(
  model: attention_only.AttentionOnly,
  params: types.Params,
  text: synthetic.Rows,
) -> xr.Dataset:
  """How much each head attends to what tells a symbol, by its kind.

  From the position that predicts it; on a sample of what a kind has.

  Returns:
    `source_attention` over (layer, head, kind).
  """
  shape = model.num_layers, model.num_heads, len(synthetic.KINDS)
  found = np.full(shape, np.nan)
  for i in range(len(synthetic.KINDS)):
    rows, places = np.nonzero((text.kinds == i) & (text.sources >= 0))
    if not rows.size:
      continue
    chosen = np.linspace(0, rows.size - 1, _SAMPLE).astype(int)
    rows, places = rows[chosen], places[chosen]
    asked = text.tokens, rows, places - 1, text.sources[rows, places]
    questions = head_scores.Questions(*map(jnp.asarray, asked))
    weights = head_scores.attention_to(model, params, questions)
    found[..., i] = np.asarray(weights).mean(axis=-1)
  return xr.Dataset(
    {'source_attention': (('layer', 'head', 'kind'), found)},
    {'kind': list(synthetic.KINDS)},
  )


def floors(name: str) -> xr.Dataset:
  """The least losses that are possible, by kind."""
  laws = synthetic_laws.laws(synthetic.LANGUAGES[name])
  values = [
    laws[kind].floor if kind in laws else np.nan for kind in synthetic.KINDS
  ]
  return xr.Dataset(
    {'kind_floor': ('kind', values)}, {'kind': list(synthetic.KINDS)}
  )
