"""Weight refinements: which coordinates of a model a chain may move.

A refinement splits the weights as W = U x V and holds V at the checkpoint (Wang
et al., "Differentiation and Specialization of Attention Heads via the Refined
Local Learning Coefficient", ICLR 2025, https://arxiv.org/abs/2410.02984). Here
it is a lens onto U: noise, distances and dimension then count the coordinates
that move and nothing else, and a chain holds one head, not one model.

One grammar of names, for models whose weights are named as in TransformerLens:

  all  embed  unembed        every weight; W_E; W_U and b_U
  0                          every weight of block 0, its LayerNorm included
  0:attn                     its attention: all heads and b_O
  0:3                        its head 3: W_Q W_K W_V W_O b_Q b_K b_V, those of
                             the biases that there are
  0:1+0:4                    a union, sorted, of parts that do not overlap

Names are coordinates of the results and addresses of the noise. Refinements
that differ in head numbers alone form a family, written 0:*, and share one
compiled program.

Names are read from keys and shapes alone. They do not say how a model computes:
weights trained with other positions have the same names.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types

HEAD_WEIGHTS = ('W_Q', 'W_K', 'W_V', 'W_O', 'b_Q', 'b_K', 'b_V')


@functools.lru_cache(maxsize=64)
def refine(loss_fn: types.LossFn, lens: types.Lens) -> types.RefinedLoss:
  """The two halves of any loss: nothing is shared but the loss at w*.

  Args:
    loss_fn: `loss_fn(params, batch) -> []`. What else it reads, a global say,
      is compiled in with its first value. Its attribute `check`, if it has one,
      becomes that of the loss.
    lens: which weights move.
  """

  def context(params, batch):
    return (params, batch), loss_fn(params, batch)

  def loss(position, context, index):
    params, batch = context
    return loss_fn(lens.insert(position, params, index), batch)

  check = getattr(loss_fn, 'check', None)
  return types.RefinedLoss(context, loss, check=check)


# Lenses. Cached, so that one lens is one function and programs are found again.


@functools.cache
def all_weights() -> types.Lens:
  """Leaves every weight free: the ordinary LLC."""
  return types.Lens(
    extract=lambda params, index: params,
    insert=lambda position, params, index: position,
  )


@functools.cache
def subtree(*path: str) -> types.Lens:
  """Frees every weight below `path`, a sequence of dictionary keys."""

  def extract(params, index):
    del index
    return functools.reduce(lambda tree, key: tree[key], path, params)

  def insert(position, params, index):
    return _replace(params, path, lambda _: position)

  return types.Lens(extract, insert)


@functools.cache
def attention_head(layer: int) -> types.Lens:
  """Frees one attention head; the index is its number and may be traced.

  The leaves that have a head axis move, seven where there are biases. b_O,
  which all heads share, the LayerNorms and the positions do not.
  """
  path = (f'blocks_{layer}', 'attn')

  def extract(params, head):
    attention = subtree(*path).extract(params, ())
    return {name: attention[name][head] for name in _head_weights(attention)}

  def insert(position, params, head):
    def put(attention):
      moved = {
        name: attention[name].at[head].set(position[name])
        for name in _head_weights(attention)
      }
      return {**attention, **moved}

    return _replace(params, path, put)

  return types.Lens(extract, insert)


@functools.cache
def within(lens: types.Lens, *path: str) -> types.Lens:
  """The same lens, onto the part of larger params that lies at `path`."""
  part = subtree(*path)

  def extract(params, index):
    return lens.extract(part.extract(params, ()), index)

  def insert(position, params, index):
    model = lens.insert(position, part.extract(params, ()), index)
    return part.insert(model, params, ())

  return types.Lens(extract, insert)


@functools.cache
def union(*lenses: types.Lens) -> types.Lens:
  """Frees several disjoint parts at once; positions and indices are tuples."""

  def extract(params, indices):
    pairs = zip(lenses, indices, strict=True)
    return tuple(lens.extract(params, index) for lens, index in pairs)

  def insert(positions, params, indices):
    for lens, position, index in zip(lenses, positions, indices, strict=True):
      params = lens.insert(position, params, index)
    return params

  return types.Lens(extract, insert)


def mask_of(
  lens: types.Lens, index: types.Index, params: types.Params
) -> types.PyTree:
  """The boolean tree, like `params`, of what a lens frees: for optax, say."""
  zeros = jax.tree.map(jnp.zeros_like, params)
  ones = jax.tree.map(jnp.ones_like, lens.extract(params, index))
  return jax.tree.map(lambda x: x == 1, lens.insert(ones, zeros, index))


# The grammar of names.


class _Part(NamedTuple):
  """One term of a name, ordered as terms are sorted."""

  path: tuple[str, ...]
  head: int  # -1: no single head.
  name: str


def head_names(params: types.Params) -> tuple[str, ...]:
  """The names of all heads, by layer, then by number.

  Args:
    params: the weights of a model, or their shapes.

  Raises:
    ValueError: if there are no blocks with attention, or the weights of a block
      disagree on how many heads it has.

  Examples:
    >>> attn = {name: jnp.zeros((2, 4, 4)) for name in HEAD_WEIGHTS}
    >>> head_names({'blocks_0': {'attn': attn}})
    ('0:0', '0:1')
  """
  layers = [n for n in _layers(params) if _attention(params, n) is not None]
  if not layers:
    raise ValueError(_no_blocks(params))
  return tuple(
    f'{layer}:{head}'
    for layer in layers
    for head in range(_num_heads(params, layer))
  )


def canonical_name(name: str, params: types.Params) -> str:
  """Sorts a union and drops spaces, so that one refinement has one name.

  Raises:
    ValueError: if a part does not exist (naming those that do), holds no
      numbers, or overlaps another.
  """
  return '+'.join(part.name for part in _parse(name, params))


def families(
  names: Sequence[str],
  params: types.Params,
  loss_fn: types.LossFn,
  factored: Mapping[str, types.RefinedLoss] | None = None,
  *,
  path: Sequence[str] = (),
) -> tuple[types.Refinements, ...]:
  """Groups named refinements into families, one compiled program each.

  Args:
    names: in the grammar of this module; unions in any order.
    params: the weights of the model, or their shapes.
    loss_fn: `loss_fn(params, batch) -> []`, for families without a faster one.
    factored: two-half losses by family, such as {'0:*': ...}; see
      `models.factored.head_losses`.
    path: where the model lies in the params that the losses see, ('model',)
      beside a reference; the whole by default.

  Returns:
    Families in the order of their first member, names canonical.

  Raises:
    ValueError: if a name is unknown or frees nothing, two names mean one
      refinement, or a head is asked for where weights of a block disagree on
      how many heads it has.
  """
  members: dict[str, list[tuple[_Part, ...]]] = {}
  for name in names:
    parts = _parse(name, params)
    family = '+'.join(_family(part) for part in parts)
    if parts in members.setdefault(family, []):
      raise ValueError(
        'Each refinement must be named once, because names are coordinates of '
        f'the results; got {name!r} again.'
      )
    members[family].append(parts)
  return tuple(
    _refinements(family, group, loss_fn, factored or {}, tuple(path))
    for family, group in members.items()
  )


def _refinements(family, group, loss_fn, factored, path):
  lenses = [_lens(part) for part in group[0]]
  heads = np.array([[part.head for part in parts] for parts in group], np.int32)
  indices = tuple(jnp.asarray(column) for column in heads.T)
  lens = lenses[0] if len(lenses) == 1 else union(*lenses)
  lens = within(lens, *path) if path else lens
  return types.Refinements(
    names=tuple('+'.join(part.name for part in parts) for parts in group),
    lens=lens,
    indices=indices[0] if len(lenses) == 1 else indices,
    loss=factored.get(family) or refine(loss_fn, lens),
  )


def _lens(part: _Part) -> types.Lens:
  if part.name == 'all':
    return all_weights()
  if part.head < 0:
    return subtree(*part.path)
  return attention_head(int(part.name.split(':')[0]))


def _family(part: _Part) -> str:
  return part.name if part.head < 0 else part.name.split(':')[0] + ':*'


def _parse(name: str, params: types.Params) -> tuple[_Part, ...]:
  parts = sorted(_part(term, params) for term in name.split('+'))
  for i, a in enumerate(parts):
    for b in parts[i + 1 :]:
      if _overlap(a, b):
        raise ValueError(
          'The parts of a union must not overlap, because each weight moves '
          f'once; got {a.name} and {b.name} in {name!r}.'
        )
  return tuple(parts)


def _part(term: str, params: types.Params) -> _Part:
  term = term.strip()
  part = _known_part(term, params)
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


def _known_part(term: str, params: types.Params) -> _Part | None:
  """The part that a term names; None if there is none."""
  if term in _wholes(params):
    return _Part(() if term == 'all' else (term,), -1, term)
  match = re.fullmatch(r'(\d+)(?::(attn|\d+))?', term)
  if not match or int(match[1]) not in _layers(params):
    return None
  layer, block = int(match[1]), f'blocks_{int(match[1])}'
  if match[2] is None:
    return _Part((block,), -1, f'{layer}')
  if _attention(params, layer) is None:
    return None
  if match[2] == 'attn':
    return _Part((block, 'attn'), -1, f'{layer}:attn')
  head = int(match[2])
  if head >= _num_heads(params, layer):
    return None  # Reading clamps such a number and writing drops it.
  return _Part((block, 'attn'), head, f'{layer}:{head}')


def _unknown(term: str, params: types.Params) -> str:
  """Names the parts that there are, for a message."""
  layers = _layers(params)
  attentions = [n for n in layers if _attention(params, n) is not None]
  known = [*_wholes(params), *map(str, layers)]
  known += [f'{layer}:attn' for layer in attentions]
  for layer in attentions:
    with contextlib.suppress(ValueError):  # Of heads that have no names.
      known += [f'{layer}:{n}' for n in range(_num_heads(params, layer))]
  return (
    'A refinement must name a part of the model, one of '
    f'{", ".join(known)}, or a union like 0:0+0:1'
  )


def _overlap(a: _Part, b: _Part) -> bool:
  shared = min(len(a.path), len(b.path))
  if a.path[:shared] != b.path[:shared]:
    return False
  return a.head < 0 or b.head < 0 or a.head == b.head


# What names are read from.


def _wholes(params: types.Params) -> list[str]:
  tables = ('embed', 'unembed')
  return ['all', *(name for name in tables if name in _keys(params))]


def _keys(params: types.Params) -> list:
  return list(params) if isinstance(params, Mapping) else []


def _layers(params: types.Params) -> list[int]:
  """The numbers of the blocks, ascending."""
  matches = (
    re.fullmatch(r'blocks_(0|[1-9]\d*)', str(key)) for key in _keys(params)
  )
  return sorted(int(match[1]) for match in matches if match)


def _attention(params: types.Params, layer: int) -> types.PyTree | None:
  """The attention of a block; None if it has none."""
  block = params[f'blocks_{layer}']
  return block['attn'] if 'attn' in _keys(block) else None


def _head_weights(attention: types.PyTree) -> list[str]:
  """The leaves with a head axis: four matrices, and the biases there are."""
  matrices, biases = HEAD_WEIGHTS[:4], HEAD_WEIGHTS[4:]
  return [*matrices, *(name for name in biases if name in attention)]


def _num_heads(params: types.Params, layer: int) -> int:
  """Counts the heads of a block: the one leading axis of all their weights.

  Raises:
    ValueError: if a matrix is missing or leading axes differ.
  """
  attention = params[f'blocks_{layer}']['attn']
  _check_matrices(_keys(attention), layer)
  shapes = {
    name: np.shape(attention[name]) for name in _head_weights(attention)
  }
  counts = {shape[0] if shape else 'none' for shape in shapes.values()}
  if len(counts) > 1:
    counted = (
      f'{name} with {shape[0] if shape else "none"}'
      for name, shape in shapes.items()
    )
    raise ValueError(
      'The weights of heads must share one leading axis, because head h is row '
      f'h of each; in block {layer} got {", ".join(counted)}. Name the whole, '
      f'{layer}:attn, or free grouped queries by a lens of your own, '
      'rllc_jax.Lens(extract, insert).'
    )
  return shapes['W_Q'][0]


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
  """Says which weights have names of heads, what came instead, what helps."""
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
  """Keys in words, not more than a few; the type of what has none."""
  if not keys:
    name = type(node).__name__
    return 'an empty dict' if isinstance(node, Mapping) else f'a {name}'
  more = f' and {len(keys) - most} more' if len(keys) > most else ''
  return f'the keys {", ".join(map(repr, keys[:most]))}{more}'


def _replace(tree, path, change):
  if not path:
    return change(tree)
  key, *rest = path
  return {**tree, key: _replace(tree[key], rest, change)}
