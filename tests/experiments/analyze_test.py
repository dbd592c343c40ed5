"""From a run on a planted language to what its heads do."""

import functools
import json

import jax
import numpy as np
import pytest

from experiments import analyze
from experiments import build_corpus
from experiments import train
from experiments.runtime import choices
from experiments.runtime import sections
from rllc_jax import losses
from rllc_jax.analysis import head_scores
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import synthetic_laws
from rllc_jax.models import attention_only
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


def test_every_head_is_read_at_every_checkpoint(analyzed):
  workdir, found = analyzed
  kept = checkpoints.trajectory(workdir / 'train' / 'checkpoints')
  assert found.checkpoint.values.tolist() == list(kept.steps)
  for name in (*head_scores.SCORES, 'ablation_zero', 'ablation_resample'):
    assert found[name].dims == ('checkpoint', 'layer', 'head')
  for name in ('composition_K', 'path'):
    assert found[name].dims == ('checkpoint', 'writer', 'reader')
  measured = found.drop_vars(
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
    np.testing.assert_allclose(found[name][0].mean(), even, rtol=0.3)


def test_patterns_of_affected_tokens_are_counted(analyzed):
  _, found = analyzed
  assert found.patterns.dims == ('checkpoint', 'layer', 'head', 'pattern')
  total = found.patterns.sum('pattern')
  assert (total > 50).all() and (total <= 500).all()  # 32 rows of 15 tokens.
  for name in ('ngram', 'skip_ngram'):  # Each counts once.
    assert (
      found[f'num_{name}s'] <= found.patterns.sel(pattern=name, drop=True)
    ).all()


def test_losses_are_those_of_the_data_set(analyzed):
  workdir, found = analyzed
  corpus = packing.load_corpus(workdir / 'corpus')
  kept = workdir / 'train' / 'checkpoints'
  model = choices.trained_model(kept, corpus)
  rows = corpus.tokens[runs.evenly_spaced(corpus.windows['held_out'], 32)]
  loss = losses.next_token_loss(functools.partial(attention_only.apply, model))
  expected = [
    float(jax.jit(loss)(checkpoints.load(kept, step), rows.astype(np.int32)))
    for step in found.checkpoint.values
  ]
  np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
  assert expected[-1] < expected[0] - 0.5


def test_losses_on_kinds_of_symbols_lie_above_their_floors(analyzed):
  _, found = analyzed
  laws = synthetic_laws.laws(synthetic.Language())
  for kind, law in laws.items():
    assert float(found.kind_floor.sel(kind=kind)) == law.floor
  # 1,024 rows of 8 symbols: the rarest kind is met 200 times.
  assert (found.kind_loss - found.kind_floor > -0.1).all()
  assert (found.kind_loss[0] > 3).all()


def test_attention_to_sources_is_a_weight(analyzed):
  _, found = analyzed
  known = {'ngram', 'skip', 'bracket_nested', 'bracket_last', 'repeat'}
  for kind in found.kind.values:
    weights = found.source_attention.sel(kind=kind)
    assert bool(np.isfinite(weights).all()) == (kind in known)
    if kind in known:
      assert (weights > 0).all() and (weights < 1).all()


def test_it_is_read_again_for_the_same_run_alone(analyzed):
  workdir, found = analyzed
  assert analyze.run(config(), workdir).identical(found)
  assert json.loads(found.attrs['identity'])['num_tokens'] == 512
  with pytest.raises(
    ValueError, match='num_tokens = 512 was expected.*got 256'
  ):
    analyze.run(config(num_tokens=256), workdir)


def test_a_window_that_is_not_there_is_named(analyzed, tmp_path):
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
