"""Models of Hugging Face's transformers, bit by bit and logit by logit."""

import importlib.util
import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rllc_jax import trees
from rllc_jax.models import architecture
from rllc_jax.models import frozen_layers
from rllc_jax.models import huggingface
from rllc_jax.models import transformer
from tests.models import small
from tests.models.huggingface import make

HAS_TRANSFORMERS = importlib.util.find_spec('transformers') is not None


@pytest.fixture
def copied(tmp_path):
  """A copy of a small model that a test may damage."""

  def copy(name):
    shutil.copytree(make.HERE / name, tmp_path / name)
    return tmp_path / name

  return copy


def config_with(directory, **keys):
  path = directory / 'config.json'
  config = json.loads(path.read_text()) | keys
  path.write_text(json.dumps(config))


def tensors_with(directory, change):
  path = directory / 'model.safetensors'
  tensors = safetensors.numpy.load_file(path)
  safetensors.numpy.save_file(change(tensors), path)


def check_logits(directory):
  """Logits within 1e-5 at several lengths, by both forms of the model."""
  model, params = huggingface.load(directory)
  saved = np.load(directory / 'logits.npz')
  tokens, expected = saved['tokens'].astype(np.int32), saved['logits']
  scale = np.abs(expected).max()
  for length in (1, 5, 16):
    cut = jnp.asarray(tokens[:, :length])
    with jax.default_matmul_precision('highest'):
      logits = transformer.apply(model, params, cut)
      runner = frozen_layers.Runner(model)
      W_U, b_U = transformer.unembedding(params)
      fast = runner.final_norm(params, cut) @ W_U + b_U[None, None]
    for ours in (logits, fast):
      theirs = expected[:, :length]
      np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(1, scale))
      np.testing.assert_array_equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.sampled(4)
@pytest.mark.parametrize('name', make.MODELS)
def test_logits_are_those_of_transformers(name):
  check_logits(make.HERE / name)


@pytest.mark.long
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason='needs the extra bench')
@pytest.mark.parametrize('name', make.MODELS)
def test_logits_of_other_weights_are_those_of_transformers(name, tmp_path):
  make.make(tmp_path, name, seed=1)
  check_logits(tmp_path)


@pytest.mark.long
@pytest.mark.skipif(not HAS_TRANSFORMERS, reason='needs the extra bench')
@pytest.mark.parametrize('name', make.MODELS)
def test_transformers_opens_what_is_written(name, tmp_path):
  # pyrefly: ignore[missing-import]
  import torch

  # pyrefly: ignore[missing-import]
  import transformers

  huggingface.save(tmp_path, *huggingface.load(make.HERE / name))
  model, report = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path, output_loading_info=True
  )
  assert not report['missing_keys'] and not report['unexpected_keys']
  saved = np.load(make.HERE / name / 'logits.npz')
  with torch.no_grad():
    logits = model(torch.tensor(saved['tokens'])).logits
  np.testing.assert_allclose(logits, saved['logits'], atol=1e-5)


@pytest.mark.parametrize('name', make.MODELS)
def test_export_gives_back_every_bit(name, tmp_path):
  """The weights, the tensors of the file, and what the config means."""
  model, params = huggingface.load(make.HERE / name)
  huggingface.save(tmp_path, model, params)
  again, same = huggingface.load(tmp_path)
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, same, params)
  theirs, ours = (
    safetensors.numpy.load_file(path / 'model.safetensors')
    for path in (make.HERE / name, tmp_path)
  )
  assert theirs.keys() == ours.keys()
  for key, tensor in theirs.items():
    np.testing.assert_array_equal(ours[key], tensor, err_msg=key)


@pytest.mark.parametrize('kind', small.KINDS)
def test_what_is_trained_here_can_be_exported(kind, tmp_path):
  model, params = small.KINDS[kind], small.random_params(small.KINDS[kind])
  if kind == 'shortformer':
    with pytest.raises(ValueError, match='Some family.*shortformer'):
      huggingface.save(tmp_path, model, params)
    return
  if kind in ('gpt2', 'neo', 'neox'):  # There, heads share the stream.
    with pytest.raises(ValueError, match='Some family'):
      huggingface.save(tmp_path, model, params)
    return
  huggingface.save(tmp_path, model, params)
  again, same = huggingface.load(tmp_path)
  assert again == model
  jax.tree.map(np.testing.assert_array_equal, same, params)


def test_weights_of_another_shape_are_not_written(tmp_path):
  model, params = huggingface.load(make.HERE / 'llama')
  params['embed']['W_E'] = params['embed']['W_E'][1:]
  with pytest.raises(ValueError, match=r'W_E.*\(23, 8\), got \(22, 8\)'):
    huggingface.save(tmp_path, model, params)
  assert not list(tmp_path.glob('*'))


REFUSED = {
  'another model_type': ('gpt2', {'model_type': 'bloom'}, "'bloom'"),
  'no model_type': ('gpt2', {'model_type': None}, 'None'),
  'an unknown key': ('gpt2', {'alibi': True}, 'alibi: True'),
  'an encoder': ('gpt2', {'add_cross_attention': True}, 'add_cross_attention'),
  'an activation': ('gpt2', {'activation_function': 'xielu'}, 'xielu'),
  'soft caps': ('llama', {'final_logit_softcapping': 30.0}, 'softcapping'),
  'experts': ('llama', {'num_local_experts': 8}, 'num_local_experts'),
  'windows': ('qwen2', {'use_sliding_window': True}, 'use_sliding_window'),
  'layers with windows': (
    'qwen3',
    {'layer_types': ['sliding_attention', 'full_attention']},
    'sliding_attention',
  ),
  'scaled rotation': (
    'llama',
    {'rope_parameters': {'rope_type': 'yarn', 'factor': 2.0}},
    "'yarn'",
  ),
  'half a rotation': (
    'llama',
    {'rope_parameters': {'partial_rotary_factor': 0.5}},
    'partial_rotary_factor',
  ),
  'a key of rotation': (
    'llama',
    {'rope_parameters': {'attention_factor': 0.5}},
    'attention_factor',
  ),
  'no size': ('llama', {'hidden_size': None}, 'hidden_size'),
  'a size that is none': ('llama', {'vocab_size': '23'}, "vocab_size.*'23'"),
  'kinds of attention': (
    'gpt_neo',
    {'attention_layers': ['global', 'sparse', 'local']},
    'sparse',
  ),
  'another shape': (
    'llama',
    {'intermediate_size': 11},
    r'\[8, 11\].*\[8, 10\]',
  ),
  'more layers': ('llama', {'num_hidden_layers': 3}, 'got no layers.2'),
  'fewer layers': ('llama', {'num_hidden_layers': 1}, r'got layers\.1'),
  'tied': ('llama', {'tie_word_embeddings': True}, 'must be the embedding'),
  'untied': ('qwen3', {'tie_word_embeddings': False}, 'got no lm_head.weight'),
}


@pytest.mark.parametrize(
  ('name', 'keys', 'message'), REFUSED.values(), ids=REFUSED
)
def test_what_is_not_computed_is_refused_by_name(copied, name, keys, message):
  directory = copied(name)
  config_with(directory, **keys)
  with pytest.raises(ValueError, match=message) as error:
    huggingface.load(directory)
  assert '\n' not in str(error.value)
  assert str(directory) in str(error.value)


def test_old_names_of_keys_mean_the_same(copied):
  """As hub files of Pythia and Llama 3.2 have them."""
  directory = copied('gpt_neox')
  model = huggingface.load_config(directory)[1]
  keys = {'rope_parameters': None, 'rotary_pct': 0.5, 'rotary_emb_base': 50}
  config_with(directory, **keys)
  assert huggingface.load_config(directory)[1] == model
  directory = copied('llama3')
  model = huggingface.load_config(directory)[1]
  keys = json.loads((directory / 'config.json').read_text())['rope_parameters']
  base = keys.pop('rope_theta')
  config_with(
    directory, rope_parameters=None, rope_theta=base, rope_scaling=keys
  )
  assert huggingface.load_config(directory)[1] == model


DAMAGES = {
  'no config': (
    lambda d: (d / 'config.json').unlink(),
    'config.json; got none',
  ),
  'half a config': (
    lambda d: (d / 'config.json').write_text('{"model_type": "gp'),
    'must be a JSON file',
  ),
  'no weights': (
    lambda d: (d / 'model.safetensors').unlink(),
    'must hold model.safetensors',
  ),
  'half the weights': (
    lambda d: (d / 'model.safetensors').write_bytes(
      (d / 'model.safetensors').read_bytes()[:-100]
    ),
    'whole safetensors file',
  ),
  'a tensor more': (
    lambda d: tensors_with(d, lambda t: t | {'transformer.x': np.zeros(3)}),
    r'got x \[3\]',
  ),
  'a tensor less': (
    lambda d: tensors_with(
      d, lambda t: {k: x for k, x in t.items() if 'ln_f.bias' not in k}
    ),
    'got no ln_f.bias',
  ),
  'half precision': (
    lambda d: tensors_with(
      d, lambda t: {k: x.astype(ml_dtypes.bfloat16) for k, x in t.items()}
    ),
    "bfloat16.*dtype='float32'",
  ),
  'whole numbers': (
    lambda d: tensors_with(
      d, lambda t: t | {'transformer.ln_f.bias': np.zeros(8, np.int8)}
    ),
    'int8 in ln_f.bias',
  ),
}


@pytest.mark.parametrize(('damage', 'message'), DAMAGES.values(), ids=DAMAGES)
def test_damaged_directories_are_refused(copied, damage, message):
  directory = copied('gpt2')
  damage(directory)
  with pytest.raises(ValueError, match=message) as error:
    huggingface.load(directory)
  assert str(directory) in str(error.value)


@pytest.mark.parametrize('half', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_if_asked_for(copied, half):
  directory = copied('gpt2')
  rounded = lambda tree: jax.tree.map(lambda x: x.astype(half), tree)
  tensors_with(directory, rounded)
  _, params = huggingface.load(directory, dtype='float32')
  _, exact = huggingface.load(make.HERE / 'gpt2')
  jax.tree.map(np.testing.assert_array_equal, params, rounded(exact))
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
  assert dtypes == {np.dtype('float32')}


def test_shards_and_old_names_are_read(copied):
  """Two files with an index; no prefix; buffers of masks."""
  directory = copied('gpt2')
  path = directory / 'model.safetensors'
  tensors = {
    name.removeprefix('transformer.'): x
    for name, x in safetensors.numpy.load_file(path).items()
  }
  tensors['h.0.attn.bias'] = np.ones((1, 1, 16, 16), np.uint8)
  path.unlink()
  names = sorted(tensors)
  shards = {'a.safetensors': names[:9], 'b.safetensors': names[9:]}
  for file, held in shards.items():
    safetensors.numpy.save_file({n: tensors[n] for n in held}, directory / file)
  index = {name: file for file, held in shards.items() for name in held}
  (directory / 'model.safetensors.index.json').write_text(
    json.dumps({'weight_map': index})
  )
  _, params = huggingface.load(directory)
  jax.tree.map(
    np.testing.assert_array_equal,
    params,
    huggingface.load(make.HERE / 'gpt2')[1],
  )
  (directory / 'b.safetensors').unlink()
  with pytest.raises(ValueError, match='got no b.safetensors'):
    huggingface.load(directory)


def test_an_unembedding_beside_tied_weights_must_be_the_same(copied):
  directory = copied('gpt2')
  embedding = lambda t: t['transformer.wte.weight']
  tensors_with(directory, lambda t: t | {'lm_head.weight': embedding(t).copy()})
  huggingface.load(directory)
  tensors_with(directory, lambda t: t | {'lm_head.weight': embedding(t) + 1})
  with pytest.raises(ValueError, match='tie_word_embeddings'):
    huggingface.load(directory)


class TestTrajectory:
  def directories(self, tmp_path, steps=(1, 512, 0)):
    model, params = huggingface.load(make.HERE / 'gpt_neox')
    for step in steps:
      moved = jax.tree.map(lambda leaf, n=step: leaf + n, params)
      huggingface.save(tmp_path / f'step{step}', model, moved)
    return model, params

  def test_checkpoints_are_loaded_by_step(self, tmp_path):
    model, params = self.directories(tmp_path)
    found, trajectory = huggingface.trajectory([*tmp_path.glob('step*')])
    assert found == model
    assert trajectory.steps == [0, 1, 512]
    stacked = trajectory.load([512, 0])
    jax.tree.map(
      lambda leaf, w: np.testing.assert_array_equal(leaf, [w + 512, w]),
      stacked,
      params,
    )
    prints = {trajectory.fingerprint(step) for step in trajectory.steps}
    assert len(prints) == 3

  def test_files_must_stay_as_they_are(self, tmp_path):
    model, params = self.directories(tmp_path)
    _, trajectory = huggingface.trajectory([*tmp_path.glob('step*')])
    trajectory.fingerprint(1)
    assert trajectory.load([1])
    huggingface.save(tmp_path / 'step1', model, params)
    with pytest.raises(ValueError, match='step1 must stay as it is'):
      trajectory.load([1])

  def test_weights_must_be_finite(self, tmp_path):
    model, params = self.directories(tmp_path)
    params['embed']['W_E'][3] = np.nan
    huggingface.save(tmp_path / 'step7', model, params)
    _, trajectory = huggingface.trajectory([*tmp_path.glob('step*')])
    for ask in (trajectory.fingerprint, lambda step: trajectory.load([step])):
      with pytest.raises(ValueError, match='step7.*finite.*W_E'):
        ask(7)

  def test_other_directories_are_refused(self, tmp_path):
    self.directories(tmp_path)
    with pytest.raises(ValueError, match='no directory'):
      huggingface.trajectory([])
    with pytest.raises(ValueError, match='training step.*got main'):
      huggingface.trajectory([tmp_path / 'main'])
    with pytest.raises(ValueError, match='one directory'):
      huggingface.trajectory([tmp_path / 'step1', tmp_path / 'old' / 'step1'])
    shutil.copytree(make.HERE / 'llama', tmp_path / 'step9')
    with pytest.raises(ValueError, match='one architecture.*step9.*step0'):
      huggingface.trajectory([*tmp_path.glob('step*')])


def test_an_architecture_goes_through_json():
  for model in small.KINDS.values():
    text = json.dumps(architecture.to_json(model))
    assert architecture.Architecture(**json.loads(text)) == model
    assert trees.size(model.shapes()) == model.num_weights
