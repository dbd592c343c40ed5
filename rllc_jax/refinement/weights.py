"""Weight refinements: lenses onto the coordinates that a chain may move.

A refinement splits the weights as W = U x V and holds V at the checkpoint (Wang
et al., "Differentiation and Specialization of Attention Heads via the Refined
Local Learning Coefficient", ICLR 2025, https://arxiv.org/abs/2410.02984). Here
it is a lens onto U: noise, distances and dimension then count the coordinates
that move and nothing else, and a chain stores one head, not one model.

Refinements have names, see `refinement.names`. Those that differ in head
numbers alone form a family, written 0:*, and share one compiled program.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.refinement import parts


# Cached by function: define a loss once, or it compiles anew.
@functools.lru_cache(maxsize=64)
def refine(loss_fn: types.LossFn, lens: types.Lens) -> types.RefinedLoss:
  """Splits any loss into two halves, which share only the loss at w*.

  Args:
    loss_fn: `loss_fn(params, batch) -> []`. Other values that it reads, such as
      a global, are compiled in with their first value. Its attribute `check`,
      if it has one, becomes that of the loss.
    lens: which weights move.
  """

  def context(params, batch):
    return (params, batch), loss_fn(params, batch)

  def loss(position, context, index):
    params, batch = context
    return loss_fn(lens.insert(position, params, index), batch)

  check = getattr(loss_fn, 'check', None)
  return types.RefinedLoss(context, loss, check=check)


# Lenses. Cached: programs are looked up by the identity of their functions, so
# an equal lens must be the same object.


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
  which all heads share, the norms and the positions do not. With grouped
  queries it moves the keys and values that it shares with others.
  """

  def rows(attention, name, head):
    leaf = attention[name]
    # As many query heads in a row share one of keys and values.
    return leaf, head // (len(attention['W_Q']) // len(leaf))

  return _lens_of_rows(layer, rows)


@functools.cache
def head_group(layer: int) -> types.Lens:
  """Frees the query heads that share a key and value head, and that one.

  The index is the number of the latter. Leaves of queries and outputs have a
  leading axis, [H / K, ...].
  """

  def rows(attention, name, group):
    leaf = attention[name]
    is_shared = len(leaf) == len(attention['W_K'])
    groups = (len(attention['W_K']), -1, *leaf.shape[1:])
    return leaf if is_shared else leaf.reshape(groups), group

  return _lens_of_rows(layer, rows)


def _lens_of_rows(layer: int, rows) -> types.Lens:
  """Frees one row of every leaf with a head axis.

  Args:
    layer: whose attention it is.
    rows: `rows(attention, name, index)`: the leaf, reshaped such that a row is
      what moves, and the row's number.
  """
  path = (f'blocks_{layer}', 'attn')

  def extract(params, index):
    attention = subtree(*path).extract(params, ())
    position = {}
    for name in parts.head_weights(attention):
      leaf, row = rows(attention, name, index)
      position[name] = leaf[row]
    return position

  def insert(position, params, index):
    def put(attention):
      moved = dict(attention)
      for name in parts.head_weights(attention):
        leaf, row = rows(attention, name, index)
        leaf = jnp.asarray(leaf).at[row].set(position[name])
        moved[name] = leaf.reshape(attention[name].shape)
      return moved

    return _replace(params, path, put)

  return types.Lens(extract, insert)


@functools.cache
def within(lens: types.Lens, *path: str) -> types.Lens:
  """Applies a lens to the part of larger params that lies at `path`."""
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
  """A boolean tree like `params`, True where a lens frees a weight."""
  # Found by writing: a lens need not know the places that it frees.
  zeros = jax.tree.map(jnp.zeros_like, params)
  ones = jax.tree.map(jnp.ones_like, lens.extract(params, index))
  return jax.tree.map(lambda x: x == 1, lens.insert(ones, zeros, index))


# Families by name; see `refinement.names`.


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
    names: see `refinement.names`; the terms of a union in any order.
    params: the weights of the model, or their shapes.
    loss_fn: `loss_fn(params, batch) -> []`, for families without a faster one.
    factored: two-half losses by family, such as {'0:*': ...}; see
      `models.factored.part_losses`.
    path: where the model lies in the params that the losses see, ('model',)
      beside a reference; the whole by default.

  Returns:
    Families in the order of their first member, names canonical.

  Raises:
    ValueError: if a name is unknown or frees nothing, two names mean one
      refinement, or a head is asked for where weights of a block disagree on
      how many heads it has.
  """
  members: dict[str, list[tuple[parts.Part, ...]]] = {}
  for name in names:
    terms = parts.parse(name, params)
    family = '+'.join(_family(part) for part in terms)
    if terms in members.setdefault(family, []):
      raise ValueError(
        'Each refinement must be named once, because names are coordinates of '
        f'the results; got {name!r} again.'
      )
    members[family].append(terms)
  return tuple(
    _refinements(family, group, loss_fn, factored or {}, tuple(path))
    for family, group in members.items()
  )


def _refinements(family, group, loss_fn, factored, path):
  lenses = [_lens(part) for part in group[0]]
  heads = np.array([[part.head for part in terms] for terms in group], np.int32)
  indices = tuple(jnp.asarray(column) for column in heads.T)
  lens = lenses[0] if len(lenses) == 1 else union(*lenses)
  lens = within(lens, *path) if path else lens
  return types.Refinements(
    names=tuple('+'.join(part.name for part in terms) for terms in group),
    lens=lens,
    indices=indices[0] if len(lenses) == 1 else indices,
    # A faster loss of the model if there is one.
    loss=factored.get(family) or refine(loss_fn, lens),
  )


def _lens(part: parts.Part) -> types.Lens:
  if part.name == 'all':
    return all_weights()
  if part.head < 0:
    return subtree(*part.path)
  lens = head_group if part.is_group else attention_head
  return lens(part.layer)


def _family(part: parts.Part) -> str:
  if part.head < 0:
    return part.name
  return f'{part.layer}:g*' if part.is_group else f'{part.layer}:*'


def _replace(tree, path, change):
  if not path:
    return change(tree)
  key, *rest = path
  return {**tree, key: _replace(tree[key], rest, change)}
