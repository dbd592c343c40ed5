"""Analyzes every head at every checkpoint: attention, ablations, measures.

  python -m experiments.analyze --config=FILE --workdir=DIR

reads `DIR/corpus`, `DIR/train/checkpoints` and the section `analysis` of the
config, and writes `DIR/analysis.zarr`. It has attention scores, effects of
ablations and of a cut circuit, the token patterns of each head, composition,
scores of the whole model and other measures of complexity, with standard
errors. For a planted language (`rllc_jax.data.synthetic`) it also has the loss
on each kind of symbol beside its lower bound, and the words that each head
serves. Logits are computed a tile at a time and not stored. experiments.report
draws the figures.
"""

import dataclasses
import json
import pathlib

from absl import logging
import jax
import ml_collections
import numpy as np
import xarray as xr

from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import progress
from experiments.runtime import sections
from experiments.runtime import subjects
from rllc_jax import identities
from rllc_jax import trees
from rllc_jax.analysis import ablations
from rllc_jax.analysis import affected_tokens
from rllc_jax.analysis import brackets
from rllc_jax.analysis import complexity
from rllc_jax.analysis import head_scores
from rllc_jax.analysis import head_types
from rllc_jax.analysis import joint_cuts
from rllc_jax.analysis import multigrams
from rllc_jax.analysis import ngram_scores
from rllc_jax.analysis import planted
from rllc_jax.analysis import readings
from rllc_jax.analysis import stage_scores
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import tokenizers
from rllc_jax.models import architecture
from rllc_jax.training import records
from rllc_jax.training import runs

_PLANTED_ROWS = 512
_NGRAMS = (2, 3, 4)  # Lengths in tokens of the words whose losses are scored.
_NUM_NGRAMS = 1_000
_CURVATURE_TOKENS = 1_024  # Tokens of a minibatch for Hessian, Fisher traces.
# Times config.analysis.num_curvature_batches: minibatches are added until each
# trace has an error of 5 %, or there are so many. With 64 of them the largest
# errors of trained heads were 4.7 % (code) and 8.3 % (planted2).
_CURVATURE_GROUPS = 16
# Rows for the scores of the model, as a multiple of those for heads.
_STAGE_ROWS = 4
_MEASURES = 2  # Number of this set of variables; older files lack some.


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> xr.Dataset:
  """Analyzes a run, or loads a finished analysis.

  Args:
    config: `analysis` has fields of `sections.Analysis`.
    workdir: with the subdirectories `corpus` and `train`.

  Returns:
    The content of `analysis.zarr`: see `readings.read_heads`,
    `stage_scores.read_stages`, `complexity.read_complexity` at the checkpoints
    whose rLLCs are estimated (NaN at others), `joint_cuts.read_joint_cuts` of
    the multigram heads of the first layer if there are two layers,
    `affected_tokens.at_two_checkpoints`, and of the last checkpoint
    `head_class` over (layer, head), see `head_types`; of a planted language,
    `planted.kind_losses`, `floors`, and of the last checkpoint
    `source_attention`, `kind_rises` and `true_multigrams`.

  Raises:
    ValueError: a window does not exist, the context is too short, or what is
      there was analyzed with other settings or of another run.
  """
  workdir = pathlib.Path(workdir)
  path = workdir / 'analysis.zarr'
  settings = sections.read(config).analysis
  corpus = packing.load_corpus(workdir / 'corpus')
  subject = subjects.of_all_checkpoints(workdir, sections.read(config), corpus)
  model, trajectory = subject.model, subject.trajectory
  vocabulary = head_scores.Vocabulary(
    corpus.eos_id, choices.ordinary_ids(corpus, workdir / 'corpus')
  )
  identity = identities.identity(
    **dataclasses.asdict(settings),
    seed=config.seed,
    measures=_MEASURES,
    curvature_at=list(sections.read(config).estimation.checkpoints),
    model=architecture.to_json(model),
    checkpoints=trajectory.steps,
    # One checkpoint: hashing all would load the whole trajectory.
    last_weights=trees.content_hash(trajectory.load(trajectory.steps[-1:])),
    tokens=trees.content_hash(corpus.tokens),
    ordinary_ids=trees.content_hash(vocabulary.ordinary),
  )
  if path.exists():
    results = records.load_record(path)
    runs.check_same(json.loads(results.attrs['identity']), identity, path)
    logging.info('%s: already complete', path)
    return results
  if settings.dataset not in corpus.windows:
    raise ValueError(
      'config.analysis.dataset must be a window of the corpus, '
      f'{", ".join(corpus.windows)}; got {settings.dataset!r}.'
    )
  results = _analyze(config, corpus, workdir, model, trajectory, vocabulary)
  results.attrs['identity'] = json.dumps(identity)
  records.save_record(results, path)
  logging.info('%s: complete\n%s', path, table(results))
  return results


def _analyze(
  config, corpus, workdir, model, trajectory, vocabulary
) -> xr.Dataset:
  settings = sections.read(config).analysis
  window = corpus.windows[settings.dataset]
  # With long rows the token budget alone could leave too few for a mean.
  count = max(8, settings.num_tokens // corpus.tokens.shape[1])
  trained_on = _rows_of(corpus, 'train')
  spellings = choices.texts(corpus, workdir / 'corpus')
  language = _language(corpus)
  find = brackets.of_words if language else brackets.of_text
  text = readings.Text(
    corpus.tokens[runs.evenly_spaced(window, count)],
    spellings,
    multigrams.pair_odds(trained_on),
    vocabulary,
    find(spellings, corpus.eos_id),
  )
  keys = [jax.random.key(config.seed + i) for i in range(5)]
  with progress.bar('analyzing', 'checkpoint') as bar:
    parts = [
      readings.read_heads(
        keys[0],
        model,
        trajectory,
        text,
        num_sequences=settings.num_sequences,
        progress=bar.show,
      )
    ]
  table = ngram_scores.bigram_table(trained_on, corpus.vocab_size)
  grams = _ngrams(trained_on, spellings)
  rows = corpus.tokens[runs.evenly_spaced(window, _STAGE_ROWS * count)]
  parts += [
    stage_scores.read_stages(keys[1], model, trajectory, rows, table, grams),
    _complexity(keys[2], config, corpus, model, trajectory),
    affected_tokens.at_two_checkpoints(keys[3], model, trajectory, text),
  ]
  if language:
    new = planted_rows(language, corpus, workdir / 'corpus', config.seed)
    parts += _planted(keys[4], language, model, trajectory, new)
  return _with_classes(xr.merge(parts, join='outer'), model, trajectory, text)


def _language(corpus: packing.Corpus) -> str:
  """The planted language of a corpus; '' for any other text."""
  names = (x for x in synthetic.LANGUAGES if f'train/{x}' in corpus.windows)
  return next(names, '')


def _planted(rng_key, language, model, trajectory, text) -> list[xr.Dataset]:
  # New text, because the loss on training rows can fall below the floor.
  last = jax.tree.map(
    lambda leaf: leaf[0], trajectory.load(trajectory.steps[-1:])
  )
  effects = ablations.resampling_effects(rng_key, model, last, text.tokens)
  return [
    planted.kind_losses(model, trajectory, text),
    planted.floors(language),
    planted.source_attention(model, last, text),
    planted.kind_rises(effects, text),
    planted.true_multigrams(effects, text),
  ]


def _with_classes(results, model, trajectory, text) -> xr.Dataset:
  """Adds classes of heads, and cuts of the circuit that rests on them."""
  classes = np.reshape(
    list(head_types.of_readings(results).values()),
    (model.num_layers, model.num_heads),
  )
  results = results.assign(head_class=(('layer', 'head'), classes))
  if model.num_layers < 2:
    return results
  writers = classes[0] == head_types.MULTIGRAM
  cuts = joint_cuts.read_joint_cuts(model, trajectory, text, writers)
  return xr.merge([results, cuts])


def _rows_of(corpus: packing.Corpus, window: str) -> np.ndarray:
  start, length = corpus.windows[window]
  return corpus.tokens[int(start) : int(start + length)]


def _ngrams(tokens, spellings) -> dict[int, np.ndarray]:
  """Frequent words of 2 to 4 tokens, by length; {} if each word is a token."""
  # A token that begins with white space starts a word.
  starts = np.array([not x[:1].strip() for x in spellings])
  ngrams = {}
  for length in _NGRAMS:
    try:
      ngrams[length] = ngram_scores.frequent_ngrams(
        tokens, length, starts, _NUM_NGRAMS
      )
    except ValueError as error:
      logging.info('no scores of %s-grams: %s', length, error)
  return ngrams


def _complexity(rng_key, config, corpus, model, trajectory) -> xr.Dataset:
  settings = sections.read(config)
  # Only beside rLLCs: a checkpoint takes as long as all else of it.
  asked = settings.estimation.checkpoints or trajectory.steps
  steps = [x for x in trajectory.steps if x in {*asked}] or trajectory.steps
  # At least one sequence, which may be longer than that.
  rows = max(1, _CURVATURE_TOKENS // corpus.tokens.shape[1])
  count = settings.analysis.num_curvature_batches
  return complexity.read_complexity(
    rng_key,
    subjects.families(['heads'], model),
    subjects.next_tokens(model).loss_fn,
    trajectory._replace(steps=steps),
    minibatches.uniform(corpus.tokens, rows),
    corpus.windows[settings.analysis.dataset],
    num_batches=count,
    max_batches=_CURVATURE_GROUPS * count,
  )


def planted_rows(
  name: str, corpus: packing.Corpus, directory: pathlib.Path, seed: int
) -> synthetic.Rows:
  """New text of a planted language, in the tokens of a corpus."""
  ids = tokenizers.load(directory / 'tokenizer.json').get_vocab()
  return synthetic.rows(
    synthetic.LANGUAGES[name],
    ids,
    corpus.eos_id,
    # The name makes texts of different languages independent.
    np.random.default_rng([seed, *name.encode()]),
    num_rows=_PLANTED_ROWS,
    length=corpus.tokens.shape[1],
  )


def table(results: xr.Dataset) -> str:
  """Text table of the last checkpoint: a line a head or a kind of symbol."""
  last = results.isel(checkpoint=-1)
  names = [*head_scores.SCORES, 'ablation_resample']
  lines = [f'{"head":>6}' + ''.join(f'{name:>18}' for name in names)]
  for layer in range(last.sizes['layer']):
    for head in range(last.sizes['head']):
      values = [float(last[name][layer, head]) for name in names]
      cells = ''.join(f'{value:>18.4f}' for value in values)
      lines.append(f'{f"{layer}:{head}":>6}{cells}')
  if 'kind_loss' in last:
    heads = ''.join(
      f'{f"{layer}:{head}":>8}'
      for layer in range(last.sizes['layer'])
      for head in range(last.sizes['head'])
    )
    lines.append(
      f'{"kind":>16}{"loss":>10}{"floor":>10}{heads}  attention to the source'
    )
    for kind in last.kind.values:
      cell = last.sel(kind=kind)
      loss, floor = float(cell.kind_loss), float(cell.kind_floor)
      attended = cell.source_attention.values
      cells = ''.join(f'{x:>8.3f}' for x in attended.ravel())
      lines.append(
        f'{kind:>16}{loss:>10.4f}{floor:>10.4f}'
        + (cells if np.isfinite(attended).all() else '')
      )
  return '\n'.join(lines)


if __name__ == '__main__':
  commands.start(run)
