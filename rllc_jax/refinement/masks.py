"""Masks: trees of 0 and 1 that select the numbers of any model that move.

`mask_lens` makes a lens that reads and writes only the leaves that a mask
touches, so that a step costs as much as with a lens written by hand. A leaf is
replaced whole if all of it moves, sliced if what moves is a box (one head,
some columns), and scattered into otherwise.

Masks whose boxes and numbers of places agree share one lens, and so one
compiled program: the places themselves are in the index, which is traced.
"""

from collections.abc import Iterator
import functools
from typing import NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import types


class _Region(NamedTuple):
  """The part of one leaf that moves, without the places.

  Attributes:
    leaf: number of the leaf, as `jax.tree.leaves` counts.
    kind: 'whole', 'box' or 'places'.
    sizes: of a box along every axis; () otherwise.
  """

  leaf: int
  kind: str
  sizes: tuple[int, ...] = ()


def mask_lens(
  mask: types.PyTree, params: types.Params
) -> tuple[types.Lens, types.Index]:
  """Makes a lens that frees the numbers marked by a mask, and its index.

  Args:
    mask: a tree like `params` or like its upper part, whose leaves broadcast to
      the leaves there: 1 or True where a weight moves, 0 or False elsewhere.
    params: the weights, or their shapes.

  Returns:
    The lens and the index. The position is a tuple with an entry for each leaf
    of which something moves: all of it, a box of it, or a vector. Its numbers
    are in `ravel_pytree` order.

  Raises:
    ValueError: if the mask is no tree like the upper part of `params`, does not
      broadcast to a leaf, holds other values than 0 and 1, frees nothing, or
      frees a leaf that is neither float32 nor float64.

  Examples:
    >>> params = {'a': jnp.zeros(2), 'b': jnp.arange(6.0).reshape(3, 2)}
    >>> mask = {'a': False, 'b': np.array([[0, 1], [0, 1], [0, 0]])}
    >>> lens, index = mask_lens(mask, params)
    >>> print(lens.extract(params, index)[0].ravel())
    [1. 3.]
  """
  regions, index = [], []
  for number, (path, leaf, marks) in enumerate(_marked(mask, params)):
    if marks.any():
      check_dtype(path, leaf)
      kind, sizes, places = _region(marks)
      regions.append(_Region(number, kind, sizes))
      index.append(jnp.asarray(places, jnp.int32))
  _check_any(bool(regions), params)
  return _lens(tuple(regions)), tuple(index)


def _region(marks: np.ndarray) -> tuple[str, tuple[int, ...], np.ndarray]:
  """The kind of a leaf's region, the sizes of a box, and its places."""
  if marks.all():
    return 'whole', (), np.array(0)
  # The smallest box around the marks.
  axes = range(marks.ndim)
  spans = []
  for axis in axes:
    other_axes = tuple(x for x in axes if x != axis)
    occupied = np.flatnonzero(marks.any(axis=other_axes))
    spans.append(slice(occupied[0], occupied[-1] + 1))
  if marks[tuple(spans)].all():
    sizes = tuple(int(span.stop - span.start) for span in spans)
    return 'box', sizes, np.array([span.start for span in spans])
  return 'places', (), np.flatnonzero(marks)


@functools.cache
def _lens(regions: tuple[_Region, ...]) -> types.Lens:
  """Makes the lens of regions; cached, so that one structure compiles once."""

  def extract(params, index):
    leaves = jax.tree.leaves(params)
    pairs = zip(regions, index, strict=True)
    return tuple(_read(r, leaves[r.leaf], places) for r, places in pairs)

  def insert(position, params, index):
    leaves, structure = jax.tree.flatten(params)
    for r, part, places in zip(regions, position, index, strict=True):
      leaves[r.leaf] = _write(r, leaves[r.leaf], part, places)
    return structure.unflatten(leaves)

  return types.Lens(extract, insert)


def _read(region, leaf, places):
  leaf = jnp.asarray(leaf)
  if region.kind == 'whole':
    return leaf
  if region.kind == 'box':
    return jax.lax.dynamic_slice(leaf, tuple(places), region.sizes)
  return leaf.ravel()[places]


def _write(region, leaf, part, places):
  leaf = jnp.asarray(leaf)
  if region.kind == 'whole':
    return part
  if region.kind == 'box':
    return jax.lax.dynamic_update_slice(leaf, part, tuple(places))
  # Places are sorted and unique, which lets XLA scatter faster.
  flat = leaf.ravel().at[places]
  flat = flat.set(part, indices_are_sorted=True, unique_indices=True)
  return flat.reshape(leaf.shape)


@functools.cache
def coordinates() -> types.Lens:
  """Frees single numbers: the index is their places in `ravel_pytree` order.

  Every write ravels every weight: meant for small models, and for families of
  masks whose numbers lie in different leaves. The position is a flat vector.
  """

  def extract(params, index):
    # Measured: raveling all weights made a step twice as slow.
    return ravel_pytree(params)[0][index]

  def insert(position, params, index):
    flat, unravel = ravel_pytree(params)
    return unravel(flat.at[index].set(position))

  return types.Lens(extract, insert)


def mask_index(mask: types.PyTree, params: types.Params) -> types.Array:
  """The index of `coordinates` that frees the numbers marked by a mask, [d].

  Args:
    mask: see `mask_lens`.
    params: the weights, or their shapes.

  Raises:
    ValueError: see `mask_lens`.

  Examples:
    >>> params = {'a': jnp.zeros(2), 'b': jnp.zeros((2, 2))}
    >>> mask = {'a': False, 'b': np.array([[0, 1], [1, 0]])}
    >>> print(mask_index(mask, params))
    [3 4]
  """
  flat = [np.zeros(0, bool)]  # For params without leaves.
  for path, leaf, marks in _marked(mask, params):
    if marks.any():
      check_dtype(path, leaf)
    flat.append(marks.ravel())
  places = np.flatnonzero(np.concatenate(flat))
  _check_any(places.size > 0, params)
  return jnp.asarray(places, jnp.int32)


# Matching of masks with params.


def _marked(
  mask: types.PyTree, params: types.Params
) -> Iterator[tuple[str, types.Array, np.ndarray]]:
  """Yields path, leaf and marks (booleans of its shape) for each leaf."""
  try:
    spread = jax.tree.broadcast(mask, params)
  except ValueError as error:
    path, got, expected = _first_difference(mask, params) or ('', mask, params)
    raise ValueError(
      'mask must be a tree like params or its upper part, because each of its '
      f'leaves marks the weights there; at {path or "the top"} got '
      f'{_describe(got)} for {_describe(expected)}. Give one 0 or 1, or an '
      'array, np.array([...]), in place of a leaf of params or of a whole part.'
    ) from error
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), value in zip(leaves, jax.tree.leaves(spread), strict=True):
    name = jax.tree_util.keystr(path) or 'the top'
    yield name, leaf, _marks(name, np.asarray(value), np.shape(leaf))


def _marks(path: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Checks a mask's values; returns them as booleans of a leaf's shape."""
  # Checked before the cast, which would take NaN for 1.
  neither = values[~np.isin(values, (0, 1))]
  if neither.size:
    raise ValueError(
      'A mask must hold 0 and 1 alone, because a weight moves or it does not; '
      f'got {neither[0]} at {path}.'
    )
  try:
    return np.broadcast_to(values != 0, shape)
  except ValueError as error:
    raise ValueError(
      'A mask must broadcast to the weights that it marks, because each of '
      f'them moves or not; at {path} got shape {list(values.shape)} for '
      f'weights of shape {list(shape)}.'
    ) from error


def check_dtype(path: str, leaf: types.Array) -> None:
  """Raises unless a leaf may move."""
  dtype = jnp.result_type(leaf)  # The one that compiled code sees.
  if dtype not in (jnp.float32, jnp.float64):
    raise ValueError(
      'Weights that move must be float32 or float64, because steps are too '
      f'small for less; got {dtype} at {path}. Cast it to float32, or mark it '
      '0 in the mask.'
    )


def _check_any(moves: bool, params: types.Params) -> None:
  if not moves:
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    raise ValueError(
      'A mask must free at least one weight, or there is nothing to sample; '
      f'got zeros alone, for {count} weights.'
    )


def _first_difference(mask, params, path=''):
  """Path and both nodes at which a mask stops being an upper part of params."""
  if jax.tree_util.all_leaves([mask]):
    return None
  children, expected = _children(mask), _children(params)
  if type(mask) is not type(params) or children.keys() != expected.keys():
    return path, mask, params
  deeper = (
    _first_difference(children[k], expected[k], path + k) for k in expected
  )
  return next(filter(None, deeper), None)


def _children(node):
  # One level only: every child counts as a leaf.
  below = jax.tree_util.tree_leaves_with_path(node, lambda x: x is not node)
  return {jax.tree_util.keystr(path): child for path, child in below}


def _describe(node) -> str:
  """Describes a node of a tree: its type, and its keys or its shape."""
  name = type(node).__name__
  if jax.tree_util.all_leaves([node]):
    return f'{name} of shape {list(np.shape(node))}'
  keys = (key.strip('[]') for key in _children(node))
  return f'{name} with {", ".join(keys) or "nothing"}'
