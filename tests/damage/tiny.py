"""The smallest training run, and its config as a program and as data."""

from experiments import train
from experiments.runtime import json_config
from tests.experiments import train_test

PROGRAM = train_test.CONFIG.replace('30', '4')
DATA = """
{
  "seed": 3,
  "model": {"num_layers": 1, "num_heads": 2, "d_model": 8, "d_head": 4},
  "training": {
    "learning_rate": 0.01, "weight_decay": 0.05, "batch_size": 4,
    "num_steps": 4, "num_checkpoints": 4
  }
}
"""
CONFIGS = {'config.py': PROGRAM, 'config.json': DATA}


def write(workdir):
  """A corpus, a complete run, and its configs."""
  for name, text in CONFIGS.items():
    (workdir / name).write_text(text)
  train_test.write_corpus(workdir)
  return go_on(workdir)


def go_on(workdir):
  """Trains what is left to train, or reads."""
  return train.run(json_config.load(workdir / 'config.json'), workdir)
