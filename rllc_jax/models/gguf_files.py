"""Models of Llama's kind in GGUF files, those of llama.cpp.

Weights there are quantized in most files; they are widened to float32 and keep
their rounding, so such a model is no exact minimum of any loss. The package
`gguf` reads them (extra `models`).
"""

import pathlib
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers

from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import tensor_layouts

Architecture = architectures.Architecture

# Names there, and those of Hugging Face's tensors.
_CONTROL = 3  # The kind of special tokens.
_NAMES = {
  'token_embd.weight': 'embed_tokens.weight',
  'output_norm.weight': 'norm.weight',
  'output.weight': 'lm_head.weight',
}
_NAMES_OF_BLOCK = {
  'attn_norm': 'input_layernorm',
  'ffn_norm': 'post_attention_layernorm',
  'attn_q': 'self_attn.q_proj',
  'attn_k': 'self_attn.k_proj',
  'attn_v': 'self_attn.v_proj',
  'attn_output': 'self_attn.o_proj',
  'ffn_gate': 'mlp.gate_proj',
  'ffn_up': 'mlp.up_proj',
  'ffn_down': 'mlp.down_proj',
}


def load(path: str | pathlib.Path) -> tuple[Architecture, types.Params]:
  """Loads a Llama, such as SmolLM2, from a GGUF file.

  Raises:
    ValueError: if `gguf` is not installed, the model is of another kind, or
      tensors are missing or surplus.
  """
  reader = _reader(path)
  names = {tensor.name for tensor in reader.tensors}
  architecture = _architecture(reader, 'output.weight' not in names)
  shape = architecture.vocab_size, architecture.d_model
  unembedding = tensor_layouts.transposed(
    'lm_head.weight', shape, ('unembed', 'W_U')
  )
  tensors = [*tensor_layouts.llama(architecture), unembedding]
  left = {
    tensor.name: tensor
    for tensor in tensor_layouts.present(tensors, architecture)
  }
  params: dict = {}
  for stored in reader.tensors:
    name = _name(stored.name)
    if name not in left:
      raise ValueError(
        f'{path} must hold the tensors of a Llama, because one that is not may '
        f'change what the model computes; got {stored.name}.'
      )
    dequantize = _package(path).quants.dequantize
    array = dequantize(stored.data, stored.tensor_type).astype(np.float32)
    if name.endswith(('q_proj.weight', 'k_proj.weight')):
      array = _halves(array, architecture.d_head)
    tensor_layouts.put(params, left.pop(name), array)
  if left:
    raise ValueError(f'{path} must hold all tensors; got no {min(left)}.')
  return architecture, params


def _reader(path) -> Any:
  return _package(path).GGUFReader(path)


def _package(path) -> Any:
  try:
    # pyrefly: ignore[missing-import]
    import gguf  # Optional: only these files need it.
  except ImportError as error:
    raise ValueError(
      f'{path} needs the package gguf to be read, which is not installed. '
      'Install rllc_jax[models].'
    ) from error
  return gguf


def _architecture(reader, is_tied: bool) -> Architecture:
  kind = _field(reader, 'general.architecture')
  if kind != 'llama':
    raise ValueError(
      "general.architecture must be 'llama', because no other is read here; "
      f'got {kind!r}.'
    )
  known = lambda name: _field(reader, f'llama.{name}')
  for name in reader.fields:
    if name.startswith('llama.rope.scaling'):
      raise ValueError(f'Scaled rotary positions are not read; got {name}.')
  heads, width = known('attention.head_count'), known('embedding_length')
  dims = known('rope.dimension_count')
  return Architecture(
    num_layers=known('block_count'),
    num_heads=heads,
    d_model=width,
    d_head=dims,
    context_length=known('context_length'),
    vocab_size=known('vocab_size'),
    num_kv_heads=known('attention.head_count_kv'),
    d_mlp=known('feed_forward_length'),
    gated=True,
    activation='silu',
    positions='rotary',
    rotary=architectures.Rotary(dims, float(known('rope.freq_base'))),
    norm='rms',
    norm_epsilon=known('attention.layer_norm_rms_epsilon'),
    tied=is_tied,
    biases=(),
  )


def _field(reader, name: str) -> Any:
  if name not in reader.fields:
    raise ValueError(f'A model must have the field {name}; got none.')
  return reader.fields[name].contents()


def _name(name: str) -> str:
  """The name of a tensor in Hugging Face's files."""
  if not name.startswith('blk.'):
    return _NAMES.get(name, name)
  _, layer, kind, leaf = name.split('.')
  return f'layers.{layer}.{_NAMES_OF_BLOCK.get(kind, kind)}.{leaf}'


def _halves(matrix: np.ndarray, d_head: int) -> np.ndarray:
  """Rows of heads in two halves that turn together; in files, in pairs."""
  pairs = matrix.reshape(-1, d_head // 2, 2, matrix.shape[1])
  return pairs.swapaxes(1, 2).reshape(matrix.shape)


def tokenizer(path: str | pathlib.Path) -> tokenizers.Tokenizer:
  """The byte-pair tokenizer of a model in a GGUF file.

  Digits stand alone, as SmolLM's do.

  Raises:
    ValueError: if the file has another kind.
  """
  reader = _reader(path)
  kinds = [_field(reader, f'tokenizer.ggml.{x}') for x in ('model', 'pre')]
  if kinds != ['gpt2', 'smollm']:
    raise ValueError(f'The tokenizer must be that of SmolLM; got {kinds}.')
  words = _field(reader, 'tokenizer.ggml.tokens')
  merges = _field(reader, 'tokenizer.ggml.merges')
  pairs = [tuple(merge.split(' ')) for merge in merges]
  bpe = models.BPE({word: i for i, word in enumerate(words)}, pairs)
  result = tokenizers.Tokenizer(bpe)
  result.pre_tokenizer = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]
  )
  result.decoder = decoders.ByteLevel()
  kinds = _field(reader, 'tokenizer.ggml.token_type')
  pairs_of = zip(words, kinds, strict=True)
  result.add_special_tokens([x for x, kind in pairs_of if kind == _CONTROL])
  return result
