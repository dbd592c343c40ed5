"""Conversion of trees of arrays to the form that Orbax stores, and back.

Orbax stores lists, and dicts whose keys are texts. The names of the leaves, as
`jax.tree_util.keystr` writes them, show the original kinds of keys. From them
numbers become keys again, and fields of tuples and dataclasses keys of dicts.
"""

import ast
from collections.abc import Iterable
from collections.abc import Mapping
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.training import checkpoint_errors
from rllc_jax.training import leaf_records

Key = tuple[str, ...]  # The path of a leaf in the stored tree.

_ENTRY = re.compile(
  r"""\[(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]"""
  r'|\[<flat\ index\ (?P<place>\d+)>\]|\[(?:np\.\w+\()?(?P<number>-?\d+)\)?\]'
  r'|\[(?P<other>[^\]]*)\]|\.(?P<field>\w+)'  # Older releases allowed any key.
)
_BOX = 'value'  # The one field of nnx variables and of linen's boxes.
_NUMBER_BYTES = {'f': 8, 'c': 16}  # Wider floats differ between machines.
_AS_ARRAYS = (
  'Give numpy or JAX arrays: jax.random.key_data(key) of a key, '
  'tensor.detach().cpu().numpy() of a torch tensor.'
)
_AS_DICTS = 'Give nested dicts with keys of one type, str or int, and lists.'


def to_arrays(tree: types.PyTree) -> types.PyTree:
  """Converts the leaves of a tree that can be saved to numpy arrays.

  Args:
    tree: of dicts, lists, tuples and other nodes that JAX knows.

  Returns:
    The same structure. An array may share the memory of its leaf.

  Raises:
    Refused: if it cannot be restored as it is; the text names the leaf.
  """
  _check_node(tree, '')
  arrays = jax.tree_util.tree_map_with_path(
    lambda path, leaf: _to_array(jax.tree_util.keystr(path), leaf), tree
  )
  names = list(leaf_records.named(arrays))
  if not names:
    raise checkpoint_errors.Refused('at least one array', 'none', _AS_ARRAYS)
  _check_places(names)
  return arrays


def _check_node(node: Any, name: str) -> None:
  """Refuses nodes that Orbax cannot store, or whose keys it would merge."""
  if isinstance(node, Mapping):
    _check_keys(node, name)
  # One level at a time, so that every node is checked under its name.
  children = jax.tree_util.tree_flatten_with_path(
    node, is_leaf=lambda x: x is not node
  )[0]
  for path, child in children:
    entry = path[0] if path else None
    if getattr(entry, 'name', '').startswith('_pytree__'):  # An nnx module.
      raise checkpoint_errors.Refused(
        f'a tree of arrays at {name or "its root"}, because a module is more',
        f'the module {type(node).__name__}',
        'Give nnx.state(module, nnx.Param).',
      )
    if path:
      _check_node(child, name + jax.tree_util.keystr(path))


def _check_keys(node: Mapping[Any, Any], name: str) -> None:
  """Refuses keys of a dict that cannot be restored."""
  for key in node:
    if type(key) not in (str, int) or not _is_text(str(key)):
      raise checkpoint_errors.Refused(
        f'a text or a number as a key at {name}[{key!r}], because others do '
        'not come back from a disk',
        f'a {type(key).__name__}',
        _AS_DICTS,
      )
  kinds = sorted({type(key).__name__ for key in node})
  if len(kinds) > 1:
    raise checkpoint_errors.Refused(
      f'keys of one type at {name or "the root"}, because JAX sorts them',
      f'both {" and ".join(kinds)}',
      _AS_DICTS,
    )


def _is_text(key: str) -> bool:
  try:
    key.encode()
  except UnicodeEncodeError:  # Half of a surrogate pair.
    return False
  return True


def _to_array(name: str, leaf: Any) -> np.ndarray:
  """Converts one leaf; refuses what is no array of numbers."""
  kind = type(leaf).__name__
  expected = f'an array of numbers at {name or "the root"}'
  try:
    array = np.asarray(leaf)
  except Exception as error:  # Other libraries raise errors of any type.
    actual = (
      f'a {kind} that numpy does not take, {type(error).__name__}: {error}'
    )
    raise checkpoint_errors.Refused(expected, actual, _AS_ARRAYS) from None
  if not _is_number(array.dtype):
    actual = f'a {kind} of dtype {array.dtype}'
    raise checkpoint_errors.Refused(expected, actual, _AS_ARRAYS)
  if not array.size:
    expected = f'an array with some number at {name or "the root"}'
    actual = f'shape {list(array.shape)}, which Orbax does not write'
    raise checkpoint_errors.Refused(expected, actual, 'Leave it out.')
  # Native byte order, because Orbax and the checksums depend on the bytes.
  return array.astype(array.dtype.newbyteorder('='), copy=False)


def _is_number(dtype: np.dtype) -> bool:
  if dtype.itemsize > _NUMBER_BYTES.get(dtype.kind, dtype.itemsize):
    return False
  return dtype.kind == 'b' or jnp.issubdtype(dtype, np.number)


def _check_places(names: Iterable[str]) -> None:
  """Refuses two leaves that Orbax would write to one place."""
  names_at: dict[str, str] = {}
  for name in names:
    place = '.'.join(key_of(name))
    if place in names_at:
      raise checkpoint_errors.Refused(
        'leaves whose keys differ when they are joined by dots, because Orbax '
        'joins them',
        f'{names_at[place]} and {name}',
        'Rename one of them.',
      )
    names_at[place] = name


def key_of(name: str) -> Key:
  """The path, in the tree that Orbax reads, of a leaf with this name.

  Examples:
    >>> key_of("['blocks'][0].mu['w']")
    ('blocks', '0', 'mu', 'w')
  """
  return tuple(text for _, text in _entries(name))


def _entries(name: str) -> list[tuple[str, str]]:
  """Kind and text of each part of a name."""
  parts, end = [], 0
  for match in _ENTRY.finditer(name):
    if match.start() != end:
      break
    kind, text = str(match.lastgroup), match[match.lastgroup or 0]
    parts.append((kind, ast.literal_eval(text) if kind == 'text' else text))
    end = match.end()
  # A name that is not understood to its end stays whole.
  return parts if end == len(name) else [('unknown', name)]


def _leaves_by_key(tree: types.PyTree) -> dict[Key, tuple[str, Any]]:
  return {
    key_of(name): (name, leaf)
    for name, leaf in leaf_records.named(tree).items()
  }


def by_name(read: types.PyTree, names: Iterable[str]) -> dict[str, Any]:
  """Names the leaves that Orbax read as they were named when saved.

  Args:
    read: dicts and lists.
    names: of the leaves when they were saved.

  Returns:
    Name -> leaf; a leaf without a saved name is named by its path.
  """
  saved = {key_of(name): name for name in names}
  leaves = _leaves_by_key(read).items()
  return {saved.get(key, name): leaf for key, (name, leaf) in leaves}


def plain(read: types.PyTree, names: Iterable[str]) -> types.PyTree:
  """Restores keys that were numbers, and unwraps boxes of one value.

  Args:
    read: dicts and lists that Orbax read.
    names: of the leaves when they were saved.

  Examples:
    >>> plain({'a': {'0': {'value': 5}}}, ["['a'][0].value"])
    {'a': {0: 5}}
  """
  kinds = {}
  for name in names:
    parts = _entries(name)
    key = key_of(name)
    kinds |= {key[: i + 1]: kind for i, (kind, _) in enumerate(parts)}
  return _plain(read, (), kinds)


def _plain(node: Any, key: Key, kinds: Mapping[Key, str]) -> Any:
  if isinstance(node, list):
    return [_plain(x, (*key, str(i)), kinds) for i, x in enumerate(node)]
  if not isinstance(node, dict):
    return node
  if list(node) == [_BOX] and kinds.get((*key, _BOX)) == 'field':
    return _plain(node[_BOX], (*key, _BOX), kinds)
  # A child without leaves has no name, so its siblings decide.
  numbers = any(kinds.get((*key, name)) == 'number' for name in node)
  return {
    int(name) if numbers else name: _plain(x, (*key, name), kinds)
    for name, x in node.items()
  }


def part_of(tree: types.PyTree, part: str | None) -> types.PyTree:
  """Returns the node of a tree at keys joined by slashes, by default all.

  Raises:
    Refused: if there is no such node; the text lists its siblings.

  Examples:
    >>> part_of({'params': {0: [5, 6]}}, 'params/0/1')
    6
  """
  for name in part.split('/') if part else ():
    children = children_of(tree)
    if name not in children:
      raise checkpoint_errors.Refused(
        f'a part named {name!r}, because part={part!r} was asked for',
        checkpoint_errors.quoted(sorted(children)) or 'an array',
        'Give one that is there, or leave part out.',
      )
    tree = children[name]
  return tree


def children_of(node: types.PyTree) -> dict[str, Any]:
  """Name -> child of a dict or a list; {} for anything else."""
  if isinstance(node, list):
    node = dict(enumerate(node))
  if not isinstance(node, dict):
    return {}
  return {str(name): child for name, child in node.items()}


def placed(arrays: types.PyTree, like: types.PyTree) -> types.PyTree:
  """Puts arrays into the structure of another tree.

  Leaves are matched by their keys. A number equals its text, and a box equals
  its value.

  Args:
    arrays: dicts and lists of numpy arrays.
    like: arrays or `jax.ShapeDtypeStruct`, in any nodes that JAX knows.

  Raises:
    Refused: if leaves are missing or surplus, or differ in shape or dtype.
  """
  actual = {_unboxed(key): x for key, x in _leaves_by_key(arrays).items()}
  expected = {_unboxed(key): x for key, x in _leaves_by_key(like).items()}
  names = {key: name for key, (name, _) in (actual | expected).items()}
  difference = leaf_records.shape_difference(
    *(
      {names[key]: leaf_records.shape(x) for key, (_, x) in leaves.items()}
      for leaves in (actual, expected)
    )
  )
  if difference:
    raise checkpoint_errors.Refused(*difference)
  leaves = [actual[key][1] for key in expected]
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _unboxed(key: Key) -> Key:
  """A key without the field of a box at its end."""
  return key[:-1] if key[-1:] == (_BOX,) else key
