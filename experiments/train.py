"""Trains the transformer on a corpus and saves its checkpoints.

  python -m experiments.train --config=FILE --workdir=DIR

reads `DIR/corpus`, which experiments.build_corpus wrote, and the sections
`model` and `training` and the number `seed` of the config. Below `DIR/train` it
writes `checkpoints/STEP`, weights at log-spaced steps; `resume`, the state from
which the same command continues after a kill; and, last, `training.zarr`.
Another model on the same corpus, such as a one-layer one for comparison, gets
another directory:

  ... --config.model.num_layers=1 --config.training.name=one_layer

Connected processes (--process=auto, or --coordinator) divide every batch among
all their devices. Otherwise process 0 trains and the other processes wait.
"""

import functools
import pathlib

from absl import logging
import jax
import ml_collections
import xarray as xr

from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import processes
from experiments.runtime import progress
from experiments.runtime import sections
from rllc_jax import losses
from rllc_jax.data import packing
from rllc_jax.models import architecture
from rllc_jax.models import transformer
from rllc_jax.training import checkpoints
from rllc_jax.training import loop
from rllc_jax.training import records
from rllc_jax.training import runs
from rllc_jax.training import together
from rllc_jax.training import updates

# Rows of each split whose loss is measured at every checkpoint.
_EVALUATION_ROWS = 256


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> xr.Dataset:
  """Trains a model, resumes a stopped run, or loads a finished one.

  Args:
    config: `model` has fields of `sections.Model`, `training` of
      `sections.Training`; what they leave out has the default. `seed` is that
      of the weights and of the order of the data.
    workdir: the corpus is in its subdirectory `corpus`, the run in the one that
      `training.name` says.

  Returns:
    The record, as in `training.zarr`.

  Raises:
    ValueError: a setting makes no sense or does not fit the corpus, or the run
      there was begun with others.
  """
  corpus = packing.load_corpus(pathlib.Path(workdir) / 'corpus')
  settings = sections.read(config).training
  name = choices.directory_name('training.name', settings.name)
  directory = pathlib.Path(workdir) / name
  model = build_model(sections.read(config).model, corpus)
  path = directory / 'training.zarr'

  def make():
    # Before training, which is cheap if complete and verifies the checkpoints.
    complete = path.exists()
    record = _train(model, settings, config.seed, corpus, directory)
    if complete:
      _check_saved(path, record)
      logging.info('%s: already complete', directory)
      return
    record.attrs.update(_baselines(corpus))
    # All connected processes have the same record; one of them writes it.
    together.first_does(lambda: records.save_record(record, path))
    logging.info('%s: complete\n%s', directory, table(record))

  processes.share(path, make)
  return records.load_record(path)


def _check_saved(path: pathlib.Path, record: xr.Dataset) -> None:
  """Raises unless the saved record equals that of the run beside it."""
  saved = records.load_record(path)
  if not saved.equals(record):
    raise ValueError(
      f'{path}: expected the record of the run beside it; got that of another. '
      'Remove it and run the same command again.'
    )


def build_model(
  settings: sections.Model, corpus: packing.Corpus
) -> transformer.Architecture:
  """The model of the settings, in the corpus's vocabulary and length.

  Raises:
    ValueError: a setting makes no sense.
  """
  return settings.architecture(corpus.tokens.shape[1], corpus.vocab_size)


def table(record: xr.Dataset) -> str:
  """Text table of the losses on fixed sequences, a line a checkpoint."""
  lines = [f'{"step":>8}{"train":>9}{"held out":>10}']
  for i, step in enumerate(record.checkpoint.values):
    train, held_out = (
      float(record[name][i]) for name in ('train_loss', 'held_out_loss')
    )
    lines.append(f'{step:>8}{train:>9.4f}{held_out:>10.4f}')
  for name in ('unigram_entropy', 'bigram_entropy'):
    lines.append(f'{name} of the training window: {record.attrs[name]:.4f}')
  return '\n'.join(lines)


def _train(
  model: transformer.Architecture,
  settings: sections.Training,
  seed: int,
  corpus: packing.Corpus,
  directory: pathlib.Path,
) -> xr.Dataset:
  windows = corpus.windows
  # Only as many devices as divide the batch, so six accept a batch of 32.
  mesh = updates.data_mesh(jax.devices(), settings.batch_size)
  logging.info('every batch is divided over %d devices', mesh.size)
  with progress.bar('training', 'step') as bar:
    return loop.train(
      losses.next_token_loss(functools.partial(transformer.apply, model)),
      jax.jit(architecture.init_params, static_argnums=1)(
        jax.random.key(seed), model
      ),
      updates.adamw(
        settings.learning_rate, settings.weight_decay, settings.beta2
      ),
      corpus.tokens,
      windows['train'],
      seed=seed,
      batch_size=settings.batch_size,
      num_steps=settings.num_steps,
      checkpoint_steps=settings.checkpoints
      or checkpoints.log_spaced_steps(
        settings.num_steps, settings.num_checkpoints
      ),
      directory=directory,
      evaluation={
        name: runs.evenly_spaced(windows[name], _EVALUATION_ROWS)
        for name in ('train', 'held_out')
      },
      settings={
        # With these the model can be rebuilt from a checkpoint alone.
        'model': architecture.to_json(model),
        'learning_rate': settings.learning_rate,
        'weight_decay': settings.weight_decay,
        'beta2': settings.beta2,
      },
      resume_every=settings.resume_every,
      devices=[*mesh.devices.flat],
      progress=bar.show,
    )


def _baselines(corpus: packing.Corpus) -> dict[str, float]:
  """Losses of ideal unigram and bigram predictors, in nats."""
  window = corpus.windows['train']
  return {
    'unigram_entropy': packing.unigram_entropy(corpus.tokens, window),
    'bigram_entropy': packing.bigram_entropy(corpus.tokens, window),
  }


if __name__ == '__main__':
  commands.start(run, processes.connect)
