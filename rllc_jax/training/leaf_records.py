"""What a tree of arrays is known by: names, dtypes, shapes, checksums.

The description is a plain JSON value, so it can lie beside the arrays on disk
and say later, leaf by leaf, whether they are what was written.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple
import zlib

import jax
import numpy as np

from rllc_jax import types

Description = Mapping[str, Sequence[Any]]  # Name: [shape, CRC-32 of the bytes].


class Difference(NamedTuple):
  """The first leaf at which two trees differ.

  Attributes:
    expected: what should be, with the name of the leaf.
    came: what is.
  """

  expected: str
  came: str


def describe(arrays: types.PyTree) -> Description:
  """Describes numpy arrays, bytes included.

  Examples:
    >>> describe({'w': np.zeros((2, 3), np.float32)})
    {"['w']": ['float32[2, 3]', 2747386400]}
  """
  return {
    name: [_shape(leaf), _checksum(leaf)]
    for name, leaf in _named_leaves(arrays)
  }


def shapes(tree: types.PyTree) -> dict[str, str]:
  """Name to dtype and shape, of arrays or of `jax.ShapeDtypeStruct`."""
  return {name: _shape(leaf) for name, leaf in _named_leaves(tree)}


def shape_difference(
  came: Mapping[str, str], expected: Mapping[str, str]
) -> Difference | None:
  """Where two results of `shapes` differ, if anywhere.

  Examples:
    >>> shape_difference({'w': 'float32[2]'}, {'w': 'float32[3]'})
    Difference(expected='w float32[3]', came='float32[2]')
  """
  for name in sorted(came.keys() | expected.keys()):
    want, got = (tree.get(name, 'no such leaf') for tree in (expected, came))
    if want != got:
      return Difference(f'{name} {want}', got)
  return None


def byte_difference(
  came: types.PyTree, expected: Description
) -> Difference | None:
  """Where the bytes of numpy arrays differ, if anywhere; shapes must agree."""
  for name, leaf in _named_leaves(came):
    want, got = expected[name][1], _checksum(leaf)
    if want != got:
      what = f'{name} as it was saved, of CRC-32 {want:08x}'
      return Difference(what, f'{got:08x}')
  return None


def non_finite_leaf(arrays: types.PyTree) -> Difference | None:
  """The first leaf of numpy arrays with an infinity or a NaN, if any.

  Examples:
    >>> non_finite_leaf({'w': np.array([1.0, np.nan])})
    Difference(expected="finite numbers in ['w']", came='1 of 2 that are not')
  """
  for name, leaf in _named_leaves(arrays):
    bad = leaf.size - np.count_nonzero(np.isfinite(leaf))
    if bad:
      came = f'{bad} of {leaf.size} that are not'
      return Difference(f'finite numbers in {name}', came)
  return None


def _named_leaves(tree: types.PyTree) -> Iterator[tuple[str, Any]]:
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield jax.tree_util.keystr(path), leaf


def _shape(leaf: Any) -> str:
  return f'{np.dtype(leaf.dtype)}{list(leaf.shape)}'


def _checksum(leaf: np.ndarray) -> int:
  return zlib.crc32(leaf.tobytes())
