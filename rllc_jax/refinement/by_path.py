"""Parts of anybody's model, by patterns of the paths of its weights.

  heads = rllc_jax.parts(params, {
    '{layer}:{head}': {
      'blocks/{layer}/attn/(query|key|value)': rllc_jax.axis(-2),
      'blocks/{layer}/attn/out/kernel': rllc_jax.axis(0)},
    '{layer}:mlp': {'blocks/{layer}/(up|down)': rllc_jax.everything}}, loss_fn)

A path is made of keys, attributes and numbers, such as `blocks/0/attn/query`; a
pattern is a regular expression that matches a leaf or whole branch. A variable
such as {layer} stands for one step of a path and is part of the name; the one
that stands in the name alone, {head}, counts rows of an axis.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights


class Axis(NamedTuple):
  """An axis of a leaf along which parts lie, one row each; see `axis`."""

  number: int | None
  split: tuple[int, ...] = ()
  at: int = 0
  shared: bool = False

  def view(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """The leaf's shape with the axis apart, and its number there."""
    assert self.number is not None
    number = self.number + len(shape) * (self.number < 0)
    if not 0 <= number < len(shape):
      raise ValueError(f'there is no axis {self.number} in {list(shape)}')
    if not self.split:
      return shape, number
    split = list(self.split)
    if split.count(-1) == 1:
      known = -math.prod(split)
      split[split.index(-1)] = shape[number] // known if known else 0
    if math.prod(split) != shape[number]:
      raise ValueError(f'{shape[number]} is no product of {self.split}')
    return (*shape[:number], *split, *shape[number + 1 :]), number + self.at


everything = Axis(None)


def axis(
  number: int, split: Sequence[int] = (), at: int = 0, *, shared: bool = False
) -> Axis:
  """The axis of a leaf along which parts lie, a row each.

  Args:
    number: of the axis; -1 for the last.
    split: sizes that the axis is cut into, where heads lie in it beside other
      things, such as (3, num_heads, d_head) for fused queries, keys and values;
      one may be -1.
    at: which of them counts the parts.
    shared: whether fewer rows than parts are allowed, each of which as many
      parts in a row share: grouped queries. Such parts overlap.
  """
  split = tuple(split)
  if split and not 0 <= at < len(split):
    raise ValueError(
      f'at must be a place in split, {split}, because that size counts the '
      f'parts; got {at}.'
    )
  return Axis(number, split, at, shared)


def flax_attention(path: str = '') -> dict[str, Axis]:
  """The weights of a head in `MultiHeadAttention` of nnx or linen, by pattern.

  Args:
    path: pattern of the module, such as 'blocks/{layer}/attn'; '' if it is the
      model itself.
  """
  within = f'{path}/' if path else ''
  return {
    f'{within}(query|key|value)': axis(-2),
    f'{within}out/kernel': axis(0),
  }


def equinox_attention(path: str, num_heads: int) -> dict[str, Axis]:
  """The same of `equinox.nn.MultiheadAttention`, of so many heads."""
  within = f'{path}/' if path else ''
  return {
    f'{within}(query|key|value)_proj': axis(0, (num_heads, -1)),
    f'{within}output_proj/weight': axis(1, (num_heads, -1)),
  }


class Parts(tuple):
  """Families of refinements, one compiled program each.

  Attributes:
    params: the leaves that are arrays, in the structure of the model; chains
      start here. Other leaves, such as functions, are None.
    names: of all refinements.
    matched: pattern -> paths of the leaves that it matches.
    fixed: paths of the leaves that never move.
  """

  params: types.Params
  matched: dict[str, list[str]]
  fixed: list[str]

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(name for family in self for name in family.names)

  def __repr__(self) -> str:
    lines = [f'{len(self.names)} parts: {_some(self.names)}']
    for pattern, paths in self.matched.items():
      lines.append(f'  {pattern}: {_some(paths, 2)}')
    lines.append(f'  held fixed: {_some(self.fixed, 3) or "none"}')
    return '\n'.join(lines)


def _some(names: Sequence[str], most: int = 6) -> str:
  more = f' and {len(names) - most} more' if len(names) > most else ''
  return ', '.join(names[:most]) + more


def parts(
  model: types.PyTree,
  rules: Mapping[str, Mapping[str, Axis]],
  loss_fn: types.LossFn,
  *,
  by_place: bool = False,
) -> Parts:
  """Refinements of any model, by patterns of the paths of its weights.

  Args:
    model: its weights: nested dicts and lists, an `nnx.State`, an Equinox
      module, or shapes instead of arrays. What is no array is held fixed.
    rules: name -> {pattern of a path: what moves there}, see the module.
    loss_fn: `loss_fn(model, batch) -> []`, of a tree like the model.
    by_place: whether parts of each place, such as a layer, are a family of
      their own. By default parts of equal shapes in all places share one
      compiled program. That saves compilation; a program of its own leaves out
      of the chains' work what lies below its place, and so runs faster.

  Returns:
    The families, in the order of the rules; print them to see what matched.

  Raises:
    ValueError: if a pattern matches nothing or is no regular expression, axes
      do not fit, a weight that shall move is neither float32 nor float64, or
      two parts have one name.
  """
  arrays, loss_fn = _without_static(model, loss_fn)
  found = jax.tree_util.tree_leaves_with_path(arrays)
  leaves = {_path(path): leaf for path, leaf in found}
  numbers = {path: number for number, path in enumerate(leaves)}
  families, matched = [], {}
  for template, patterns in rules.items():
    places = _places(template, patterns, leaves, matched)
    groups: dict[Any, list[_Place]] = {}
    for place in places:
      shapes = tuple(place.shapes), place.count
      key = (*shapes, place.values) if by_place else shapes
      groups.setdefault(key, []).append(place)
    families += [
      _family(template, group, numbers, loss_fn) for group in groups.values()
    ]
  result = Parts(families)
  result.params, result.matched = arrays, matched
  moving = {path for paths in matched.values() for path in paths}
  result.fixed = [path for path in leaves if path not in moving]
  _check_names(result.names)
  return result


def _without_static(model, loss_fn):
  """The model without what is no array, and the loss of that."""
  is_array = lambda leaf: hasattr(leaf, 'shape') and hasattr(leaf, 'dtype')
  leaves, structure = jax.tree.flatten(model)
  if all(map(is_array, leaves)):
    return model, loss_fn
  arrays = structure.unflatten(x if is_array(x) else None for x in leaves)

  def whole(params, batch):
    moving = iter(jax.tree.leaves(params))
    return loss_fn(
      structure.unflatten(next(moving) if is_array(x) else x for x in leaves),
      batch,
    )

  if hasattr(loss_fn, 'check'):
    whole.check = loss_fn.check  # pyrefly: ignore[missing-attribute]
  return arrays, whole


def _path(keys) -> str:
  """A path as patterns see it: blocks/0/attn/query/kernel."""
  name = lambda key: next(
    getattr(key, x) for x in ('key', 'idx', 'name') if hasattr(key, x)
  )
  names = [str(name(key)) for key in keys]
  # A variable of nnx holds its array as an attribute.
  is_held = names[-1:] == ['value'] and hasattr(keys[-1], 'name')
  return '/'.join(names[:-1] if is_held else names)


class _Shape(NamedTuple):
  """What moves of a leaf, the same in all places of a family.

  Attributes:
    key: its path, with variables in the place of their values.
    view: the shape of the leaf with the axis of rows apart.
    axis: of rows, or None if all of it moves.
    per_row: parts that share a row.
    dtype: of the leaf.
  """

  key: str
  view: tuple[int, ...]
  axis: int | None
  per_row: int
  dtype: str


class _Place(NamedTuple):
  """A place that a template names, such as a layer.

  Attributes:
    values: of the variables in paths, by name.
    shapes: of its leaves.
    paths: of its leaves.
    count: parts there, or None for one that has no number.
  """

  values: tuple[tuple[str, str], ...]
  shapes: list[_Shape]
  paths: list[str]
  count: int | None


def _places(template, patterns, leaves, matched) -> list[_Place]:
  """The places of a template, in the order of the leaves.

  Adds the paths that each pattern matches to `matched`.
  """
  found: dict[tuple, list[tuple[str, str, Axis]]] = {}
  for pattern, rule in patterns.items():
    regex = _compiled(pattern)
    paths = [path for path in leaves if regex.fullmatch(path)]
    if not paths:
      raise ValueError(
        'Each pattern must match a path of the model, or its part would lack '
        f'weights; got none for {pattern!r} among {_some([*leaves], 12)}.'
      )
    matched[pattern] = paths
    for path in paths:
      match = regex.fullmatch(path)
      assert match is not None
      values = tuple(sorted(match.groupdict().items()))
      found.setdefault(values, []).append((_key(match), path, rule))
  return [_place(template, values, found[values], leaves) for values in found]


def _compiled(pattern: str) -> re.Pattern:
  """The regular expression of a pattern: a leaf, or a branch with all below."""
  try:
    named = re.sub(r'\{(\w+)\}', r'(?P<\1>[^/]+)', pattern)
    return re.compile(f'(?:{named})(?:/.*)?')
  except re.error as error:
    raise ValueError(
      f'A pattern must be a regular expression with {{variables}}; {pattern!r} '
      f'is none: {error}.'
    ) from error


def _key(match: re.Match) -> str:
  """A path with variables in the place of their values."""
  path = match.string
  # From the end, so that the places of those before stay.
  spans = {match.span(name): name for name in match.groupdict()}
  for start, end in sorted(spans, reverse=True):
    path = f'{path[:start]}{{{spans[start, end]}}}{path[end:]}'
  return path


def _place(template, values, found, leaves) -> _Place:
  """One place with its leaves, checked."""
  keys = [key for key, _, _ in found]
  if len({*keys}) < len(keys):
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(
      'Each leaf must be matched by one pattern of a part, because it moves '
      f'once; in {template!r} got two for {twice}.'
    )
  views = [_view(template, path, leaves[path], rule) for _, path, rule in found]
  count = _count(template, found, views)
  shapes = []
  for (key, path, _), view in zip(found, views, strict=True):
    per_row = (count or 1) // view.rows
    dtype = str(leaves[path].dtype)
    shapes.append(_Shape(key, view.shape, view.axis, per_row, dtype))
  return _Place(values, shapes, [path for _, path, _ in found], count)


class _View(NamedTuple):
  """A leaf with the axis of rows apart; one row if there is no axis."""

  shape: tuple[int, ...]
  axis: int | None
  rows: int


def _view(template, path, leaf, rule: Axis) -> _View:
  masks.check_dtype(path, leaf)
  shape = tuple(leaf.shape)
  if rule.number is None:
    return _View(shape, None, 1)
  try:
    shape, number = rule.view(shape)
  except ValueError as error:
    raise ValueError(
      f'The axis of {template!r} must fit the shape of {path}, because each '
      f'part is a row of it; {error}.'
    ) from error
  return _View(shape, number, shape[number])


def _count(template, found, views) -> int | None:
  """Parts in a place: the rows of axes, of which all leaves have as many."""
  counts = [view.rows for view in views if view.axis is not None]
  if not counts:
    return None
  count = max(counts)
  for (_, path, rule), view in zip(found, views, strict=True):
    fits = not count % view.rows if rule.shared else view.rows == count
    if view.axis is not None and not fits:
      raise ValueError(
        f'The leaves of {template!r} must have as many rows each, because part '
        f'h is row h of all; got {view.rows} in {path} where others have '
        f'{count}. Grouped queries are axis(..., shared=True).'
      )
  return count


def _family(template, group, numbers, loss_fn) -> types.Refinements:
  """The parts of places that share their shapes, and so one lens."""
  variables = {*re.findall(r'\{(\w+)\}', template)}
  in_paths = {name for name, _ in group[0].values}
  own = sorted(variables - in_paths)
  has_rows = group[0].count is not None
  if len(own) != has_rows or in_paths - variables:
    raise ValueError(
      'A name must have each variable of its paths'
      + (', and one more, that counts rows' if has_rows else ' and no other')
      + f', because it is all that tells parts apart; got {template!r} for '
      f'paths with {", ".join(sorted(in_paths)) or "none"}.'
    )
  names, index = [], []
  for number, place in enumerate(group):
    for row in range(place.count or 1):
      values = dict(place.values) | {name: str(row) for name in own}
      names.append(template.format(**values))
      index.append((number, row))
  leaves = tuple(
    tuple(numbers[place.paths[i]] for place in group)
    for i in range(len(group[0].paths))
  )
  lens = _lens(tuple(group[0].shapes), leaves)
  columns = tuple(jnp.asarray(x, jnp.int32) for x in np.array(index).T)
  return types.Refinements(
    tuple(names), lens, columns, weights.refine(loss_fn, lens)
  )


@functools.cache
def _lens(
  shapes: tuple[_Shape, ...], leaves: tuple[tuple[int, ...], ...]
) -> types.Lens:
  """Frees a row of each leaf; the index is (place, row).

  Cached: programs are looked up by the identity of functions.

  Args:
    shapes: of the leaves.
    leaves: their numbers in each place, as `jax.tree.leaves` counts.
  """
  pieces = [*zip(shapes, leaves, strict=True)]

  def extract(params, index):
    (place, row), all_leaves = index, jax.tree.leaves(params)
    position = {}
    for shape, numbers in pieces:
      here = [jnp.asarray(all_leaves[number]) for number in numbers]
      leaf = here[0] if len(here) == 1 else jax.lax.select_n(place, *here)
      if shape.axis is not None:
        leaf = jnp.moveaxis(leaf.reshape(shape.view), shape.axis, 0)
        leaf = leaf[row // shape.per_row]
      position[shape.key] = leaf
    return position

  def insert(position, params, index):
    place, row = index
    all_leaves, structure = jax.tree.flatten(params)
    for shape, numbers in pieces:
      part = position[shape.key]
      for i, number in enumerate(numbers):
        leaf = jnp.asarray(all_leaves[number])
        moved = part
        if shape.axis is not None:
          at = (slice(None),) * shape.axis + (row // shape.per_row,)
          moved = leaf.reshape(shape.view).at[at].set(part).reshape(leaf.shape)
        if len(numbers) > 1:
          moved = jnp.where(place == i, moved, leaf)
        all_leaves[number] = moved
    return structure.unflatten(all_leaves)

  return types.Lens(extract, insert)


def _check_names(names: Sequence[str]) -> None:
  if len({*names}) < len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(
      'Each part must have a name of its own, because names are coordinates of '
      f'the results; got {twice!r} twice.'
    )
