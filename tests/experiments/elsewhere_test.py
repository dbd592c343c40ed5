"""Binaries on models from elsewhere: directories of Hugging Face, token ids."""

import functools
import pathlib
import types

import jax
import numpy as np
import pytest

from experiments import analyze
from experiments import build_corpus
from experiments import estimate_rllc
from experiments import suggest
from experiments import verify
from experiments.runtime import choices
from experiments.runtime import sections
import rllc_jax
from rllc_jax import trees
from rllc_jax.models import huggingface
from rllc_jax.models import transformer
from tests.models.huggingface import make

STEPS = (2, 5)


def config_of(workdir, **changes):
  """A config of two checkpoints, and of token ids, below a directory."""
  settings = {
    'corpus': dict(
      tokens=str(workdir / 'ids.npy'),
      special_token='0',
      context_length=12,
      held_out_fraction=0.2,
    ),
    'model': dict(source='huggingface:checkpoints', checkpoints='step*'),
    'estimation': dict(refinements=('0:1', '1:mlp'), batch_size=4),
    'sampling': dict(num_chains=1, num_draws=24, burn_in=0),
  }
  for section, values in changes.items():
    settings[section] = settings.get(section, {}) | values
  return sections.make_config(**settings)


@pytest.fixture
def workdir(tmp_path):
  """Ids, and a model that moves a little from step to step."""
  ids = np.random.default_rng(0).integers(1, 23, (40, 20))
  np.save(tmp_path / 'ids.npy', ids)
  model, params = huggingface.load(make.HERE / 'gpt_neox')
  for step in STEPS:
    moved = jax.tree.map(lambda leaf, n=step: leaf * (1 + 0.1 * n), params)
    huggingface.save(tmp_path / 'checkpoints' / f'step{step}', model, moved)
  return tmp_path


def test_a_trajectory_is_estimated_and_verified(workdir):
  """Checkpoints are checked before a store keeps their fingerprints."""
  config = config_of(workdir)
  corpus = build_corpus.run(config, workdir)
  assert corpus.tokens.shape[1] == 12 and (corpus.tokens[:, 0] == 0).all()
  ordinary = choices.ordinary_ids(corpus, workdir / 'corpus')
  assert ordinary.tolist() == [*range(1, 23)]
  broken = workdir / 'checkpoints' / 'step5' / 'model.safetensors'
  whole = broken.read_bytes()
  broken.write_bytes(whole[:-40])
  with pytest.raises(ValueError, match='step5.*whole safetensors file'):
    estimate_rllc.run(config, workdir)
  broken.write_bytes(whole)
  estimates = estimate_rllc.run(config, workdir)
  assert estimates.checkpoint.values.tolist() == [*STEPS]
  assert estimates.refinement.values.tolist() == ['0:1', '1:mlp']
  assert np.isfinite(estimates.llc).all()
  rows = verify.run(config, workdir)
  assert all(row.holds is not False for row in rows)


@pytest.mark.long
def test_a_plan_and_a_suggestion_are_made_before_the_run(workdir):
  config = config_of(workdir)
  build_corpus.run(config, workdir)
  steps = estimate_rllc.plan(config, workdir)
  # Two checkpoints, two parts, one chain of 24 draws.
  assert steps.counts.cells == 4 and steps.counts.chain_steps == 4 * 24
  suggestion = suggest.run(config, workdir)
  assert suggestion.sampling.step_size > 0
  assert suggestion.each.refinement.values.tolist() == ['0:1', '1:mlp']
  assert np.isfinite(suggestion.each.curvature).all()


def make_model(workdir):
  """A function of a user: two checkpoints of a model, with parts by paths."""
  model, params = huggingface.load(make.HERE / 'llama')
  loss_fn = rllc_jax.next_token_loss(
    functools.partial(transformer.apply, model)
  )
  rules = {
    'head {layer} {head}': {
      'blocks_{layer}/attn/W_Q': rllc_jax.axis(0),
      'blocks_{layer}/attn/W_O': rllc_jax.axis(0),
    }
  }
  load = lambda steps: trees.stack(
    [
      jax.tree.map(lambda leaf, n=n: leaf * (1 + 0.1 * n), params)
      for n in steps
    ]
  )
  return types.SimpleNamespace(
    trajectory=rllc_jax.Trajectory(STEPS, load),
    parts=rllc_jax.parts(params, rules, loss_fn),
    loss_fn=loss_fn,
    description={'workdir': workdir.name},
  )


def test_the_model_of_a_user_s_function_is_estimated(workdir):
  place = f'{__name__}:make_model'
  model = dict(source=f'factory:{place}', checkpoints='')
  asked = dict(refinements=('head 0 3', 'head 1 0'))
  config = config_of(workdir, model=model, estimation=asked)
  build_corpus.run(config, workdir)
  estimates = estimate_rllc.run(config, workdir)
  assert estimates.checkpoint.values.tolist() == [*STEPS]
  assert estimates.refinement.values.tolist() == ['head 0 3', 'head 1 0']
  assert np.isfinite(estimates.llc).all()
  assert all(row.holds is not False for row in verify.run(config, workdir))
  with pytest.raises(ValueError, match='must know what the model computes'):
    analyze.run(config, workdir)
  cases = {
    "head 0 0, .*got 'head 7'": dict(estimation=dict(refinements=('head 7',))),
    'that Python finds.*nowhere': dict(model=dict(source='factory:nowhere:f')),
    'without trajectory': dict(model=dict(source='factory:pathlib:Path')),
  }
  for message, changes in cases.items():
    merged = {'model': model, 'estimation': asked} | changes
    with pytest.raises(ValueError, match=message):
      estimate_rllc.run(config_of(workdir, **merged), workdir)


def test_what_does_not_fit_is_refused(workdir):
  build_corpus.run(config_of(workdir), workdir)
  cases = {
    r"'huggingface:DIR'.*got 'hub:x'": dict(source='hub:x'),
    'match directories': dict(checkpoints='epoch*'),
    'config.json; got none': dict(source='huggingface:none', checkpoints=''),
  }
  for message, model in cases.items():
    with pytest.raises(ValueError, match=message):
      estimate_rllc.run(config_of(workdir, model=model), workdir)
  asked = dict(refinements=('0:7',))
  with pytest.raises(ValueError, match=r'0:0, 0:1, 1:0, 1:1.*0:7'):
    estimate_rllc.run(config_of(workdir, estimation=asked), workdir)
  asked = dict(checkpoints=(3,))
  with pytest.raises(ValueError, match='that there are, 2, 5; got 3'):
    estimate_rllc.run(config_of(workdir, estimation=asked), workdir)


def test_a_corpus_of_another_vocabulary_is_refused(workdir):
  np.save(workdir / 'ids.npy', np.full((40, 20), 23))
  config = config_of(workdir)
  build_corpus.run(config, workdir)
  with pytest.raises(ValueError, match='tokens below 23.*got token 23'):
    estimate_rllc.run(config, workdir)


@pytest.mark.parametrize(
  ('ids', 'special', 'message'),
  [
    (np.zeros(3), '0', 'float64'),
    (np.zeros((2, 2, 2), int), '0', r'\[2, 2, 2\]'),
    (np.array([-1, 2]), '0', 'must be ids'),
    (np.array([1, 2]), '', "special_token must be the id.*got ''"),
    (None, '0', 'No such file'),
  ],
)
def test_ids_that_are_none_are_refused(tmp_path, ids, special, message):
  if ids is not None:
    np.save(tmp_path / 'ids.npy', ids)
  config = config_of(tmp_path, corpus=dict(special_token=special))
  with pytest.raises(ValueError, match=message):
    build_corpus.run(config, tmp_path)


def test_text_goes_through_the_tokenizer_of_the_model(workdir):
  """Any tokenizer.json, whose special token need not be the last id."""
  # pyrefly: ignore[missing-import]
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from tokenizers import Tokenizer

  words = ['<s>', 'a', 'b', 'c', '?']
  tokenizer = Tokenizer(
    models.WordLevel({x: i for i, x in enumerate(words)}, unk_token='?')
  )
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(['<s>'])
  tokenizer.enable_truncation(4)  # It would cut every document.
  path = workdir / 'model_tokenizer.json'
  tokenizer.save(str(path))
  text = workdir / 'text.txt'
  text.write_text('\n\n'.join(f'a b c a b {"c " * n}' for n in range(3, 200)))
  config = config_of(
    workdir,
    corpus=dict(
      tokens='',
      sources=(),
      further=(),
      files=(str(text),),
      tokenizer=str(path),
      special_token='',
      min_characters=1,
    ),
  )
  corpus = build_corpus.run(config, workdir)
  assert (corpus.tokens[:, 0] == 0).all() and corpus.vocab_size == 5
  assert set(np.unique(corpus.tokens)) == {0, 1, 2, 3}
  ordinary = choices.ordinary_ids(corpus, workdir / 'corpus')
  assert ordinary.tolist() == [1, 2, 3, 4]
  assert corpus.tokens.size > 10_000


def test_a_missing_tokenizer_is_named(workdir):
  config = config_of(
    workdir,
    corpus=dict(tokens='', tokenizer=str(pathlib.Path('no') / 'x.json')),
  )
  with pytest.raises(ValueError, match='no/x.json: expected the tokenizer'):
    build_corpus.run(config, workdir)
