"""Models of TransformerLens, logit by logit."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax.models import transformer
from rllc_jax.models import transformer_lens
from tests.models.transformer_lens import make


def saved(name):
  """The state dict and the configuration of a model."""
  config = json.loads((make.HERE / name / 'cfg.json').read_text())
  return dict(np.load(make.HERE / name / 'state_dict.npz')), config


@pytest.mark.sampled(3)
@pytest.mark.parametrize('name', make.MODELS)
def test_logits_are_those_of_transformer_lens(name):
  state_dict, config = saved(name)
  # Its cfg is an object.
  model, params = transformer_lens.load(
    state_dict, types.SimpleNamespace(**config)
  )
  arrays = np.load(make.HERE / name / 'logits.npz')
  tokens = jnp.asarray(arrays['tokens'].astype(np.int32))
  with jax.default_matmul_precision('highest'):
    logits = transformer.apply(model, params, tokens)
  np.testing.assert_allclose(logits, arrays['logits'], atol=1e-5)


REFUSED = {
  'folded': ('standard', {'normalization_type': 'LNPre'}, 'no_processing'),
  'soft caps': ('standard', {'output_logits_soft_cap': 30.0}, 'soft_cap'),
  'experts': ('standard', {'num_experts': 4}, 'num_experts'),
  'an activation': ('standard', {'act_fn': 'solu_ln'}, "act_fn.*'solu_ln'"),
  'positions': (
    'standard',
    {'positional_embedding_type': 'alibi'},
    "positional_embedding_type.*'alibi'",
  ),
  'pairs': ('parallel', {'rotary_adjacent_pairs': True}, 'adjacent_pairs'),
  'both ways': (
    'standard',
    {'attention_dir': 'bidirectional'},
    'attention_dir',
  ),
  'no MLP': ('standard', {'attn_only': True}, r"\['ln2'\].*expected none"),
  'more heads': ('standard', {'n_heads': 3}, r'W_K.*expected \(3, 8, 4\), got'),
}


@pytest.mark.parametrize(
  ('name', 'keys', 'message'), REFUSED.values(), ids=REFUSED
)
def test_what_is_not_computed_is_refused_by_name(name, keys, message):
  state_dict, config = saved(name)
  with pytest.raises(ValueError, match=message):
    transformer_lens.load(state_dict, config | keys)


def test_missing_and_surplus_weights_are_refused():
  state_dict, config = saved('standard')
  some = {key: w for key, w in state_dict.items() if 'ln1.w' not in key}
  with pytest.raises(ValueError, match=r"\['ln1'\]\['w'\] expected \(8,\)"):
    transformer_lens.load(some, config)
  with pytest.raises(ValueError, match='extra.*expected none'):
    transformer_lens.load(state_dict | {'extra.w': np.float32([1])}, config)


def test_a_bias_beside_a_gate_is_refused():
  state_dict, config = saved('grouped')
  state_dict['blocks.1.mlp.b_in'] = state_dict['blocks.1.mlp.b_in'] + 1
  with pytest.raises(ValueError, match=r'blocks\.1\.mlp\.b_in must be 0'):
    transformer_lens.load(state_dict, config)


def test_half_precision_is_widened_if_asked_for():
  state_dict, config = saved('standard')
  halves = {key: w.astype(np.float16) for key, w in state_dict.items()}
  with pytest.raises(ValueError, match="float16.*dtype='float32'"):
    transformer_lens.load(halves, config)
  _, params = transformer_lens.load(halves, config, dtype='float32')
  assert params['embed']['W_E'].dtype == np.float32
