"""Examples for readers: tokens in context that a head matters most for."""

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import ablations
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import readings
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer


def affected_tokens(
  rng_key: types.Key,
  model: transformer.Architecture,
  params: types.Params,
  text: readings.Text,
  *,
  count: int = 6,
  context: int = 14,
) -> xr.Dataset:
  """For each head, the predictions that resampling it hurts most.

  At most one per sequence and per target, so that they are not all alike.

  Args:
    rng_key: of what is resampled.
    model: its sizes.
    params: the checkpoint.
    text: that losses are measured on.
    count: predictions a head.
    context: tokens that are kept of each, the predicted one last.

  Returns:
    Over (layer, head, rank): `affected_effect`, the rise of the loss in nats,
    NaN beyond the last; over (layer, head, rank, place), too: `affected_text`,
    spellings, '' before the row's start, and `affected_attention` from the
    place before the last, 0 to 1.
  """
  tokens = np.concatenate(list(text.minibatches()))
  effects = _effects(rng_key, model, params, text)
  shape = (*effects.shape[:2], count)
  effect = np.full(shape, np.nan)
  spelled = np.full((*shape, context), '', object)
  attention = np.zeros((*shape, context))
  for layer, head in np.ndindex(shape[:2]):
    worst = _distinct(effects[layer, head], tokens, count)
    if not worst.rows.size:
      continue
    weights = head_scores.attention_rows(
      model, params, tokens, worst.rows, worst.places - 1
    )[layer, head]
    effect[layer, head, : len(worst.rows)] = worst.effects
    for rank, (row, place) in enumerate(
      zip(worst.rows, worst.places, strict=True)
    ):
      # The predicted token is last; early places have less context.
      first = max(0, place + 1 - context)
      window = tokens[row, first : place + 1]
      start = context - len(window)
      spelled[layer, head, rank, start:] = [text.spellings[x] for x in window]
      attention[layer, head, rank, start:-1] = np.asarray(weights)[
        rank, first:place
      ]
  dims = ('layer', 'head', 'rank')
  return xr.Dataset(
    {
      'affected_effect': (dims, effect),
      'affected_text': ((*dims, 'place'), spelled.astype(str)),
      'affected_attention': ((*dims, 'place'), attention),
    }
  )


def _effects(rng_key, model, params, text) -> np.ndarray:
  """Rises of losses under resampling, [L, H, N, T - 1], nats."""
  effects = []
  for number, batch in enumerate(text.minibatches()):
    key = jax.random.fold_in(rng_key, number)
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    ablated = ablations.ablated_losses(model, params, batch, 'resample', key)
    effects.append(np.asarray(ablated) - plain)
  return np.concatenate(effects, axis=2)


def _distinct(effects, tokens, count) -> multigrams.Affected:
  """The most affected predictions, each sequence and each target once."""
  # Many candidates: most share a sequence or a target with another.
  candidates = multigrams.most_affected(effects, 50 * count)
  rows, targets, chosen = set(), set(), []
  for i, (row, place) in enumerate(
    zip(candidates.rows, candidates.places, strict=True)
  ):
    target = tokens[row, place]
    if row not in rows and target not in targets and len(chosen) < count:
      chosen.append(i)
      rows.add(row)
      targets.add(target)
  places = np.array(chosen, int)
  return multigrams.Affected(*(values[places] for values in candidates))
