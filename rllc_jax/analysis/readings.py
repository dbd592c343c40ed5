"""All measurements of a model's heads, checkpoint by checkpoint."""

import collections
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
from rllc_jax.analysis import brackets
from rllc_jax.analysis import composition
from rllc_jax.analysis import every_checkpoint
from rllc_jax.analysis import grouped_means
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer
from rllc_jax.refinement import names as grammar

_QUESTIONS = 512  # Repeated pairs that are scored, and as many other places.
_SHIFTS = 4  # Of rows, for the null of multigrams.
_HEAD = ('layer', 'head')
_PAIR = ('writer', 'reader')


class Text(NamedTuple):
  """Sequences to measure on, and tables of their tokenizer and corpus.

  Attributes:
    tokens: [N, T], sequences; those that do not fill a minibatch of 16 are
      left out, unless there are fewer.
    spellings: by token id.
    pair_odds: of the training set, from `multigrams.pair_odds`.
    vocabulary: ids of random sequences; by default
      `head_scores.own_vocabulary`.
    delimiters: brackets and quotes; by default those in the spellings, with
      the first token of the first row as the special one.
  """

  tokens: np.ndarray
  spellings: Sequence[str]
  pair_odds: Mapping[tuple[int, int], float]
  vocabulary: head_scores.Vocabulary | None = None
  delimiters: brackets.Delimiters | None = None

  def minibatches(self) -> Iterator[np.ndarray]:
    """Yields [16, T] each, or all sequences if there are fewer."""
    return token_losses.minibatches(self.tokens)

  def depths(self) -> np.ndarray:
    """Of sequences of minibatches, `brackets.depths_of`, [N, T]."""
    rows = np.concatenate(list(self.minibatches()))
    special = int(self.tokens[0, 0])
    marks = self.delimiters or brackets.of_text(self.spellings, special)
    return brackets.depths_of(rows, marks)


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
    `prefix_matching`, `previous_token_text`, `prefix_matching_text` and
    `_beside` it (see `head_scores.text_score`); `ablation_KIND`, the rise of
    the mean loss in nats; `num_ngrams` and `num_skip_ngrams`, distinct ones;
    `null_multigrams`, of both together, see `multigrams.null_memorized`; and,
    over (pattern), too, `patterns`, affected tokens. Over (checkpoint, writer,
    reader), heads of the first layer and the last: `composition_K`, `_Q`,
    `_V`. Over (checkpoint): `loss`, and `no_positions`, the rise of the mean
    loss in nats if the positional embedding is zero; NaN for a model without
    one, of rotary positions or none. Scores, rises and the loss have a standard
    error, `NAME_error`: over random sequences, or between rows of the text.
    Over (score): `even`, the score of attention to all positions alike.
  """
  questions = head_scores.repeated_pairs(
    text.tokens, text.pair_odds, _QUESTIONS
  )
  places = multigrams.places_of(
    np.concatenate(list(text.minibatches())), text.depths(), text.pair_odds
  )
  previous = head_scores.previous_places(text.tokens, _QUESTIONS)

  def at_checkpoint(params):
    scores: dict[str, Any] = {
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
    scores['previous_token_text'] = head_scores.score_in_text(
      model, params, previous
    )
    matched = head_scores.text_score(model, params, questions)
    scores['prefix_matching_text'] = matched[:2]
    effects = _effects(rng_key, model, params, text)
    read: dict[str, Any] = {'prefix_matching_text_beside': matched.beside}
    for name, (mean, error) in (scores | effects.means).items():
      read |= {name: mean, f'{name}_error': error}
    read |= _patterns(effects, places, count, support)
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
  dims: dict[str, tuple[str, ...]] = {
    f'composition_{kind}': _PAIR for kind in composition.KINDS
  }
  for name in ('loss', 'no_positions'):
    dims |= {name: (), f'{name}_error': ()}
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
    means: by name, with errors between rows.
    by_token: [L, H, N, T - 1], of resampling, nats.
    attended: [L, H, N, T], the position that each attends to most.
  """

  means: dict[str, grouped_means.Mean]
  by_token: np.ndarray
  attended: np.ndarray


def _effects(rng_key, model, params, text) -> _Effects:
  """Losses and their rises, over minibatches of the tokens."""
  values = collections.defaultdict(list)
  for number, batch in enumerate(text.minibatches()):
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    values['loss'].append(plain)
    for kind in ablations.KINDS:
      # The same key at every checkpoint: differences are the model's.
      key = jax.random.fold_in(rng_key, number)
      ablated = ablations.ablated_losses(model, params, batch, kind, key)
      values[f'ablation_{kind}'].append(np.asarray(ablated) - plain)
    without = _losses_without_positions(model, params, batch)
    values['no_positions'].append(without - plain)
    most = head_scores.most_attended(model, params, batch)
    values['attended'].append(np.asarray(most))
  by_name = {name: np.concatenate(x, axis=-2) for name, x in values.items()}
  attended = by_name.pop('attended')
  means = {name: grouped_means.mean_over_rows(x) for name, x in by_name.items()}
  return _Effects(means, by_name['ablation_resample'], attended)


def _losses_without_positions(model, params, batch):
  """Losses of tokens if the positional embedding is zero; NaN without one."""
  if 'pos_embed' not in params:
    return np.nan
  zero = jax.tree.map(np.zeros_like, params['pos_embed'])
  silent = {**params, 'pos_embed': zero}
  return np.asarray(token_losses.token_losses(model, silent, batch))


def _patterns(effects: _Effects, places, count, support) -> dict[str, Any]:
  shape = effects.by_token.shape[:2]
  patterns = np.zeros((*shape, len(multigrams.PATTERNS)), int)
  ngrams, skip_ngrams = np.zeros(shape, int), np.zeros(shape, int)
  null = np.zeros(shape)
  shifts = _shifts(len(places.tokens))
  for layer, head in np.ndindex(shape):
    affected = multigrams.most_affected(effects.by_token[layer, head], count)
    about = places, affected, effects.attended[layer, head]
    identified = multigrams.identify(*about, support=support)
    patterns[layer, head] = identified.counts
    ngrams[layer, head] = len(identified.ngrams)
    skip_ngrams[layer, head] = len(identified.skip_ngrams)
    null[layer, head] = multigrams.null_memorized(
      *about, shifts, support=support
    )
  return {
    'patterns': patterns,
    'num_ngrams': ngrams,
    'num_skip_ngrams': skip_ngrams,
    'null_multigrams': null,
  }


def _shifts(num_rows):
  """Different cyclic shifts of rows, the same for all heads."""
  # A fixed seed: the null is a property of the text and the effects.
  rng = np.random.default_rng(0)
  count = min(_SHIFTS, num_rows - 1)
  return rng.choice(np.arange(1, num_rows), count, replace=False)
