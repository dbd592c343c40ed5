"""Examples for readers: tokens in context that a head matters most for."""

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import ablations
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import readings
from rllc_jax.models import transformer

# Of the training steps: there the paper's tables are, at 8.5 k of 50 k.
_EARLY = 0.17


def at_two_checkpoints(
  rng_key: types.Key,
  model: transformer.Architecture,
  trajectory: types.Trajectory,
  text: readings.Text,
) -> xr.Dataset:
  """The same at the last checkpoint and the one nearest to 17 % of training.

  Returns:
    The variables of `affected_tokens`, over (table_checkpoint), too: training
    steps, ascending; one alone if both are the same.
  """
  steps = np.asarray(trajectory.steps)
  early = steps[np.argmin(np.abs(steps - _EARLY * steps.max()))]
  chosen = sorted({int(early), int(steps.max())})
  tables = []
  for step in chosen:
    params = jax.tree.map(lambda leaf: leaf[0], trajectory.load([step]))
    tables.append(affected_tokens(rng_key, model, params, text))
  joined = xr.concat(tables, 'table_checkpoint')
  return joined.assign_coords(table_checkpoint=chosen)


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
  effects = ablations.resampling_effects(rng_key, model, params, tokens)
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
