"""Writes the checkpoints of a training run as models of Hugging Face.

  python -m experiments.export --config=FILE --workdir=DIR

reads `DIR/corpus` and `DIR/train/checkpoints`, and writes
`DIR/exported/stepSTEP`, a directory a checkpoint with `config.json`,
`model.safetensors` and the corpus's `tokenizer.json`: what `transformers`
opens. A directory that is complete stays as it is.
"""

import pathlib
import shutil

from absl import logging
import jax
import ml_collections

from experiments.runtime import commands
from experiments.runtime import progress
from experiments.runtime import subjects
from rllc_jax.data import packing
from rllc_jax.models import huggingface


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> None:
  """Exports every checkpoint.

  Args:
    config: not read.
    workdir: with the subdirectories `corpus` and `train`.

  Raises:
    ValueError: if no family of Hugging Face computes what the model does.
  """
  del config
  corpus = packing.load_corpus(workdir / 'corpus')
  model = subjects.trained_model(workdir / 'train' / 'checkpoints', corpus)
  trajectory = subjects.whole_trajectory(workdir / 'train')
  count = len(trajectory.steps)
  with progress.bar('exporting', 'checkpoint', count) as bar:
    for step in trajectory.steps:
      bar.tick(f'step {step}')
      directory = workdir / 'exported' / f'step{step}'
      if (directory / 'tokenizer.json').exists():  # Written last.
        continue
      stacked = trajectory.load([step])
      params = jax.tree.map(lambda leaf: leaf[0], stacked)
      huggingface.save(directory, model, params)
      shutil.copyfile(
        workdir / 'corpus' / 'tokenizer.json', directory / 'tokenizer.json'
      )
  logging.info('%s: complete', workdir / 'exported')


if __name__ == '__main__':
  commands.start(run)
