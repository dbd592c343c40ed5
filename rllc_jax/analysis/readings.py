"""All that is read off a model's heads, checkpoint by checkpoint."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import ablations
from rllc_jax.analysis import composition
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import token_losses
from rllc_jax.models import attention_only

_BATCH = 16  # Sequences whose tokens have losses at once.


def read_heads(
  rng_key: types.Key,
  model: attention_only.AttentionOnly,
  trajectory: types.Trajectory,
  tokens: np.ndarray,
  *,
  num_sequences: int = 2_048,
  kinds: Sequence[str] = ablations.KINDS,
  progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
  """Scores, ablations and compositions of every head at every checkpoint.

  Args:
    rng_key: of the random sequences, and of what is resampled; the same for
      all checkpoints.
    model: its sizes.
    trajectory: the checkpoints.
    tokens: [N, T], sequences that losses are measured on; those that do not
      fill a minibatch of 16 are left out, unless there are fewer.
    num_sequences: random ones a score.
    kinds: of ablations.
    progress: `progress(done, total)` in checkpoints.

  Returns:
    Over (checkpoint, layer, head): `previous_token`, `current_token`,
    `prefix_matching`; `ablation_KIND`, the rise of the mean loss in nats; over
    (checkpoint, writer, reader), heads of the first layer and the second:
    `composition_K`, `_Q`, `_V` and `path`, the rise of the loss with the path
    between them cut. Over (checkpoint): `loss`.
  """
  found: list[dict[str, Any]] = []
  total = len(trajectory.steps)
  for done, step in enumerate(trajectory.steps):
    if progress:
      progress(done, total)
    (params,) = _unstacked(trajectory.load([step]))
    at_step: dict[str, Any] = {
      score: head_scores.head_scores(
        score, model, params, jax.random.fold_in(rng_key, i), num_sequences
      )
      for i, score in enumerate(head_scores.SCORES)
    }
    at_step |= _effects(rng_key, model, params, tokens, kinds)
    if model.num_layers > 1:
      found_kinds = composition.composition(params, 0, 1)
      at_step |= {f'composition_{k}': v for k, v in found_kinds.items()}
    found.append(jax.device_get(at_step))
  if progress:
    progress(total, total)
  stacked = {
    name: (_dims(name), np.stack([at_step[name] for at_step in found]))
    for name in found[0]
  }
  return xr.Dataset(stacked, {'checkpoint': list(trajectory.steps)})


def _dims(name: str) -> tuple[str, ...]:
  if name == 'loss':
    return ('checkpoint',)
  if name == 'path' or name.startswith('composition'):
    return 'checkpoint', 'writer', 'reader'
  return 'checkpoint', 'layer', 'head'


def _unstacked(params: types.Params) -> list[types.Params]:
  count = len(jax.tree.leaves(params)[0])
  return [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(count)]


def _effects(rng_key, model, params, tokens, kinds) -> dict[str, Any]:
  """Mean losses, and how much they rise, over minibatches of the tokens."""
  size = min(_BATCH, len(tokens))
  starts = range(0, len(tokens) - size + 1, size)
  sums: dict[str, Any] = {}
  for start in starts:
    batch = np.asarray(tokens[start : start + size], np.int32)
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    means = {'loss': plain.mean()}
    for kind in kinds:
      key = jax.random.fold_in(rng_key, start)
      ablated = ablations.ablated_losses(model, params, batch, kind, key)
      rise = np.asarray(ablated) - plain
      means[f'ablation_{kind}'] = rise.mean(axis=(2, 3))
    if model.num_layers > 1:
      cut = ablations.path_ablated_losses(model, params, batch, 0, 1)
      means['path'] = (np.asarray(cut) - plain).mean(axis=(2, 3))
    for name, value in means.items():
      sums[name] = sums.get(name, 0.0) + np.asarray(value, float)
  return {name: value / len(starts) for name, value in sums.items()}


def read_multigrams(
  rng_key: types.Key,
  model: attention_only.AttentionOnly,
  params: types.Params,
  tokens: np.ndarray,
  texts: Sequence[str],
  pair_odds: Mapping[tuple[int, int], float],
  *,
  count: int = 500,
  support: int = 3,
) -> xr.Dataset:
  """What the tokens are that each head matters most for, at one checkpoint.

  Args:
    rng_key: of what is resampled.
    model: its sizes.
    params: its weights.
    tokens: [N, T], sequences; those beyond the last full minibatch of 16 are
      left out, unless there are fewer.
    texts: of each token id.
    pair_odds: from `multigrams.pair_odds` of the training set.
    count: affected tokens of each head that are sorted.
    support: rows in which a multigram must be met.

  Returns:
    `patterns` over (layer, head, pattern), affected tokens; `num_memorized`
    over (layer, head), distinct n-grams and skip n-grams.
  """
  size = min(_BATCH, len(tokens))
  tokens = np.asarray(tokens[: len(tokens) // size * size], np.int32)
  effects = []
  for start in range(0, len(tokens), size):
    batch = tokens[start : start + size]
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    key = jax.random.fold_in(rng_key, start)
    ablated = ablations.ablated_losses(model, params, batch, 'resample', key)
    effects.append(np.asarray(ablated) - plain)
  by_head = np.concatenate(effects, axis=2)  # [L, H, N, T - 1].
  shape = by_head.shape[:2]
  patterns = np.zeros((*shape, len(multigrams.PATTERNS)), int)
  memorized = np.zeros(shape, int)
  for layer, head in np.ndindex(shape):
    affected = multigrams.most_affected(by_head[layer, head], count)
    if not affected.rows.size:
      continue
    attention = head_scores.attention_rows(
      model, params, tokens[affected.rows], affected.places - 1
    )
    found = multigrams.identify(
      tokens,
      affected,
      np.asarray(attention[layer, head].argmax(axis=1)),
      texts,
      pair_odds,
      support=support,
    )
    patterns[layer, head] = list(found.counts.values())
    memorized[layer, head] = found.num_memorized
  return xr.Dataset(
    {
      'patterns': (('layer', 'head', 'pattern'), patterns),
      'num_memorized': (('layer', 'head'), memorized),
    },
    {'pattern': list(multigrams.PATTERNS)},
  )
