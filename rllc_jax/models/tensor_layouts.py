"""The tensors of Hugging Face's models, and how they hold our weights.

A `Linear` of PyTorch holds the transpose of a matrix here, a `Conv1D` (GPT-2)
the matrix itself. Heads lie one after another along one axis.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
from typing import NamedTuple

import numpy as np

from rllc_jax import types
from rllc_jax.models import architecture as architectures

Architecture = architectures.Architecture
Path = tuple[str, ...]

# Shapes: V tokens, D = d_model, E = d_head, F = d_mlp, H query heads, K key and
# value heads, n any of the latter two.


class Tensor(NamedTuple):
  """A tensor of a file, and the weights that it holds.

  Attributes:
    name: in the file, without the prefix of the model.
    shape: in the file.
    paths: of the weights, keys of the nested dict.
    split: the weights, from the tensor.
    join: the tensor, from the weights.
  """

  name: str
  shape: tuple[int, ...]
  paths: tuple[Path, ...]
  split: Callable[[np.ndarray], Sequence[np.ndarray]]
  join: Callable[..., np.ndarray]


def _one(name, shape, path, load, save) -> Tensor:
  return Tensor(name, shape, (path,), lambda x: [load(x)], save)


def same(name: str, shape: tuple[int, ...], path: Path) -> Tensor:
  """A tensor that is a weight as it is."""
  return _one(name, shape, path, lambda x: x, lambda w: w)


def transposed(name: str, shape: tuple[int, int], path: Path) -> Tensor:
  """A matrix of a Linear."""
  return _one(name, shape, path, lambda x: x.T, lambda w: w.T)


def reading_heads(name: str, shape: tuple[int, int], path: Path, n: int):
  """A Linear [n E, D] that heads read by: [n, D, E]."""
  D = shape[1]
  load = lambda x: x.reshape(n, -1, D).transpose(0, 2, 1)
  save = lambda w: w.transpose(0, 2, 1).reshape(-1, D)
  return _one(name, shape, path, load, save)


def writing_heads(name: str, shape: tuple[int, int], path: Path, n: int):
  """A Linear [D, n E] that heads write by: [n, E, D]."""
  load = lambda x: x.T.reshape(n, -1, shape[0])
  save = lambda w: w.reshape(-1, shape[0]).T
  return _one(name, shape, path, load, save)


def rows_of_heads(name: str, shape: tuple[int, ...], path: Path, n: int):
  """A bias [n E], or a Conv1D [n E, D], as [n, E, ...]."""
  load = lambda x: x.reshape(n, -1, *x.shape[1:])
  return _one(name, shape, path, load, lambda w: w.reshape(shape))


def fused(
  name: str,
  shape: tuple[int, ...],
  paths: Sequence[Path],
  sizes: Sequence[int],
  order: Sequence[int],
) -> Tensor:
  """Queries, keys and values of all heads in one tensor.

  Args:
    name: of the tensor.
    shape: of the tensor.
    paths: of W_Q, W_K, W_V, or of the biases.
    sizes: of the tensor's axes once heads and kinds are apart.
    order: of these axes that leads to [3, H, ...].
  """
  back = np.argsort(order)
  split = lambda x: list(x.reshape(sizes).transpose(order))
  join = lambda *w: np.stack(w).transpose(back).reshape(shape)
  return Tensor(name, shape, tuple(paths), split, join)


def _norm(theirs: str, ours: Path, architecture: Architecture) -> list[Tensor]:
  names = {'weight': 'w'}
  if architecture.norm == 'layer':
    names['bias'] = 'b'
  shape = (architecture.d_model,)
  return [same(f'{theirs}.{a}', shape, (*ours, b)) for a, b in names.items()]


def gpt2(a: Architecture) -> list[Tensor]:
  """Tensors of GPT-2, whose matrices are Conv1D."""
  H, D, E, F = a.num_heads, a.d_model, a.d_head, a.d_mlp
  tensors = [
    same('wte.weight', (a.vocab_size, D), ('embed', 'W_E')),
    same('wpe.weight', (a.context_length, D), ('pos_embed', 'W_pos')),
    *_norm('ln_f', ('ln_final',), a),
  ]
  for i in range(a.num_layers):
    h, block = f'h.{i}.', f'blocks_{i}'
    of = lambda *keys, block=block: (block, *keys)
    W = [of('attn', f'W_{x}') for x in 'QKV']
    b = [of('attn', f'b_{x}') for x in 'QKV']
    qkv, out = f'{h}attn.c_attn.', f'{h}attn.c_proj.'
    tensors += [
      *_norm(f'{h}ln_1', of('ln1'), a),
      *_norm(f'{h}ln_2', of('ln2'), a),
      fused(f'{qkv}weight', (D, 3 * D), W, (D, 3, H, E), (1, 2, 0, 3)),
      fused(f'{qkv}bias', (3 * D,), b, (3, H, E), (0, 1, 2)),
      rows_of_heads(f'{out}weight', (D, D), of('attn', 'W_O'), H),
      same(f'{out}bias', (D,), of('attn', 'b_O')),
      same(f'{h}mlp.c_fc.weight', (D, F), of('mlp', 'W_in')),
      same(f'{h}mlp.c_fc.bias', (F,), of('mlp', 'b_in')),
      same(f'{h}mlp.c_proj.weight', (F, D), of('mlp', 'W_out')),
      same(f'{h}mlp.c_proj.bias', (D,), of('mlp', 'b_out')),
    ]
  return tensors


def gpt_neox(a: Architecture) -> list[Tensor]:
  """Tensors of GPT-NeoX, Pythia among them."""
  H, D, E, F = a.num_heads, a.d_model, a.d_head, a.d_mlp
  tensors = [
    same('embed_in.weight', (a.vocab_size, D), ('embed', 'W_E')),
    *_norm('final_layer_norm', ('ln_final',), a),
  ]
  for i in range(a.num_layers):
    layer, block = f'layers.{i}.', f'blocks_{i}'
    of = lambda *keys, block=block: (block, *keys)
    W = [of('attn', f'W_{x}') for x in 'QKV']
    b = [of('attn', f'b_{x}') for x in 'QKV']
    qkv = f'{layer}attention.query_key_value.'
    out = f'{layer}attention.dense.'
    up, down = f'{layer}mlp.dense_h_to_4h.', f'{layer}mlp.dense_4h_to_h.'
    tensors += [
      *_norm(f'{layer}input_layernorm', of('ln1'), a),
      *_norm(f'{layer}post_attention_layernorm', of('ln2'), a),
      fused(f'{qkv}weight', (3 * D, D), W, (H, 3, E, D), (1, 0, 3, 2)),
      fused(f'{qkv}bias', (3 * D,), b, (H, 3, E), (1, 0, 2)),
      writing_heads(f'{out}weight', (D, D), of('attn', 'W_O'), H),
      same(f'{out}bias', (D,), of('attn', 'b_O')),
      transposed(f'{up}weight', (F, D), of('mlp', 'W_in')),
      same(f'{up}bias', (F,), of('mlp', 'b_in')),
      transposed(f'{down}weight', (D, F), of('mlp', 'W_out')),
      same(f'{down}bias', (D,), of('mlp', 'b_out')),
    ]
  return tensors


def _separate_heads(theirs: Mapping[str, str], block: str, a: Architecture):
  """Queries, keys, values and output of a layer in Linears of their own."""
  D, E = a.d_model, a.d_head
  count = {'Q': a.num_heads, 'K': a.kv_heads, 'V': a.kv_heads}
  tensors = []
  for x, n in count.items():
    path, name = (block, 'attn', f'W_{x}'), theirs[x]
    bias = (block, 'attn', f'b_{x}')
    tensors.append(reading_heads(f'{name}.weight', (n * E, D), path, n))
    tensors.append(rows_of_heads(f'{name}.bias', (n * E,), bias, n))
  n, out = a.num_heads, theirs['O']
  return [
    *tensors,
    writing_heads(f'{out}.weight', (D, n * E), (block, 'attn', 'W_O'), n),
    same(f'{out}.bias', (D,), (block, 'attn', 'b_O')),
  ]


def gpt_neo(a: Architecture) -> list[Tensor]:
  """Tensors of GPT-Neo, TinyStories among them."""
  D, F = a.d_model, a.d_mlp
  tensors = [
    same('wte.weight', (a.vocab_size, D), ('embed', 'W_E')),
    same('wpe.weight', (a.context_length, D), ('pos_embed', 'W_pos')),
    *_norm('ln_f', ('ln_final',), a),
  ]
  for i in range(a.num_layers):
    h, block = f'h.{i}.', f'blocks_{i}'
    heads = {x: f'{h}attn.attention.{x.lower()}_proj' for x in 'QKV'}
    heads['O'] = f'{h}attn.attention.out_proj'
    tensors += [
      *_norm(f'{h}ln_1', (block, 'ln1'), a),
      *_norm(f'{h}ln_2', (block, 'ln2'), a),
      *_separate_heads(heads, block, a),
      transposed(f'{h}mlp.c_fc.weight', (F, D), (block, 'mlp', 'W_in')),
      same(f'{h}mlp.c_fc.bias', (F,), (block, 'mlp', 'b_in')),
      transposed(f'{h}mlp.c_proj.weight', (D, F), (block, 'mlp', 'W_out')),
      same(f'{h}mlp.c_proj.bias', (D,), (block, 'mlp', 'b_out')),
    ]
  return tensors


def llama(a: Architecture) -> list[Tensor]:
  """Tensors of Llama, Qwen2 and Qwen3."""
  D, E, F = a.d_model, a.d_head, a.d_mlp
  tensors = [
    same('embed_tokens.weight', (a.vocab_size, D), ('embed', 'W_E')),
    *_norm('norm', ('ln_final',), a),
  ]
  for i in range(a.num_layers):
    layer, block = f'layers.{i}.', f'blocks_{i}'
    heads = {x: f'{layer}self_attn.{x.lower()}_proj' for x in 'QKVO'}
    tensors += [
      *_norm(f'{layer}input_layernorm', (block, 'ln1'), a),
      *_norm(f'{layer}post_attention_layernorm', (block, 'ln2'), a),
      *_separate_heads(heads, block, a),
    ]
    for theirs, ours in (('gate', 'gate'), ('up', 'in'), ('down', 'out')):
      name = f'{layer}mlp.{theirs}_proj.'
      shape = (D, F) if ours == 'out' else (F, D)
      tensors += [
        transposed(f'{name}weight', shape, (block, 'mlp', f'W_{ours}')),
        same(f'{name}bias', shape[:1], (block, 'mlp', f'b_{ours}')),
      ]
    for x in 'qk':
      path = (block, 'attn', f'{x}_norm', 'w')
      tensors.append(same(f'{layer}self_attn.{x}_norm.weight', (E,), path))
  return tensors


def present(
  tensors: Sequence[Tensor], architecture: Architecture
) -> list[Tensor]:
  """Those of which an architecture has the weights."""
  shapes = architecture.shapes()
  return [x for x in tensors if _is_in(shapes, x.paths[0])]


def _is_in(tree: types.PyTree, path: Path) -> bool:
  try:
    functools.reduce(lambda node, key: node[key], path, tree)
  except KeyError:
    return False
  return True


def put(params: dict, tensor: Tensor, array: np.ndarray) -> None:
  """Puts the weights of a tensor into their places.

  Raises:
    ValueError: if it has another shape.
  """
  if array.shape != tensor.shape:
    raise ValueError(
      f'{tensor.name} must have the shape {list(tensor.shape)}, by '
      f'config.json; got {list(array.shape)}.'
    )
  for path, leaf in zip(tensor.paths, tensor.split(array), strict=True):
    node = functools.reduce(
      lambda tree, key: tree.setdefault(key, {}), path[:-1], params
    )
    node[path[-1]] = np.ascontiguousarray(leaf)
