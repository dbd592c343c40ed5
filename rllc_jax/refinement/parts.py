"""Parts of a model by name: the places of their weights.

Names are read from keys and shapes alone, which do not show how a model
computes: weights trained with other positions have the same names. The grammar
is in `refinement.names`.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import re
from typing import NamedTuple

import jax
import numpy as np

from rllc_jax import types
from rllc_jax.refinement import names as grammar

HEAD_WEIGHTS = ('W_Q', 'W_K', 'W_V', 'W_O', 'b_Q', 'b_K', 'b_V')


class Part(NamedTuple):
  """One term of a name, ordered as terms are sorted.

  Attributes:
    path: keys down to the weights.
    head: the row of a head, or of a group of heads; -1 for neither.
    name: canonical.
    group: the row of its keys and values; -1 for no single one.
  """

  path: tuple[str, ...]
  head: int
  name: str
  group: int = -1

  @property
  def is_group(self) -> bool:
    """Whether it is a group of heads, and `head` the number of the group."""
    return self.head >= 0 and ':g' in self.name

  @property
  def layer(self) -> int:
    """The block of a head."""
    return int(self.path[0].removeprefix('blocks_'))


def head_names(params: types.Params) -> tuple[str, ...]:
  """Lists the names of all heads, by layer, then by number.

  Args:
    params: the weights of a model, or their shapes.

  Raises:
    ValueError: if there are no blocks with attention, or the weights of a block
      disagree on how many heads it has.

  Examples:
    >>> attn = {name: np.zeros((2, 4, 4)) for name in HEAD_WEIGHTS}
    >>> head_names({'blocks_0': {'attn': attn}})
    ('0:0', '0:1')
  """
  layers = [n for n in _layers(params) if _attention(params, n) is not None]
  if not layers:
    raise ValueError(_no_blocks(params))
  return tuple(
    f'{layer}:{head}'
    for layer in layers
    for head in range(_num_heads(params, layer)[0])
  )


def canonical_name(name: str, params: types.Params) -> str:
  """Sorts a union and drops spaces: one refinement has one name.

  Raises:
    ValueError: if a part does not exist (naming those that do), holds no
      numbers, or overlaps another.
  """
  return '+'.join(part.name for part in parse(name, params))


def parse(name: str, params: types.Params) -> tuple[Part, ...]:
  """Parses a name into the parts of its union, sorted.

  Raises:
    ValueError: if one does not exist (naming those that do), holds no numbers,
      or overlaps another.
  """
  # Sorted: 0:1+0:0 and 0:0+0:1 are one refinement, with one name.
  parts = sorted(_part(term, params) for term in name.split('+'))
  for i, a in enumerate(parts):
    for b in parts[i + 1 :]:
      if _overlap(a, b):
        raise ValueError(
          'The parts of a union must not overlap, because each weight moves '
          f'once; got {a.name} and {b.name} in {name!r}.'
        )
  return tuple(parts)


def _part(term: str, params: types.Params) -> Part:
  term = grammar.spelled(term)
  part = _find_part(term, params)
  if part is None:
    raise ValueError(
      f'{_unknown(term, params)}; got {term!r}.'
      if _layers(params)
      else _no_blocks(params)
    )
  freed = functools.reduce(lambda tree, key: tree[key], part.path, params)
  if all(0 in np.shape(leaf) for leaf in jax.tree.leaves(freed)):
    raise ValueError(
      'A refinement must free at least one weight, or there is nothing to '
      f'sample; got {term!r} of weights without numbers there.'
    )
  return part


def _find_part(term: str, params: types.Params) -> Part | None:
  """The part that a term names; None if the model lacks it."""
  if term in _wholes(params):
    return Part(() if term == 'all' else (term,), -1, term)
  match = grammar.IN_BLOCK.fullmatch(term)
  if not match or int(match[1]) not in _layers(params):
    return None
  layer, block = int(match[1]), f'blocks_{int(match[1])}'
  if match[2] is None:
    return Part((block,), -1, f'{layer}')
  if match[2] in ('attn', 'mlp'):
    is_there = match[2] in _keys(params[block])
    return (
      Part((block, match[2]), -1, f'{layer}:{match[2]}') if is_there else None
    )
  if _attention(params, layer) is None:
    return None
  return _part_of_attention(match[2], params, layer)


def _part_of_attention(
  term: str, params: types.Params, layer: int
) -> Part | None:
  """A head, 3, or a group of heads, g3; None if there is none of its number."""
  heads, groups = _num_heads(params, layer)
  path, number = (f'blocks_{layer}', 'attn'), int(term.removeprefix('g'))
  if term.startswith('g'):
    # Where each head has its own keys and values, a group is a head.
    if groups == heads or number >= groups:
      return None
    return Part(path, number, f'{layer}:g{number}', number)
  if number >= heads:
    return None  # JAX would clamp the index of a read and drop the write.
  return Part(path, number, f'{layer}:{number}', number * groups // heads)


def _unknown(term: str, params: types.Params) -> str:
  """Lists the parts of the model, for a message."""
  layers = _layers(params)
  available = [*_wholes(params), *map(str, layers)]
  for layer in layers:
    keys = _keys(params[f'blocks_{layer}'])
    available += [f'{layer}:{x}' for x in ('attn', 'mlp') if x in keys]
  for layer in (n for n in layers if _attention(params, n) is not None):
    with contextlib.suppress(ValueError):  # These heads have no names.
      heads, groups = _num_heads(params, layer)
      available += [f'{layer}:{n}' for n in range(heads)]
      if groups < heads:
        available += [f'{layer}:g{n}' for n in range(groups)]
  if term == 'unembed' and 'embed' in _keys(params):
    return (
      'A refinement must name weights of the model, and the unembedding of '
      'this one is its embedding (tied): name embed, which is both'
    )
  return (
    'A refinement must name a part of the model, one of '
    f'{", ".join(available)}, or a union like 0:0+0:1'
  )


def _overlap(a: Part, b: Part) -> bool:
  shared = min(len(a.path), len(b.path))
  if a.path[:shared] != b.path[:shared]:
    return False
  # Heads of one group share keys and values.
  return a.group < 0 or b.group < 0 or a.group == b.group


# Keys and shapes that names are read from.


def _wholes(params: types.Params) -> list[str]:
  tables = ('embed', 'pos_embed', 'unembed')
  return ['all', *(name for name in tables if name in _keys(params))]


def _keys(params: types.Params) -> list:
  return list(params) if isinstance(params, Mapping) else []


def _layers(params: types.Params) -> list[int]:
  """The numbers of the blocks, ascending."""
  # No leading zeros: blocks_01 would be a second key of layer 1.
  matches = (
    re.fullmatch(r'blocks_(0|[1-9]\d*)', str(key)) for key in _keys(params)
  )
  return sorted(int(match[1]) for match in matches if match)


def _attention(params: types.Params, layer: int) -> types.PyTree | None:
  """The attention of a block; None if it has none."""
  block = params[f'blocks_{layer}']
  return block['attn'] if 'attn' in _keys(block) else None


def head_weights(attention: types.PyTree) -> list[str]:
  """Names of leaves with a head axis: four matrices, and biases if present."""
  matrices, biases = HEAD_WEIGHTS[:4], HEAD_WEIGHTS[4:]
  return [*matrices, *(name for name in biases if name in attention)]


def _num_heads(params: types.Params, layer: int) -> tuple[int, int]:
  """Counts the query heads of a block, and its key and value heads.

  Raises:
    ValueError: if a matrix is missing or leading axes do not fit.
  """
  attention = params[f'blocks_{layer}']['attn']
  _check_matrices(_keys(attention), layer)
  shapes = {name: np.shape(attention[name]) for name in head_weights(attention)}
  rows = {n: shape[0] if shape else None for n, shape in shapes.items()}
  heads, groups = rows['W_Q'], rows['W_K']
  expected = {n: groups if n[2] in 'KV' else heads for n in rows}
  if not heads or not groups or rows != expected or heads % groups:
    counted = (
      f'{name} with {shape[0] if shape else "none"}'
      for name, shape in shapes.items()
    )
    raise ValueError(
      'The weights of heads must share one leading axis, because head h is row '
      'h of each; those of keys and values may have a divisor of it, shared by '
      f'as many in a row. In block {layer} got {", ".join(counted)}. Name '
      f'the whole, {layer}:attn, or free heads by a lens of your own, '
      'rllc_jax.Lens(extract, insert).'
    )
  return heads, groups


def _check_matrices(names: list[str], layer: int) -> None:
  missing = [name for name in HEAD_WEIGHTS[:4] if name not in names]
  if missing:
    raise ValueError(
      f'The attention of block {layer} must have W_Q, W_K, W_V and W_O, '
      f'because a head is a row of each; got no {", ".join(missing)} among '
      f'{_listed(names)}. Free such heads by a lens of your own, '
      'rllc_jax.Lens(extract, insert).'
    )


def _no_blocks(params: types.Params) -> str:
  """Message for weights without blocks, with a remedy."""
  return (
    'Weights must be nested dicts named as in TransformerLens, '
    "{'blocks_0': {'attn': {'W_Q': ...}}}, because names of heads are read "
    f'from them; got {_listed(_keys(params), params)}. {_remedy(params)}'
  )


def _remedy(params: types.Params) -> str:
  keys = _keys(params)
  if any(str(key).startswith('blocks.') for key in keys):
    return (
      'Nest a flat state dict, with `from flax import traverse_util`: '
      "`traverse_util.unflatten_dict({key.replace('blocks.', 'blocks_'): "
      "np.asarray(w) for key, w in params.items()}, sep='.')`."
    )
  for key in keys:
    if _layers(params[key]):
      return (
        f'Pass `params[{key!r}]`; if losses see the whole, give families '
        f'path=({key!r},).'
      )
  return (
    "Every model has the name 'all'; free parts of another one by a mask, or "
    'by a lens of your own, rllc_jax.Lens(extract, insert).'
  )


def _listed(keys: Sequence, node: types.PyTree = None, most: int = 8) -> str:
  """Lists the first few keys in words; without keys, the node's type."""
  if not keys:
    name = type(node).__name__
    return 'an empty dict' if isinstance(node, Mapping) else f'a {name}'
  more = f' and {len(keys) - most} more' if len(keys) > most else ''
  return f'the keys {", ".join(map(repr, keys[:most]))}{more}'
