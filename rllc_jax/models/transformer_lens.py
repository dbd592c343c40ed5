"""Models of TransformerLens: a state dict and its configuration.

  from transformer_lens import HookedTransformer
  lens = HookedTransformer.from_pretrained_no_processing('gelu-2l')
  architecture, params = transformer_lens.load(lens.state_dict(), lens.cfg)

Weights must be unprocessed: a folded LayerNorm or centered weights are other
coordinates of the same function, in which an rLLC is another number.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

import numpy as np

from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import tensor_files

Architecture = architectures.Architecture

_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'relu': 'relu',
  'silu': 'silu',
}
_POSITIONS = {
  'standard': 'learned',
  'shortformer': 'shortformer',
  'rotary': 'rotary',
}
_NORMS = {'LN': 'layer', 'RMS': 'rms'}
# Features that are not computed here, and the value that is none of them.
_ABSENT = {
  'attention_dir': 'causal',
  'attn_scores_soft_cap': -1.0,
  'num_experts': None,
  'output_logits_soft_cap': -1.0,
  'post_embedding_ln': False,
  'rotary_adjacent_pairs': False,
  'rotary_base_local': None,
  'use_NTK_by_parts_rope': False,
  'use_normalization_before_and_after': False,
}
_BUFFERS = re.compile(
  r'blocks\.\d+\.attn\.(mask|IGNORE|rotary_sin|rotary_cos)|.*\.hook_.*'
)


def load(
  state_dict: Mapping[str, Any], config: Any, *, dtype: str | None = None
) -> tuple[Architecture, types.Params]:
  """The architecture and the weights of a model.

  Where embeddings are tied, TransformerLens keeps two copies: here each moves
  alone.

  Args:
    state_dict: of the model; tensors, or arrays.
    config: its `cfg`, or a dict of it.
    dtype: 'float32' to widen weights in half precision.

  Returns:
    (architecture, params), float32 NumPy arrays.

  Raises:
    ValueError: if the model computes what is not computed here, its weights
      were processed, or some are missing, surplus or of another shape.
  """
  config = config if isinstance(config, Mapping) else vars(config)
  architecture = _architecture(config)
  params: dict = {}
  for name, tensor in state_dict.items():
    if _BUFFERS.fullmatch(name):
      continue
    if architecture.gated and name.endswith('.mlp.b_in'):
      _check_no_bias(name, tensor)
      continue
    *keys, leaf = name.replace('blocks.', 'blocks_').split('.')
    node = params
    for key in keys:
      node = node.setdefault(key, {})
    # Leaves of grouped queries have a mark.
    array = tensor_files.as_numpy(tensor)
    node[leaf.removeprefix('_')] = tensor_files.as_float32(name, array, dtype)
  architectures.check_params(architecture, params)
  return architecture, params


def _check_no_bias(name: str, tensor: Any) -> None:
  # There it is added to the product with the gate, which no model does.
  if np.any(tensor_files.as_numpy(tensor)):
    raise ValueError(
      f'{name} must be 0 in an MLP with a gate, because it is added there to '
      'the hidden layer, which is not computed here; got other numbers.'
    )


def _architecture(config: Mapping[str, Any]) -> Architecture:
  L, H = config['n_layers'], config['n_heads']
  E, D = config['d_head'], config['d_model']
  for name, value in _ABSENT.items():
    if config.get(name, value) != value:
      raise ValueError(
        f'cfg.{name} must be {value!r}, because no other is computed here; got '
        f'{config[name]!r}.'
      )
  norm = _choice(config, 'normalization_type', _NORMS)
  positions = _choice(config, 'positional_embedding_type', _POSITIONS)
  rotary = None
  if positions == 'rotary':
    base = float(config.get('rotary_base', 1e4))
    rotary = architectures.Rotary(config['rotary_dim'] or E, base)
  is_attention_only = config.get('attn_only', False)
  without = ('b_gate', 'b_in') if config.get('gated_mlp') else ('b_gate',)
  sizes = dict(num_layers=L, num_heads=H, d_model=D, d_head=E)
  return Architecture(
    **sizes,
    context_length=config['n_ctx'],
    vocab_size=config['d_vocab'],
    num_kv_heads=config.get('n_key_value_heads') or 0,
    d_mlp=0 if is_attention_only else config['d_mlp'],
    gated=config.get('gated_mlp', False),
    activation='gelu'
    if is_attention_only
    else _choice(config, 'act_fn', _ACTIVATIONS),
    parallel=config.get('parallel_attn_mlp', False) and not is_attention_only,
    positions=positions,
    rotary=rotary,
    norm=norm,
    norm_epsilon=config.get('eps', 1e-5),
    norm_heads=config.get('use_qk_norm', False),
    biases=tuple(b for b in architectures.BIASES if b not in without),
    score_divisors=_divisors(config, L, E),
    windows=_windows(config, L),
  )


def _choice(config, name, choices) -> str:
  value = config.get(name)
  if value not in choices:
    hint = ''
    if name == 'normalization_type' and str(value).endswith('Pre'):
      hint = (
        ' Its gains and biases were folded into other weights: load the model '
        'with from_pretrained_no_processing.'
      )
    raise ValueError(
      f'cfg.{name} must be one of {", ".join(choices)}, because no other is '
      f'computed here; got {value!r}.{hint}'
    )
  return choices[value]


def _divisors(config, num_layers, d_head) -> tuple[float, ...]:
  if not config.get('use_attn_scale', True):
    divisor = 1.0
  else:
    given = config.get('attn_scale', -1.0)
    divisor = given if given > 0 else math.sqrt(d_head)
  by_layer = config.get('scale_attn_by_inverse_layer_idx', False)
  divisors = [divisor * (i + 1 if by_layer else 1) for i in range(num_layers)]
  usual = all(math.isclose(x, math.sqrt(d_head)) for x in divisors)
  return () if usual else tuple(divisors)


def _windows(config, num_layers) -> tuple[int, ...]:
  if not config.get('use_local_attn', False):
    return ()
  is_local = [kind == 'local' for kind in config['attn_types']]
  return tuple(config['window_size'] * x for x in is_local[:num_layers])
