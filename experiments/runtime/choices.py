"""Builds models, losses and data of the library from settings."""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runtime import sections
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import documents
from rllc_jax.data import mini_pile
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import token_classes
from rllc_jax.data import tokenizers
from rllc_jax.models import architecture
from rllc_jax.models import factored
from rllc_jax.models import targets
from rllc_jax.models import transformer
from rllc_jax.refinement import parts
from rllc_jax.refinement import weights
from rllc_jax.training import checkpoints
from rllc_jax.training import records


class Comparison(NamedTuple):
  """A loss of a model: against the next tokens, or against another model.

  Attributes:
    loss_fn: the plain loss.
    objective: the same for the fast losses of heads.
    path: keys of the model's weights within the weights of the loss.
    provenance: description for the store.
  """

  loss_fn: types.LossFn
  objective: targets.Objective
  path: tuple[str, ...]
  provenance: dict[str, Any]


def next_tokens(model: transformer.Architecture) -> Comparison:
  """The loss of the next token."""
  apply = functools.partial(transformer.apply, model)
  return Comparison(
    losses.next_token_loss(apply),
    targets.next_tokens(),
    (),
    {'loss': 'next token', 'model': architecture.to_json(model)},
  )


def another_model(
  model: transformer.Architecture,
  reference: transformer.Architecture,
  step: int,
) -> Comparison:
  """KL divergence from a reference model on the same text.

  Args:
    model: the measured one, with weights params['model'].
    reference: with weights params['reference'].
    step: of the reference's training.
  """
  apply, reference_apply = (
    functools.partial(transformer.apply, x) for x in (model, reference)
  )
  return Comparison(
    losses.reference_loss(apply, reference_apply),
    targets.reference_model(reference),
    ('model',),
    {
      'loss': 'KL(reference || model)',
      'model': architecture.to_json(model),
      'reference': {**architecture.to_json(reference), 'step': step},
    },
  )


class Subject(NamedTuple):
  """A measured model with its checkpoints and its loss.

  Attributes:
    model: its sizes.
    trajectory: the weights, including those of a reference model.
    comparison: the loss.
  """

  model: transformer.Architecture
  trajectory: types.Trajectory
  comparison: Comparison


def subject(
  workdir: pathlib.Path, settings: sections.Estimation, corpus: packing.Corpus
) -> Subject:
  """Loads the trained model of a workdir, and its reference if it has one.

  Args:
    workdir: with the training run `train`, and that of the reference.
    settings: `checkpoints` and `reference`.
    corpus: must fit the vocabulary and the context of both models.

  Raises:
    ValueError: if there is no such run or it cannot read the corpus.
  """
  model = trained_model(workdir / 'train' / 'checkpoints', corpus)
  trajectory = whole_trajectory(workdir / 'train', settings.checkpoints or None)
  if not settings.reference:
    return Subject(model, trajectory, next_tokens(model))
  name = directory_name('estimation.reference', settings.reference)
  directory = workdir / name / 'checkpoints'
  reference, step = (
    trained_model(directory, corpus),
    checkpoints.steps(directory)[-1],
  )
  return Subject(
    model,
    beside(trajectory, checkpoints.load(directory, step)),
    another_model(model, reference, step),
  )


def whole_trajectory(
  run: pathlib.Path, steps: Sequence[int] | None = None
) -> types.Trajectory:
  """The checkpoints of a training run, all or some.

  Args:
    run: its directory.
    steps: the training steps to use; by default all on disk.

  Raises:
    ValueError: if one is missing that the record of the finished run names.
  """
  record, directory = run / 'training.zarr', run / 'checkpoints'
  # Without this check a missing checkpoint would shorten the trajectory.
  if not steps and record.exists():
    saved_steps = checkpoints.steps(directory)
    for step in records.load_record(record).checkpoint.values.tolist():
      if step not in saved_steps:
        raise ValueError(
          f'Checkpoint of step {step} was expected at {directory / str(step)}, '
          f'because {record} names it; got none. Put back a copy, or remove '
          f'{run} and train again: it gives the same.'
        )
  return checkpoints.trajectory(directory, steps)


def beside(
  trajectory: types.Trajectory, reference: types.Params
) -> types.Trajectory:
  """Trajectory of {'model': each checkpoint, 'reference': fixed weights}."""

  def load(steps):
    # A view: copies of the reference would take memory for every step.
    repeat = lambda leaf: np.broadcast_to(leaf, (len(steps), *np.shape(leaf)))
    return {
      'model': trajectory.load(steps),
      'reference': jax.tree.map(repeat, reference),
    }

  model_hash, reference_hash = (
    trajectory.fingerprint,
    trees.content_hash(reference),
  )
  # Without fingerprints of the checkpoints there are none of the pairs.
  fingerprint = model_hash and (
    lambda step: f'{model_hash(step)}+{reference_hash}'
  )
  return types.Trajectory(trajectory.steps, load, fingerprint)


def trained_model(
  directory: pathlib.Path, corpus: packing.Corpus
) -> transformer.Architecture:
  """The sizes of the model that was trained in a directory of checkpoints.

  Raises:
    ValueError: if the corpus does not fit it.
  """
  sizes = checkpoints.metadata(directory).get('settings', {}).get('model')
  if sizes is None:
    raise ValueError(
      f'{directory} must hold checkpoints of experiments.train, whose model '
      'this command knows; got others. From Python any loss and weights can be '
      'measured: rllc_jax.estimate_trajectory, with checkpoints.trajectory.'
    )
  model = transformer.Architecture(**sizes)
  # JAX clamps indices out of range instead of raising.
  largest, length = int(corpus.tokens.max()), corpus.tokens.shape[1]
  if largest >= model.vocab_size or length > model.context_length + 1:
    raise ValueError(
      f'The corpus must have tokens below {model.vocab_size} in sequences of '
      f'at most {model.context_length + 1}, because the model in {directory} '
      f'was trained so; got token {largest} in sequences of {length}.'
    )
  return model


def families(
  names: Sequence[str],
  model: transformer.Architecture,
  comparison: Comparison | None = None,
  *,
  share_logits: bool = True,
) -> tuple[types.Refinements, ...]:
  """Refinements of a model, with its fast losses for heads.

  Args:
    names: in the grammar of `refinement.names`; 'heads' for all heads.
    model: its sizes.
    comparison: what it is compared with; by default the tokens that follow.
    share_logits: see `factored.part_losses`.
  """
  target = comparison or next_tokens(model)
  shapes = model.shapes()
  heads = parts.head_names(shapes)
  expanded = [
    part for name in names for part in (heads if name == 'heads' else [name])
  ]
  fast = factored.part_losses(
    model, objective=target.objective, share_logits=share_logits
  )
  return weights.families(
    expanded, shapes, target.loss_fn, fast, path=target.path
  )


# Data.


def source(name: str) -> documents.Source:
  """The text source of a name: of the mini-Pile, or a planted language."""
  if name in synthetic.LANGUAGES:
    return synthetic.source(name)
  return mini_pile.source(name)


def tokenizer_trainer(settings: sections.Corpus) -> Callable[..., Any]:
  """The function `train(texts, vocab_size)` of the configured tokenizer.

  Raises:
    ValueError: if there is none of that name.
  """
  trainers = {'bpe': tokenizers.train, 'words': tokenizers.train_words}
  if settings.tokenizer not in trainers:
    raise ValueError(
      f'config.corpus.tokenizer must be one of {", ".join(trainers)}; got '
      f'{settings.tokenizer!r}.'
    )
  return trainers[settings.tokenizer]


def classed_tokens(
  corpus: packing.Corpus, directory: pathlib.Path, code: Sequence[str]
) -> types.ClassedTokens:
  """The tokens of a corpus with their properties.

  Args:
    corpus: the tokens.
    directory: with `tokenizer.json`.
    code: domains that are code; absent ones are skipped.
  """
  spellings = texts(corpus, directory)
  places = [
    window
    for name, window in corpus.windows.items()
    if name.split('/')[-1] in code  # Such as train/DOMAIN.
  ]
  classes = token_classes.classify(corpus.tokens, spellings, places)
  return types.ClassedTokens(corpus.tokens, classes)


def texts(corpus: packing.Corpus, directory: pathlib.Path) -> list[str]:
  """The text of each token id, by the `tokenizer.json` of a corpus."""
  tokenizer = tokenizers.load(directory / 'tokenizer.json')
  return [tokenizers.decode(tokenizer, [i]) for i in range(corpus.vocab_size)]


def weighted_windows(
  names: Sequence[str], corpus: packing.Corpus, classed: types.ClassedTokens
) -> dict[str, types.WeightedWindow]:
  """Data sets by name: WINDOW, or WINDOW@PROPERTY+PROPERTY."""
  windows, classes = {}, np.asarray(classed.classes)
  for name in names:
    place, *properties = re.split('[@+]', name)
    if place not in corpus.windows:
      raise ValueError(
        'config.estimation.datasets must name windows of the corpus, '
        f'{", ".join(corpus.windows)}, or properties of their tokens as in '
        f'{place}@repeated; got {name!r}.'
      )
    windows[name] = token_classes.window(
      corpus.windows[place], classes, properties
    )
  return windows


def directory_name(field: str, name: str) -> str:
  """Checks the name of a directory below the workdir, and returns it.

  Raises:
    ValueError: if it is not a plain name.
  """
  # No '/' and no leading '.', so that the directory lies in the workdir.
  if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
    raise ValueError(
      f'config.{field} must be letters, digits, _, - and ., because it names '
      f'a directory in the workdir; got {name!r}.'
    )
  return name
