"""The model that is measured, with its checkpoints and its losses.

It was trained here, or comes from elsewhere: `config.model.source`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.runtime import choices
from experiments.runtime import factories
from experiments.runtime import sections
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import packing
from rllc_jax.estimators import transformer_parts
from rllc_jax.models import architecture
from rllc_jax.models import huggingface
from rllc_jax.models import targets
from rllc_jax.models import transformer
from rllc_jax.training import checkpoints
from rllc_jax.training import records

_FACTORY = 'factory:'


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
  """A measured model.

  Attributes:
    architecture: what it computes; None if a user's function made it.
    trajectory: the weights, including those of a reference model.
    comparison: the loss.
    made: by the user's function.
  """

  architecture: transformer.Architecture | None
  trajectory: types.Trajectory
  comparison: Comparison
  made: factories.Made | None = None

  @property
  def model(self) -> transformer.Architecture:
    """What the model computes.

    Raises:
      ValueError: if that is not known.
    """
    if self.architecture is None:
      raise ValueError(
        'This command must know what the model computes, and config.model.'
        'source is a factory. Estimates, suggest, report and verify work.'
      )
    return self.architecture

  def families(
    self, names: Sequence[str], *, share_logits: bool = True
  ) -> tuple[types.Refinements, ...]:
    """Refinements by name, with the fastest losses that there are."""
    if self.made is not None:
      return factories.chosen(self.made, names)
    return families(
      names, self.model, self.comparison, share_logits=share_logits
    )


def load(
  workdir: pathlib.Path, settings: sections.Settings, corpus: packing.Corpus
) -> Subject:
  """Loads the measured model, and its reference if it has one.

  Args:
    workdir: with the training run `train`, and that of the reference.
    settings: `model` and `estimation`.
    corpus: must fit the vocabulary and the context of both models.

  Raises:
    ValueError: if there is no such model or it cannot read the corpus.
  """
  chosen, estimation = settings.model, settings.estimation
  if chosen.source.startswith(_FACTORY):
    return _made(workdir, settings, corpus)
  if chosen.source:
    model, trajectory = huggingface.trajectory(
      _directories(workdir, chosen), dtype=chosen.dtype or None
    )
    check_fits(model, corpus, chosen.source)
    check_steps(trajectory, estimation.checkpoints, 'estimation')
    asked = list(estimation.checkpoints) or trajectory.steps
    trajectory = trajectory._replace(steps=asked)
  else:
    model = trained_model(workdir / 'train' / 'checkpoints', corpus)
    trajectory = whole_trajectory(
      workdir / 'train', estimation.checkpoints or None
    )
  if not estimation.reference:
    return Subject(model, trajectory, next_tokens(model))
  name = choices.directory_name('estimation.reference', estimation.reference)
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


def _made(
  workdir: pathlib.Path, settings: sections.Settings, corpus: packing.Corpus
) -> Subject:
  """The model of a user's function."""
  made = factories.make(settings.model.source.removeprefix(_FACTORY), workdir)
  if settings.estimation.reference:
    raise ValueError(
      'config.estimation.reference must be empty where a factory makes the '
      f'loss; got {settings.estimation.reference!r}.'
    )
  if (check := getattr(made.loss_fn, 'check', None)) is not None:
    stacked = made.trajectory.load(made.trajectory.steps[:1])
    check(jax.tree.map(lambda leaf: leaf[0], stacked), corpus.tokens)
  asked = settings.estimation.checkpoints
  check_steps(made.trajectory, asked, 'estimation')
  trajectory = made.trajectory._replace(
    steps=list(asked) or made.trajectory.steps
  )
  description = {'loss': 'of a factory', **made.description}
  comparison = Comparison(made.loss_fn, targets.next_tokens(), (), description)
  return Subject(None, trajectory, comparison, made)


def of_all_checkpoints(
  workdir: pathlib.Path, settings: sections.Settings, corpus: packing.Corpus
) -> Subject:
  """The measured model by itself, at every checkpoint."""
  estimation = dataclasses.replace(
    settings.estimation, checkpoints=(), reference=''
  )
  everything = dataclasses.replace(settings, estimation=estimation)
  return load(workdir, everything, corpus)


def steps(workdir: pathlib.Path, chosen: sections.Model) -> Sequence[int]:
  """The training steps of which there are weights."""
  if not chosen.source:
    return checkpoints.steps(workdir / 'train' / 'checkpoints')
  if chosen.source.startswith(_FACTORY):
    made = factories.make(chosen.source.removeprefix(_FACTORY), workdir)
    return made.trajectory.steps
  return sorted(huggingface.by_step(_directories(workdir, chosen)))


def _directories(
  workdir: pathlib.Path, chosen: sections.Model
) -> Mapping[int, pathlib.Path] | list[pathlib.Path]:
  """The directories of checkpoints from elsewhere."""
  kind, _, place = chosen.source.partition(':')
  if kind != 'huggingface' or not place:
    raise ValueError(
      "config.model.source must be 'huggingface:DIR', "
      "'factory:MODULE:FUNCTION', or '' for the model that is trained here; "
      f'got {chosen.source!r}.'
    )
  directory = workdir / place  # An absolute path stays one.
  if not chosen.checkpoints:
    return {0: directory}
  found = sorted(directory.glob(chosen.checkpoints))
  if not found:
    raise ValueError(
      'config.model.checkpoints must match directories below '
      f'{directory}; got none for {chosen.checkpoints!r}.'
    )
  return found


def check_steps(
  trajectory: types.Trajectory, steps: Sequence[int], section: str
) -> None:
  """Raises unless there are weights of training steps."""
  for step in steps:
    if step not in trajectory.steps:
      raise ValueError(
        f'config.{section}.checkpoints must be training steps that there are, '
        f'{", ".join(map(str, trajectory.steps))}; got {step}.'
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
  """The model that was trained in a directory of checkpoints.

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
  check_fits(model, corpus, str(directory))
  return model


def check_fits(
  model: transformer.Architecture, corpus: packing.Corpus, source: str
) -> None:
  """Raises unless a model can read a corpus."""
  # JAX clamps indices out of range instead of raising.
  largest, length = int(corpus.tokens.max()), corpus.tokens.shape[1]
  if largest >= model.vocab_size or length > model.context_length + 1:
    raise ValueError(
      f'The corpus must have tokens below {model.vocab_size} in sequences of '
      f'at most {model.context_length + 1}, because the model in {source} was '
      f'trained so; got token {largest} in sequences of {length}.'
    )


def families(
  names: Sequence[str],
  model: transformer.Architecture,
  comparison: Comparison | None = None,
  *,
  share_logits: bool = True,
) -> tuple[types.Refinements, ...]:
  """Refinements of a model, with its fast losses for heads.

  Args:
    names: in the grammar of `refinement.names`; 'heads' and 'mlps' for all.
    model: its sizes.
    comparison: what it is compared with; by default the tokens that follow.
    share_logits: see `factored.part_losses`.
  """
  target = comparison or next_tokens(model)
  return transformer_parts.transformer_parts(
    model,
    names,
    loss_fn=target.loss_fn,
    objective=target.objective,
    share_logits=share_logits,
    path=target.path,
  )
