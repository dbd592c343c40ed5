"""Checkpoints that other programs wrote with Orbax.

They have no record of their leaves, so the arrays that Orbax reads cannot be
verified. Zeroed data, for example, is not noticed.
"""

import pathlib
from typing import Any

import jax
import numpy as np

from rllc_jax import types
from rllc_jax.training import checkpoint_errors
from rllc_jax.training import leaf_records
from rllc_jax.training import orbax_files
from rllc_jax.training import saved_trees
from rllc_jax.training import step_folders

# Entries of a training state, as flax and most programs name them.
_WEIGHTS, _OPTIMIZER = 'params', 'opt_state'


def remedy(step: int) -> str:
  """The remedy for a checkpoint that cannot be read here."""
  return (
    'Load the weights with the program that wrote them, or with '
    'orbax.checkpoint, and hand them over: checkpoints.save(NEW_DIRECTORY, '
    f'{step}, weights), or types.Trajectory(steps, load).'
  )


def read(
  path: pathlib.Path, part: str | None = None, like: types.PyTree = None
) -> types.PyTree:
  """Reads the weights of a checkpoint of any Orbax API.

  Args:
    path: the folder of a step.
    part: the part with the weights, keys joined by slashes; the first is the
      item if there are several, '' is the whole. By default 'params' of a tree
      that also has 'opt_state', unless `like` has that, too; else the whole.
    like: the expected structure, if any.

  Returns:
    Numpy arrays in dicts and lists; keys that were numbers are texts.

  Raises:
    Refused: if there are no weights, no such part, or leaves that are no
      arrays.
    OSError: if Orbax cannot read it.
  """
  item, part = _item_and_part(path, part)
  shapes = orbax_files.read_shapes(path, item)
  if shapes is None:  # For example with booleans among the leaves.
    tree = orbax_files.read(path, None, item)
    part = _default_part(tree, like) if part is None else part
  else:
    part = _default_part(shapes, like) if part is None else part
    saved_trees.part_of(shapes, part)  # Refuses a wrong part before reading.
    template = _template(shapes, part.split('/') if part else [])
    tree = orbax_files.read(path, template, item)
  return saved_trees.to_arrays(saved_trees.part_of(tree, part))


def _item_and_part(
  path: pathlib.Path, part: str | None
) -> tuple[str | None, str | None]:
  """Splits `part` into an item of the checkpoint and a part of its tree."""
  items = orbax_files.items(path)
  if not items:
    raise checkpoint_errors.Refused(
      'an Orbax checkpoint, with a file _METADATA in it or in a folder of it',
      f'a directory with {step_folders.contents(path)}',
    )
  if len(items) == 1:
    return items[0], part
  first, _, rest = (part or '').partition('/')
  if first not in items:
    raise checkpoint_errors.Refused(
      'the name of an item as the first one in part, because a checkpoint of '
      'several items has several trees',
      f'several, {checkpoint_errors.quoted([str(item) for item in items])}',
      f'Give part={items[0]!r}, or another.',
    )
  return first, rest or None


def _default_part(tree: types.PyTree, like: types.PyTree) -> str:
  """The part with the weights, if the caller names none."""
  names = map(saved_trees.key_of, leaf_records.named(like))
  if _OPTIMIZER in {key[0] for key in names if key}:
    return ''
  children = saved_trees.children_of(tree)
  return _WEIGHTS if {_WEIGHTS, _OPTIMIZER} <= children.keys() else ''


def _template(shapes: Any, names: list[str]) -> Any:
  """Builds host arrays to read the part into; other leaves are skipped.

  Without a template Orbax would place arrays on the devices that wrote them.
  """
  if not names:
    return jax.tree.map(_room, shapes)
  skip = lambda node: jax.tree.map(lambda _: orbax_files.SKIPPED, node)
  if isinstance(shapes, list):
    place = int(names[0])
    return [
      _template(node, names[1:]) if i == place else skip(node)
      for i, node in enumerate(shapes)
    ]
  return {
    name: _template(node, names[1:]) if str(name) == names[0] else skip(node)
    for name, node in shapes.items()
  }


def _room(leaf: Any) -> Any:
  """An uninitialized array of a leaf's shape and dtype."""
  return np.empty(leaf.shape, leaf.dtype) if hasattr(leaf, 'shape') else leaf
