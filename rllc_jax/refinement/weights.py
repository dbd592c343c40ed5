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
  0:3                        its head 3: W_Q W_K W_V W_O b_Q b_K b_V
  0:1+0:4                    a union, sorted, of parts that do not overlap

Names are coordinates of the results and addresses of the noise. Refinements
that differ in head numbers alone form a family, written 0:*, and share one
compiled program.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import re
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import types

HEAD_WEIGHTS = ('W_Q', 'W_K', 'W_V', 'W_O', 'b_Q', 'b_K', 'b_V')


@functools.lru_cache(maxsize=64)
def refine(loss_fn: types.LossFn, lens: types.Lens) -> types.RefinedLoss:
  """The two halves of any loss: nothing is shared but the loss at w*.

  Args:
    loss_fn: `loss_fn(params, batch) -> []`. What else it reads, a global say,
      is compiled in with its first value.
    lens: which weights move.
  """

  def context(params, batch):
    return (params, batch), loss_fn(params, batch)

  def loss(position, context, index):
    params, batch = context
    return loss_fn(lens.insert(position, params, index), batch)

  return types.RefinedLoss(context, loss)


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

  The seven leaves that have a head axis move. b_O, which all heads share, the
  LayerNorms and the positions do not.
  """
  path = (f'blocks_{layer}', 'attn')

  def extract(params, head):
    attention = subtree(*path).extract(params, ())
    return {name: attention[name][head] for name in HEAD_WEIGHTS}

  def insert(position, params, head):
    def put(attention):
      moved = {
        name: attention[name].at[head].set(position[name])
        for name in HEAD_WEIGHTS
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


@functools.cache
def coordinates() -> types.Lens:
  """Frees single numbers: the index is their places in `ravel_pytree` order.

  `mask_index` makes the index from a 0/1 tree. The position is a flat vector.
  """

  def extract(params, index):
    return ravel_pytree(params)[0][index]

  def insert(position, params, index):
    flat, unravel = ravel_pytree(params)
    return unravel(flat.at[index].set(position))

  return types.Lens(extract, insert)


def mask_index(mask: types.PyTree, params: types.Params) -> types.Array:
  """The index of `coordinates` that frees what `mask` marks, [d].

  Args:
    mask: a tree like `params` or like its upper part, whose leaves broadcast to
      the leaves there: 1 or True where a weight moves, 0 or False elsewhere.
    params: the weights.

  Raises:
    ValueError: if a mask value is neither 0 nor 1, or none is 1.

  Examples:
    >>> params = {'a': jnp.zeros(2), 'b': jnp.zeros((2, 2))}
    >>> mask = {'a': False, 'b': np.array([[0, 1], [1, 0]])}
    >>> print(mask_index(mask, params))
    [3 4]
  """
  spread = lambda m, leaf: np.broadcast_to(np.asarray(m), np.shape(leaf))
  full = jax.tree.map(
    lambda m, part: jax.tree.map(lambda leaf: spread(m, leaf), part),
    mask,
    params,
  )
  flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(full)])
  if not np.isin(flat, (0, 1)).all():
    raise ValueError(
      'A mask must hold 0 and 1 alone, because a weight moves or it does not; '
      f'got {flat[~np.isin(flat, (0, 1))][0]}.'
    )
  if not flat.any():
    raise ValueError(
      'A mask must free at least one weight, or there is nothing to sample; '
      f'got zeros alone, for {flat.size} weights.'
    )
  return jnp.asarray(np.flatnonzero(flat), jnp.int32)


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
  """
  return tuple(
    f'{layer}:{head}'
    for layer in range(_num_layers(params))
    for head in range(_num_heads(params, layer))
  )


def canonical_name(name: str, params: types.Params) -> str:
  """Sorts a union and drops spaces, so that one refinement has one name.

  Raises:
    ValueError: if a part does not exist (naming those that do) or two overlap.
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
    ValueError: if a name is unknown, or two names mean one refinement.
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
  whole = {'all': (), 'embed': ('embed',), 'unembed': ('unembed',)}
  if term == 'all' or (term in whole and term in params):
    return _Part(whole[term], -1, term)
  match = re.fullmatch(r'(\d+)(?::(attn|\d+))?', term)
  if match and int(match[1]) < _num_layers(params):
    layer, block = int(match[1]), f'blocks_{int(match[1])}'
    if match[2] is None:
      return _Part((block,), -1, f'{layer}')
    if match[2] == 'attn':
      return _Part((block, 'attn'), -1, f'{layer}:attn')
    if int(match[2]) < _num_heads(params, layer):
      head = int(match[2])
      return _Part((block, 'attn'), head, f'{layer}:{head}')
  layers = [str(layer) for layer in range(_num_layers(params))]
  known = [name for name in whole if name == 'all' or name in params]
  known += [*layers, *(f'{layer}:attn' for layer in layers)]
  raise ValueError(
    'A refinement must name a part of the model, one of '
    f'{", ".join((*known, *head_names(params)))}, or a union like 0:0+0:1; '
    f'got {term!r}.'
  )


def _overlap(a: _Part, b: _Part) -> bool:
  shared = min(len(a.path), len(b.path))
  if a.path[:shared] != b.path[:shared]:
    return False
  return a.head < 0 or b.head < 0 or a.head == b.head


def _num_layers(params: types.Params) -> int:
  return sum(key.startswith('blocks_') for key in params)


def _num_heads(params: types.Params, layer: int) -> int:
  return params[f'blocks_{layer}']['attn']['W_Q'].shape[0]


def _replace(tree, path, change):
  if not path:
    return change(tree)
  key, *rest = path
  return {**tree, key: _replace(tree[key], rest, change)}
