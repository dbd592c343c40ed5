"""All measurements of a model's heads, checkpoint by checkpoint."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import ablations
from rllc_jax.analysis import composition
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer
from rllc_jax.refinement import names as grammar

_BATCH = 16  # Sequences whose tokens have losses at once.
_QUESTIONS = 512  # Repeated pairs that are scored.
_HEAD = ('layer', 'head')
_PAIR = ('writer', 'reader')


class Text(NamedTuple):
  """Sequences to measure on, and tables of their tokenizer and corpus.

  Attributes:
    tokens: [N, T], sequences; those that do not fill a minibatch of 16 are
      left out, unless there are fewer.
    spellings: by token id, to find brackets.
    pair_odds: of the training set, from `multigrams.pair_odds`.
    vocabulary: ids of random sequences; by default
      `head_scores.own_vocabulary`.
  """

  tokens: np.ndarray
  spellings: Sequence[str]
  pair_odds: Mapping[tuple[int, int], float]
  vocabulary: head_scores.Vocabulary | None = None

  def minibatches(self) -> Iterator[np.ndarray]:
    """Yields [16, T] each, or all sequences if there are fewer."""
    # Full minibatches alone, so that all have the same weight and shape.
    size = min(_BATCH, len(self.tokens))
    for start in range(0, len(self.tokens) - size + 1, size):
      yield np.asarray(self.tokens[start : start + size], np.int32)


def read_heads(
  rng_key: types.Key,
  model: transformer.Architecture,
  trajectory: types.Trajectory,
  text: Text,
  *,
  num_sequences: int = 2_048,
  count: int = 500,
  support: int = 3,
  progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
  """Scores, ablations, patterns and compositions at every checkpoint.

  Args:
    rng_key: of the random sequences, and of what is resampled; the same for
      all checkpoints.
    model: its sizes.
    trajectory: the checkpoints.
    text: that losses are measured on.
    num_sequences: random ones a score.
    count: affected tokens of each head that are sorted into patterns.
    support: rows in which a multigram must be met.
    progress: `progress(done, total)` in checkpoints.

  Returns:
    Over (checkpoint, layer, head): `previous_token`, `current_token`,
    `prefix_matching`, `prefix_matching_text` and `_beside` it (see
    `head_scores.text_score`); `ablation_KIND`, the rise of the mean loss in
    nats; `num_ngrams` and `num_skip_ngrams`, distinct ones; and, over
    (pattern), too, `patterns`, affected tokens. Over (checkpoint, writer,
    reader), heads of the first layer and the last: `composition_K`, `_Q`,
    `_V` and `path`, the rise of the loss with the path between them cut, and,
    by minibatch, `path_nested`, of tokens that close a nested bracket: NaN
    where there are none. Over (checkpoint): `loss`. Over (score): `even`, the
    score of attention to all positions alike.
  """
  questions = head_scores.repeated_pairs(
    text.tokens, text.pair_odds, _QUESTIONS
  )
  is_nested = [_nested(batch, text.spellings) for batch in text.minibatches()]

  def at_checkpoint(params):
    read: dict[str, Any] = {
      score: head_scores.head_scores(
        score,
        model,
        params,
        jax.random.fold_in(rng_key, i),
        num_sequences,
        text.vocabulary,
      )
      for i, score in enumerate(head_scores.SCORES)
    }
    matched = head_scores.text_score(model, params, questions)
    read['prefix_matching_text'] = matched.score
    read['prefix_matching_text_beside'] = matched.beside
    effects = _effects(rng_key, model, params, text, is_nested)
    read |= effects.means
    read |= _patterns(effects, text, count, support)
    if model.num_layers > 1:
      kinds = composition.composition(params, 0, model.num_layers - 1)
      read |= {f'composition_{k}': v for k, v in kinds.items()}
    return read

  readings = every_checkpoint.map_checkpoints(
    at_checkpoint, trajectory, progress
  )
  even = [
    head_scores.even_attention(score, model.context_length)
    for score in head_scores.SCORES
  ]
  read = _dataset(trajectory.steps, readings)
  return read.assign(even=('score', even)).assign_coords(
    score=list(head_scores.SCORES)
  )


def of_heads(values: xr.DataArray, names: Sequence[str]) -> np.ndarray:
  """Values of heads 'LAYER:HEAD' at every checkpoint, [K, n].

  Args:
    values: over (checkpoint, layer, head), or (checkpoint, refinement).
    names: of n heads.
  """
  if 'refinement' in values.dims:
    return values.sel(refinement=list(names)).values
  places = [grammar.place(name) for name in names]
  layers, heads = np.array(places, int).reshape(-1, 2).T
  ordered = values.transpose('checkpoint', 'layer', 'head').values
  return ordered[:, layers, heads]


def _dataset(steps, readings) -> xr.Dataset:
  dims = {'loss': (), 'path': _PAIR, 'path_nested': (*_PAIR, 'minibatch')}
  dims |= {f'composition_{kind}': _PAIR for kind in composition.KINDS}
  dims['patterns'] = (*_HEAD, 'pattern')
  stacked = {
    name: (
      ('checkpoint', *dims.get(name, _HEAD)),
      np.stack([at_step[name] for at_step in readings]),
    )
    for name in readings[0]
  }
  labels = {'checkpoint': list(steps), 'pattern': list(multigrams.PATTERNS)}
  return xr.Dataset(stacked, labels)


class _Effects(NamedTuple):
  """Effects of ablations, and attention, at one checkpoint.

  Attributes:
    means: by name.
    by_token: [L, H, N, T - 1], of resampling, nats.
    attended: [L, H, N, T], the position that each attends to most.
  """

  means: dict[str, Any]
  by_token: np.ndarray
  attended: np.ndarray


def _effects(rng_key, model, params, text, nested) -> _Effects:
  """Mean losses and their rises, over minibatches of the tokens."""
  sums: dict[str, Any] = {}
  by_token, attended, paths = [], [], []
  for number, batch in enumerate(text.minibatches()):
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    means = {'loss': plain.mean()}
    for kind in ablations.KINDS:
      # The same key at every checkpoint: differences are the model's.
      key = jax.random.fold_in(rng_key, number)
      ablated = ablations.ablated_losses(model, params, batch, kind, key)
      rise = np.asarray(ablated) - plain
      means[f'ablation_{kind}'] = rise.mean(axis=(2, 3))
      if kind == 'resample':
        by_token.append(rise)
    attended.append(head_scores.most_attended(model, params, batch))
    if model.num_layers > 1:
      last = model.num_layers - 1
      path_cut = ablations.path_ablated_losses(model, params, batch, 0, last)
      rise = np.asarray(path_cut) - plain
      means['path'] = rise.mean(axis=(2, 3))
      paths.append(_mean_where(rise, nested[number]))
    for name, value in means.items():
      sums[name] = sums.get(name, 0.0) + np.asarray(value, float)
  means = {name: value / len(by_token) for name, value in sums.items()}
  if paths:
    means['path_nested'] = np.stack(paths, axis=-1)
  return _Effects(
    means, np.concatenate(by_token, axis=2), np.concatenate(attended, axis=2)
  )


def _nested(batch, spellings):
  """True for predicted tokens that close a nested bracket, [B, T - 1]."""
  is_nested = np.zeros((len(batch), batch.shape[1] - 1), bool)
  for row, sequence in enumerate(batch):
    closing = multigrams.closing(sequence, spellings)
    places = [place - 1 for place, depth in closing.items() if depth > 1]
    is_nested[row, places] = True
  return is_nested


def _mean_where(values, mask):
  """The mean over the last two axes where the mask is True; NaN if nowhere."""
  if not mask.any():
    return np.full(values.shape[:-2], np.nan)
  return values[..., mask].mean(axis=-1)


def _patterns(effects: _Effects, text, count, support) -> dict[str, Any]:
  tokens = np.concatenate(list(text.minibatches()))
  shape = effects.by_token.shape[:2]
  patterns = np.zeros((*shape, len(multigrams.PATTERNS)), int)
  ngrams, skip_ngrams = np.zeros(shape, int), np.zeros(shape, int)
  closing = [multigrams.closing(row, text.spellings) for row in tokens]
  for layer, head in np.ndindex(shape):
    affected = multigrams.most_affected(effects.by_token[layer, head], count)
    attended = effects.attended[layer, head]
    identified = multigrams.identify(
      tokens,
      affected,
      attended[affected.rows, affected.places - 1],
      closing,
      text.pair_odds,
      support=support,
    )
    patterns[layer, head] = list(identified.counts.values())
    ngrams[layer, head] = len(identified.ngrams)
    skip_ngrams[layer, head] = len(identified.skip_ngrams)
  return {
    'patterns': patterns,
    'num_ngrams': ngrams,
    'num_skip_ngrams': skip_ngrams,
  }
