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
  assert results.composition_K.dims == ('checkpoint', 'writer', 'reader')
  # NaN for kinds without a source, and where fewer tokens are affected.
  partial = ['source_attention', 'affected_effect', 'kind_floor']
  partial += [x for x in results if str(x).startswith(('kind_', 'joint_'))]
  measured = results.drop_vars([*partial, 'affected_text', 'head_class'])
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
  assert (total > 0).all() and (total <= 500).all()  # 32 rows of 15 tokens.
  for name in ('ngram', 'skip_ngram'):  # Each counts once.
    assert (
      results[f'num_{name}s'] <= results.patterns.sel(pattern=name, drop=True)
    ).all()


def test_means_have_errors(analyzed):
  _, results = analyzed
  names = [*head_scores.SCORES, 'previous_token_text', 'prefix_matching_text']
  names += ['ablation_resample', 'in_context', 'bigram', 'no_positions', 'loss']
  for name in names:
    assert results[f'{name}_error'].dims == results[name].dims
    assert (results[f'{name}_error'] > 0).all(), name
  for name in ('hessian', 'fisher', 'fisher_token'):
    assert (
      results[f'{name}_error'] < 0.5 * abs(results[f'{name}_trace'])
    ).all()


def test_words_that_heads_serve_are_counted_at_the_end(analyzed):
  _, results = analyzed
  heads = 'layer', 'head'
  assert results.true_words.dims == results.true_pairs.dims == heads
  language = synthetic.Language()
  assert 0 <= results.true_words.min() and results.true_words.max() <= 32
  assert results.true_pairs.max() <= language.num_skips
  assert results.kind_rise.dims == (*heads, 'kind')
  present = np.isfinite(results.kind_loss.isel(checkpoint=-1))
  for name in ('kind_rise', 'kind_rise_error'):
    assert (np.isfinite(results[name]) == present).all()


def test_the_circuit_that_is_cut_is_that_of_the_classes(analyzed):
  _, results = analyzed
  for name in ('joint_nested', 'joint_other'):
    for cut in ('', '_control'):
      assert results[f'{name}{cut}'].dims == ('checkpoint', 'minibatch')
  is_multigram = results.head_class[0] == 'multigram'
  for cut, heads in (('', is_multigram), ('_control', ~is_multigram)):
    measured = np.isfinite(results[f'joint_other{cut}'])
    assert (measured == bool(heads.any())).all()


def test_tables_are_of_two_checkpoints(analyzed):
  _, results = analyzed
  steps = results.table_checkpoint.values.tolist()
  assert steps[-1] == results.checkpoint.values[-1] and len(steps) == 2
  assert results.affected_text.dims[0] == 'table_checkpoint'


def test_traces_are_measured_where_rllcs_are_estimated(analyzed):
  workdir, _ = analyzed
  corpus = packing.load_corpus(workdir / 'corpus')
  settings = config()
  settings.estimation.checkpoints = (60,)
  subject = subjects.of_all_checkpoints(
    workdir, sections.read(settings), corpus
  )
  measured = analyze._complexity(
    jax.random.key(0), settings, corpus, subject.model, subject.trajectory
  )
  assert measured.checkpoint.values.tolist() == [60]


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
  above = (results.kind_loss - results.kind_floor).sel(kind=list(laws))
  assert (above > -0.1).all()
  assert (results.kind_loss[0].sel(kind=list(laws)) > 3).all()


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
