"""Training from a corpus on disk."""

import pathlib

import numpy as np
import pytest

from experiments import train
from rllc_jax.data import packing
from rllc_jax.data import tokenizers
from rllc_jax.training import checkpoints
from rllc_jax.training import records
from tests import binaries

ROOT = pathlib.Path(__file__).parents[2]
VOCAB_SIZE = 12
CONFIG = """
import ml_collections

def get_config():
  return ml_collections.config_dict.create(
    seed=3,
    model=dict(num_layers=1, num_heads=2, d_model=8, d_head=4),
    training=dict(
      learning_rate=0.01,
      weight_decay=0.05,
      batch_size=4,
      num_steps=30,
      num_checkpoints=4,
    ),
  )
"""


def read_config():
  names = {}
  exec(CONFIG, names)
  return names['get_config']()


def write_corpus(workdir, largest=VOCAB_SIZE - 1):
  """Rows that count upwards: all tokens after the first are predictable."""
  start = np.random.default_rng(0).integers(0, 11, (50, 1))
  rows = np.concatenate(
    [np.full((50, 1), 11), (start + np.arange(6)) % 11], axis=1
  )
  rows[0, 3] = largest
  corpus = packing.arrange(
    {'a': rows[:40]}, {'a': rows[40:]}, {}, vocab_size=VOCAB_SIZE, eos_id=11
  )
  tokenizer = tokenizers.train([], tokenizers.MIN_VOCABULARY)
  tokenizers.save(tokenizer, workdir / 'corpus' / 'tokenizer.json')
  packing.save_corpus(workdir / 'corpus', corpus, {}, files=['tokenizer.json'])
  return corpus


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  write_corpus(workdir)
  return workdir, train.run(read_config(), workdir)


def test_a_run_writes_checkpoints_and_their_losses(trained):
  workdir, record = trained
  trajectory = checkpoints.trajectory(workdir / 'train' / 'checkpoints')
  assert trajectory.steps == checkpoints.log_spaced_steps(30, 4)
  params = trajectory.load(trajectory.steps)
  assert params['blocks_0']['attn']['W_Q'].shape == (4, 2, 8, 4)
  assert record.sizes == {'step': 30, 'checkpoint': 4}
  saved = records.load_record(workdir / 'train' / 'training.zarr')
  assert saved.identical(record)
  # At the start the model knows nothing: near ln V, apart from its noise.
  np.testing.assert_allclose(record.loss[0], np.log(VOCAB_SIZE), atol=0.5)
  assert record.held_out_loss[-1] < record.held_out_loss[0]


def test_baselines_are_entropies_of_the_training_window(trained):
  workdir, record = trained
  corpus = packing.load_corpus(workdir / 'corpus')
  rows = corpus.tokens[:40]
  _, counts = np.unique(rows[:, 1:], return_counts=True)
  shares = counts / counts.sum()
  expected = -np.sum(shares * np.log(shares))
  np.testing.assert_allclose(record.unigram_entropy, expected)
  assert 0 < record.bigram_entropy < record.unigram_entropy


def test_the_model_can_be_rebuilt_from_a_checkpoint(trained):
  workdir, _ = trained
  settings = checkpoints.metadata(workdir / 'train' / 'checkpoints')['settings']
  assert settings['model'] == {
    'num_layers': 1,
    'num_heads': 2,
    'd_model': 8,
    'd_head': 4,
    'context_length': 7,
    'vocab_size': 12,
  }


def test_a_second_run_logs_already_complete(trained, caplog):
  workdir, record = trained
  with caplog.at_level('INFO', logger='absl'):
    again = train.run(read_config(), workdir)
  assert again.identical(record)
  assert 'already complete' in caplog.text


@pytest.mark.parametrize(
  ('section', 'name', 'value', 'message'),
  [
    ('training', 'learning_rate', 0.02, 'learning_rate = 0.01 .*got 0.02'),
    ('training', 'num_steps', 31, 'num_steps = 30 .*got 31'),
    ('model', 'd_head', 8, 'd_head = 4 .*got 8'),
    ('model', 'num_heads', 0, 'num_heads must be a positive whole number'),
    ('training', 'batch_size', 0, 'batch_size must be a positive multiple'),
    ('training', 'num_checkpoints', 1, 'at least 2'),
    ('training', 'warm_up', 1, 'got warm_up'),
  ],
)
def test_other_settings_are_refused(trained, section, name, value, message):
  workdir, _ = trained
  config = read_config()
  with config.unlocked():
    config[section][name] = value
  with pytest.raises(ValueError, match=message) as error:
    train.run(config, workdir)
  assert '\n' not in str(error.value)


def test_another_seed_is_refused(trained):
  workdir, _ = trained
  config = read_config()
  config.seed = 4
  with pytest.raises(ValueError, match='seed = 3 was expected.*got 4'):
    train.run(config, workdir)


def test_a_token_outside_the_vocabulary_is_refused(tmp_path):
  write_corpus(tmp_path, largest=VOCAB_SIZE)
  with pytest.raises(ValueError, match='expected the tokens.*ids from 0 to 12'):
    train.run(read_config(), tmp_path)


def test_the_command_fails_with_one_line_without_a_corpus(tmp_path):
  config = tmp_path / 'config.py'
  config.write_text(CONFIG)
  flags = f'--config={config}', f'--workdir={tmp_path}'
  done = binaries.run('train', *flags)
  assert done.returncode == 1
  assert done.stdout == ''
  assert done.stderr.count('\n') == 1
  assert done.stderr.startswith('train: error: ')
  assert 'corpus.json' in done.stderr
