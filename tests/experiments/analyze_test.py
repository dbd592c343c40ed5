"""Analysis of a run on a planted language."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import analyze
from experiments import build_corpus
from experiments import train
from experiments.runtime import sections
from experiments.runtime import subjects
from rllc_jax import losses
from rllc_jax.analysis import head_scores
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws
from rllc_jax.models import transformer
from rllc_jax.training import checkpoints
from rllc_jax.training import runs


def config(**changes):
  return sections.make_config(
    seed=3,
    corpus=dict(
      sources=('planted',),
      further=(),
      tokenizer='words',
      cap_mb=0.1,
      vocab_size=128,
      context_length=16,
    ),
    model=dict(num_layers=2, num_heads=2, d_model=16, d_head=8),
    training=dict(
      learning_rate=1e-2, batch_size=16, num_steps=60, num_checkpoints=2
    ),
    analysis=dict(num_tokens=512, num_sequences=256) | changes,
  )


@pytest.fixture(scope='module')
def analyzed(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  build_corpus.run(config(), workdir)
  train.run(config(), workdir)
  with pytest.MonkeyPatch.context() as patch:
    # All is compiled once a device.
    patch.setattr(jax, 'local_devices', lambda: jax.devices()[:1])
    return workdir, analyze.run(config(), workdir)


def test_every_head_is_measured_at_every_checkpoint(analyzed):
  workdir, results = analyzed
  trajectory = checkpoints.trajectory(workdir / 'train' / 'checkpoints')
  assert results.checkpoint.values.tolist() == list(trajectory.steps)
  for name in (*head_scores.SCORES, 'ablation_zero', 'ablation_resample'):
    assert results[name].dims == ('checkpoint', 'layer', 'head')
  for name in ('composition_K', 'path'):
    assert results[name].dims == ('checkpoint', 'writer', 'reader')
  measured = results.drop_vars(
    [
      'source_attention',
      'affected_text',
      'affected_effect',
      'path_nested',
      'head_class',
    ]
  )
  for name, value in measured.items():
    assert np.isfinite(value).all(), name
  # Weights as drawn hardly attend to anything in particular.
  for name in head_scores.SCORES:
    even = head_scores.even_attention(name, 16)
    np.testing.assert_allclose(results[name][0].mean(), even, rtol=0.3)


def test_patterns_of_affected_tokens_are_counted(analyzed):
  _, results = analyzed
  assert results.patterns.dims == ('checkpoint', 'layer', 'head', 'pattern')
  total = results.patterns.sum('pattern')
  assert (total > 50).all() and (total <= 500).all()  # 32 rows of 15 tokens.
  for name in ('ngram', 'skip_ngram'):  # Each counts once.
    assert (
      results[f'num_{name}s'] <= results.patterns.sel(pattern=name, drop=True)
    ).all()


def test_losses_equal_those_of_the_plain_model(analyzed):
  workdir, results = analyzed
  corpus = packing.load_corpus(workdir / 'corpus')
  directory = workdir / 'train' / 'checkpoints'
  model = subjects.trained_model(directory, corpus)
  rows = corpus.tokens[runs.evenly_spaced(corpus.windows['held_out'], 32)]
  loss = losses.next_token_loss(functools.partial(transformer.apply, model))
  expected = [
    float(
      jax.jit(loss)(checkpoints.load(directory, step), rows.astype(np.int32))
    )
    for step in results.checkpoint.values
  ]
  np.testing.assert_allclose(results.loss, expected, rtol=1e-5)
  assert expected[-1] < expected[0] - 0.5


def test_losses_on_kinds_of_symbols_lie_above_their_floors(analyzed):
  _, results = analyzed
  laws = synthetic_laws.laws(synthetic.Language())
  for kind, law in laws.items():
    assert float(results.kind_floor.sel(kind=kind)) == law.floor
  # 1,024 rows of 8 symbols: the rarest kind is met 200 times.
  assert (results.kind_loss - results.kind_floor > -0.1).all()
  assert (results.kind_loss[0] > 3).all()


def test_source_attention_is_between_0_and_1_or_nan_without_source(analyzed):
  _, results = analyzed
  with_source = {'ngram', 'skip', 'bracket_nested', 'bracket_last', 'repeat'}
  for kind in results.kind.values:
    weights = results.source_attention.sel(kind=kind)
    assert bool(np.isfinite(weights).all()) == (kind in with_source)
    if kind in with_source:
      assert (weights > 0).all() and (weights < 1).all()


def test_finished_analysis_is_loaded_and_other_settings_are_refused(analyzed):
  workdir, results = analyzed
  assert analyze.run(config(), workdir).identical(results)
  assert json.loads(results.attrs['identity'])['num_tokens'] == 512
  with pytest.raises(
    ValueError, match='num_tokens = 512 was expected.*got 256'
  ):
    analyze.run(config(num_tokens=256), workdir)


def test_unknown_window_is_named(analyzed, tmp_path):
  workdir, _ = analyzed
  for name in ('corpus', 'train'):
    (tmp_path / name).symlink_to(workdir / name)
  with pytest.raises(ValueError, match="held_out; got 'code'"):
    analyze.run(config(dataset='code'), tmp_path)


def test_the_table_has_a_line_a_head_and_a_kind(analyzed):
  lines = analyze.table(analyzed[1]).splitlines()
  assert [line.split()[0] for line in lines[1:5]] == [
    '0:0',
    '0:1',
    '1:0',
    '1:1',
  ]
  assert len(lines) == 1 + 4 + 1 + len(synthetic.KINDS)
