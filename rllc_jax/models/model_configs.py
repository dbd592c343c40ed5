"""Architectures from the `config.json` of Hugging Face's models, and back.

Every key is used, is known to have no effect on what the model computes, or is
refused: a feature that is not computed must not pass in silence.
"""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

from rllc_jax.models import architecture as architectures
from rllc_jax.models import tensor_layouts

Architecture = architectures.Architecture
Config = dict[str, Any]

_ACTIVATIONS = {
  'gelu': 'gelu',
  'gelu_new': 'gelu_tanh',
  'gelu_fast': 'gelu_tanh',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
}
# Training, generation, other tasks' heads, files: nothing that logits read.
_WITHOUT_EFFECT = frozenset(
  """
  _attn_implementation_autoset _name_or_path architectures attention_dropout
  attn_pdrop auto_map bad_words_ids begin_suppress_tokens bos_token_id
  chunk_size_feed_forward classifier_dropout condition_on_chain
  condition_on_species decoder_start_token_id
  diversity_penalty do_sample dtype early_stopping embd_pdrop embed_dropout
  encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
  finetuning_task forced_bos_token_id forced_eos_token_id
  gradient_checkpointing hidden_dropout id2label initializer_range is_decoder
  is_encoder_decoder keys_to_ignore_at_inference label2id length_penalty
  max_length min_length n_ctx no_repeat_ngram_size num_beam_groups num_beams
  num_return_sequences output_attentions output_hidden_states output_scores
  pad_token_id prefix pretraining_tp problem_type remove_invalid_values
  reorder_and_upcast_attn repetition_penalty resid_dropout resid_pdrop
  return_dict return_dict_in_generate sep_token_id summary_activation
  summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
  suppress_tokens task_specific_params temperature tf_legacy_loss
  tokenizer_class top_k top_p torch_dtype torchscript transformers_version
  transformers.js_config typical_p unk_token_id use_bfloat16 use_cache
  """.split()
)


class _Reader:
  """Takes keys out of a config, and remembers which were taken."""

  def __init__(self, config: Config):
    self._config = config
    self._taken = {'model_type'}

  def take(self, *names: str, default: Any = None, needed: bool = False) -> Any:
    """The value of the first of some names that is there and not null."""
    self._taken |= {*names}
    for name in names:
      if self._config.get(name) is not None:
        return self._config[name]
    if needed:
      raise ValueError(
        f'config.json must have {names[0]}, because the model is not known '
        'without; got none.'
      )
    return default

  def size(self, *names: str) -> int:
    """A positive whole number that must be there."""
    value = self.take(*names, needed=True)
    if not isinstance(value, int) or value < 1:
      raise ValueError(
        f'config.json must have a positive whole number as {names[0]}; got '
        f'{value!r}.'
      )
    return value

  def must_be(self, name: str, expected: Any, why: str) -> None:
    """Refuses a feature that is not computed here."""
    value = self.take(name, default=expected)
    if value != expected:
      raise ValueError(
        f'config.json must have {name} {expected!r}, because {why}; got '
        f'{value!r}.'
      )

  def activation(self, *names: str, default: str) -> str:
    """One of `architecture.ACTIVATIONS`."""
    value = self.take(*names, default=default)
    if value not in _ACTIVATIONS:
      raise ValueError(
        f'config.json must have as {names[0]} one of '
        f'{", ".join(_ACTIVATIONS)}; got {value!r}.'
      )
    return _ACTIVATIONS[value]

  def check_all_taken(self) -> None:
    """Raises if a key is left that may change what the model computes."""
    left = self._config.keys() - self._taken - _WITHOUT_EFFECT
    if left:
      name = min(left)
      raise ValueError(
        'config.json must hold keys alone that are known here, because one '
        'that is not may change what the model computes; got '
        f'{name}: {self._config[name]!r:.80}.'
      )


class Family(NamedTuple):
  """A kind of model.

  Attributes:
    read: its architecture, from a config.
    write: a config of an architecture; it may be of another one, where this
      kind of model cannot compute it.
    tensors: of the files, by architecture, but for the unembedding.
    prefix: of the names of these tensors.
    unembedding: the name of that tensor.
    buffers: a regular expression: tensors that hold no weights.
  """

  read: Callable[[_Reader], Architecture]
  write: Callable[[Architecture], Config]
  tensors: Callable[[Architecture], list[tensor_layouts.Tensor]]
  prefix: str
  unembedding: str
  buffers: str


def read(config: Config) -> tuple[Family, Architecture]:
  """The family and the architecture of a config.

  Raises:
    ValueError: if the model is of another family, or computes what is not
      computed here.
  """
  model_type = config.get('model_type')
  if model_type not in FAMILIES:
    raise ValueError(
      f'config.json must have a model_type of {", ".join(FAMILIES)}; got '
      f'{model_type!r}. Other models: rllc_jax.parts, with any loss.'
    )
  family, reader = FAMILIES[model_type], _Reader(config)
  architecture = family.read(reader)
  reader.check_all_taken()
  return family, architecture


def write(architecture: Architecture) -> tuple[Family, Config]:
  """A family that computes an architecture, and its config.

  Raises:
    ValueError: if none does.
  """
  for model_type, family in FAMILIES.items():
    config = {'model_type': model_type, **family.write(architecture)}
    try:
      if family.read(_Reader(config)) == architecture:
        return family, config
    except ValueError:
      continue  # Of another family.
  raise ValueError(
    f'Some family of {", ".join(FAMILIES)} must compute what the model does, '
    f'to be written for it; got {architecture}.'
  )


# GPT-2.

_GPT2_BIASES = ('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out')


def _read_gpt2(config: _Reader) -> Architecture:
  D, H = config.size('n_embd'), config.size('n_head')
  L, E = config.size('n_layer'), _width(D, H)
  config.must_be('add_cross_attention', False, 'there is no encoder here')
  is_scaled = config.take('scale_attn_weights', default=True)
  divisor = math.sqrt(E) if is_scaled else 1.0
  by_layer = config.take('scale_attn_by_inverse_layer_idx', default=False)
  return Architecture(
    num_layers=L,
    num_heads=H,
    d_model=D,
    d_head=E,
    context_length=config.size('n_positions'),
    vocab_size=config.size('vocab_size'),
    d_mlp=config.take('n_inner', default=4 * D),
    activation=config.activation('activation_function', default='gelu_new'),
    positions='learned',
    norm_epsilon=config.take('layer_norm_epsilon', default=1e-5),
    tied=config.take('tie_word_embeddings', default=True),
    score_divisors=_divisors(
      [divisor * (i + 1 if by_layer else 1) for i in range(L)], E
    ),
    biases=_GPT2_BIASES,
  )


def _write_gpt2(a: Architecture) -> Config:
  divisors = [a.score_divisor(i) for i in range(a.num_layers)]
  return {
    **_heads_and_text(a, 'n_embd', 'n_head', 'n_layer', 'n_positions'),
    'n_inner': a.d_mlp,
    'activation_function': _activation_name(a),
    'layer_norm_epsilon': a.norm_epsilon,
    'scale_attn_weights': divisors[0] != 1.0,
    'scale_attn_by_inverse_layer_idx': divisors[-1] != divisors[0],
  }


# GPT-NeoX.


def _read_gpt_neox(config: _Reader) -> Architecture:
  D, H = config.size('hidden_size'), config.size('num_attention_heads')
  has_bias = config.take('attention_bias', default=True)
  heads = ('b_Q', 'b_K', 'b_V', 'b_O') if has_bias else ()
  return Architecture(
    num_layers=config.size('num_hidden_layers'),
    num_heads=H,
    d_model=D,
    d_head=_width(D, H),
    context_length=config.size('max_position_embeddings'),
    vocab_size=config.size('vocab_size'),
    d_mlp=config.size('intermediate_size'),
    activation=config.activation('hidden_act', default='gelu'),
    parallel=config.take('use_parallel_residual', default=True),
    positions='rotary',
    rotary=_rotary(config, _width(D, H), 0.25),
    norm_epsilon=config.take('layer_norm_eps', default=1e-5),
    tied=config.take('tie_word_embeddings', default=False),
    biases=(*heads, 'b_in', 'b_out'),
  )


def _write_gpt_neox(a: Architecture) -> Config:
  return {
    **_heads_and_text(a, *_LLAMA_NAMES),
    'intermediate_size': a.d_mlp,
    'hidden_act': _activation_name(a),
    'use_parallel_residual': a.parallel,
    'layer_norm_eps': a.norm_epsilon,
    'attention_bias': 'b_Q' in a.biases,
    **_rotary_keys(a, partial=True),
  }


# GPT-Neo.


def _read_gpt_neo(config: _Reader) -> Architecture:
  D, H = config.size('hidden_size'), config.size('num_heads')
  L, window = config.size('num_layers'), config.take('window_size', default=256)
  patterns = config.take('attention_types', default=[[['global', 'local'], 12]])
  expanded = [x for pattern, times in patterns for x in list(pattern) * times]
  kinds = config.take('attention_layers', default=expanded)
  if len(kinds) != L or {*kinds} - {'global', 'local'}:
    raise ValueError(
      f"config.json must name 'global' or 'local' attention for each of {L} "
      f'layers; got {kinds!r:.80}.'
    )
  windows = tuple(window if kind == 'local' else 0 for kind in kinds)
  return Architecture(
    num_layers=L,
    num_heads=H,
    d_model=D,
    d_head=_width(D, H),
    context_length=config.size('max_position_embeddings'),
    vocab_size=config.size('vocab_size'),
    d_mlp=config.take('intermediate_size', default=4 * D),
    activation=config.activation('activation_function', default='gelu_new'),
    positions='learned',
    norm_epsilon=config.take('layer_norm_epsilon', default=1e-5),
    tied=config.take('tie_word_embeddings', default=True),
    score_divisors=_divisors([1.0] * L, _width(D, H)),
    windows=windows if any(windows) else (),
    biases=('b_O', 'b_in', 'b_out'),
  )


def _write_gpt_neo(a: Architecture) -> Config:
  windows = [a.window(i) for i in range(a.num_layers)]
  kinds = ['local' if window else 'global' for window in windows]
  return {
    **_heads_and_text(
      a, 'hidden_size', 'num_heads', 'num_layers', 'max_position_embeddings'
    ),
    'intermediate_size': a.d_mlp,
    'activation_function': _activation_name(a),
    'layer_norm_epsilon': a.norm_epsilon,
    'attention_types': [[[kind], 1] for kind in kinds],
    'window_size': max(windows) or 256,
  }


# Llama and its kin.

_LLAMA_NAMES = (
  'hidden_size',
  'num_attention_heads',
  'num_hidden_layers',
  'max_position_embeddings',
)


def _read_llama(
  config: _Reader, biases: tuple[str, ...], *, norm_heads: bool = False
) -> Architecture:
  D, H = config.size('hidden_size'), config.size('num_attention_heads')
  E = config.take('head_dim', default=0) or _width(D, H)
  return Architecture(
    num_layers=config.size('num_hidden_layers'),
    num_heads=H,
    d_model=D,
    d_head=E,
    context_length=config.size('max_position_embeddings'),
    vocab_size=config.size('vocab_size'),
    num_kv_heads=config.take('num_key_value_heads', default=H),
    d_mlp=config.size('intermediate_size'),
    gated=True,
    activation=config.activation('hidden_act', default='silu'),
    positions='rotary',
    rotary=_rotary(config, E),
    norm='rms',
    norm_epsilon=config.take('rms_norm_eps', default=1e-6),
    norm_heads=norm_heads,
    tied=config.take('tie_word_embeddings', default=False),
    biases=biases,
  )


def _read_llama_itself(config: _Reader) -> Architecture:
  biases: tuple[str, ...] = ()
  if config.take('attention_bias', default=False):
    biases += ('b_Q', 'b_K', 'b_V', 'b_O')
  if config.take('mlp_bias', default=False):
    biases += ('b_in', 'b_gate', 'b_out')
  return _read_llama(config, biases)


def _read_qwen2(config: _Reader) -> Architecture:
  _refuse_windows(config)
  return _read_llama(config, ('b_Q', 'b_K', 'b_V'))


def _read_qwen3(config: _Reader) -> Architecture:
  _refuse_windows(config)
  has_bias = config.take('attention_bias', default=False)
  biases = ('b_Q', 'b_K', 'b_V', 'b_O') if has_bias else ()
  return _read_llama(config, biases, norm_heads=True)


def _refuse_windows(config: _Reader) -> None:
  why = 'windows of Qwen are not computed here'
  config.must_be('use_sliding_window', False, why)
  config.take('sliding_window', 'max_window_layers')
  for kind in config.take('layer_types', default=()):
    if kind != 'full_attention':
      raise ValueError(
        f'config.json must have layer_types full_attention, because {why}; got '
        f'{kind!r}.'
      )


def _write_llama(a: Architecture) -> Config:
  return {
    **_heads_and_text(a, *_LLAMA_NAMES),
    'head_dim': a.d_head,
    'num_key_value_heads': a.kv_heads,
    'intermediate_size': a.d_mlp,
    'hidden_act': _activation_name(a),
    'rms_norm_eps': a.norm_epsilon,
    **_rotary_keys(a),
  }


def _write_llama_itself(a: Architecture) -> Config:
  return _write_llama(a) | {
    'attention_bias': 'b_O' in a.biases,
    'mlp_bias': 'b_in' in a.biases,
  }


def _write_qwen3(a: Architecture) -> Config:
  return _write_llama(a) | {'attention_bias': 'b_O' in a.biases}


# What several families share.


def _heads_and_text(
  a: Architecture, width: str, heads: str, layers: str, length: str
) -> dict[str, Any]:
  """Keys of sizes, by the names that a family has for them."""
  return {
    width: a.d_model,
    heads: a.num_heads,
    layers: a.num_layers,
    length: a.context_length,
    'vocab_size': a.vocab_size,
    'tie_word_embeddings': a.tied,
  }


def _width(d_model: int, num_heads: int) -> int:
  """The width of a head, where heads divide the stream."""
  if d_model % num_heads:
    raise ValueError(
      'config.json must have a width that is a multiple of its heads, because '
      f'each has its share; got {d_model} and {num_heads}.'
    )
  return d_model // num_heads


def _divisors(divisors: list[float], d_head: int) -> tuple[float, ...]:
  """None if they are the usual ones."""
  usual = all(x == math.sqrt(d_head) for x in divisors)
  return () if usual else tuple(divisors)


def _activation_name(a: Architecture) -> str:
  return next(x for x, name in _ACTIVATIONS.items() if name == a.activation)


def _rotary(
  config: _Reader, d_head: int, share: float = 1.0
) -> architectures.Rotary:
  """Rotary positions, by the keys of old and new configs."""
  keys = {
    'rope_theta': config.take('rope_theta', 'rotary_emb_base', default=1e4),
    'partial_rotary_factor': config.take('rotary_pct', default=share),
    **config.take('rope_scaling', default={}),
    **config.take('rope_parameters', default={}),
  }
  reader = _Reader(keys)
  kind = reader.take('rope_type', 'type', default='default')
  if kind not in _SCALINGS:
    raise ValueError(
      f'config.json must have rotary positions of type {", ".join(_SCALINGS)}, '
      f'because others are not computed here; got {kind!r}.'
    )
  if share == 1.0:
    why = 'heads of this kind of model turn as a whole'
    reader.must_be('partial_rotary_factor', 1.0, why)
  rotary = architectures.Rotary(
    int(d_head * reader.take('partial_rotary_factor')),
    float(reader.take('rope_theta')),
    **_SCALINGS[kind](reader),
  )
  reader.check_all_taken()
  return rotary


def _llama3(reader: _Reader) -> dict[str, Any]:
  number = lambda name: float(reader.take(name, needed=True))
  return {
    'factor': number('factor'),
    'range_of_turns': (number('low_freq_factor'), number('high_freq_factor')),
    'pretrained_length': reader.size('original_max_position_embeddings'),
  }


_SCALINGS: dict[str, Callable[[_Reader], dict[str, Any]]] = {
  'default': lambda reader: {},
  'linear': lambda reader: {
    'factor': float(reader.take('factor', needed=True))
  },
  'llama3': _llama3,
}


def _rotary_keys(a: Architecture, *, partial: bool = False) -> dict[str, Any]:
  """What `_rotary` reads."""
  if a.rotary is None:
    return {}
  keys: dict[str, Any] = {'rope_theta': a.rotary.base, 'rope_type': 'default'}
  if partial:
    keys['partial_rotary_factor'] = a.rotary.num_dims / a.d_head
  if a.rotary.range_of_turns:
    low, high = a.rotary.range_of_turns
    keys |= {
      'rope_type': 'llama3',
      'factor': a.rotary.factor,
      'low_freq_factor': low,
      'high_freq_factor': high,
      'original_max_position_embeddings': a.rotary.pretrained_length,
    }
  elif a.rotary.factor != 1.0:
    keys |= {'rope_type': 'linear', 'factor': a.rotary.factor}
  return {'rope_parameters': keys}


FAMILIES = {
  'gpt2': Family(
    _read_gpt2,
    _write_gpt2,
    tensor_layouts.gpt2,
    'transformer.',
    'lm_head.weight',
    r'h\.\d+\.attn\.(bias|masked_bias)',
  ),
  'gpt_neox': Family(
    _read_gpt_neox,
    _write_gpt_neox,
    tensor_layouts.gpt_neox,
    'gpt_neox.',
    'embed_out.weight',
    r'layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)',
  ),
  'gpt_neo': Family(
    _read_gpt_neo,
    _write_gpt_neo,
    tensor_layouts.gpt_neo,
    'transformer.',
    'lm_head.weight',
    r'h\.\d+\.attn\.attention\.(bias|masked_bias)',
  ),
  'llama': Family(
    _read_llama_itself,
    _write_llama_itself,
    tensor_layouts.llama,
    'model.',
    'lm_head.weight',
    r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',
  ),
  'qwen2': Family(
    _read_qwen2,
    _write_llama,
    tensor_layouts.llama,
    'model.',
    'lm_head.weight',
    r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',
  ),
  'qwen3': Family(
    _read_qwen3,
    _write_qwen3,
    tensor_layouts.llama,
    'model.',
    'lm_head.weight',
    r'layers\.\d+\.self_attn\.rotary_emb\.inv_freq',
  ),
}
