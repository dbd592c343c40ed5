"""Descriptions of trees of arrays: names, dtypes, shapes, checksums.

A description is a plain JSON value. Stored beside the arrays on disk, it shows
leaf by leaf whether they are as they were written.
"""

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
    expected: the requirement, with the name of the leaf.
    actual: the actual value.
  """

  expected: str
  actual: str


def named(tree: types.PyTree) -> dict[str, Any]:
  """Returns name -> leaf of a tree, named as by `jax.tree_util.keystr`.

  Examples:
    >>> named({'w': [1, 2]})
    {"['w'][0]": 1, "['w'][1]": 2}
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def describe(arrays: Mapping[str, np.ndarray]) -> Description:
  """Describes named numpy arrays, bytes included.

  Examples:
    >>> describe({'w': np.zeros((2, 3), np.float32)})
    {'w': ['float32[2, 3]', 2747386400]}
  """
  return {name: [shape(leaf), _checksum(leaf)] for name, leaf in arrays.items()}


def shape(leaf: Any) -> str:
  """Dtype and shape of an array, a `jax.ShapeDtypeStruct` or a number.

  Examples:
    >>> shape(np.zeros((2, 3), np.float32))
    'float32[2, 3]'
  """
  leaf = leaf if hasattr(leaf, 'dtype') else np.asarray(leaf)
  return f'{leaf.dtype}{list(leaf.shape)}'


def shape_difference(
  actual: Mapping[str, str], expected: Mapping[str, str]
) -> Difference | None:
  """Finds the first name whose dtype and shape differ, if any.

  Examples:
    >>> shape_difference({'w': 'float32[2]'}, {'w': 'float32[3]'})
    Difference(expected='w float32[3]', actual='float32[2]')
  """
  # Names of both, so that a missing leaf and a surplus one differ, too.
  for name in sorted(actual.keys() | expected.keys()):
    want, got = (tree.get(name, 'no such leaf') for tree in (expected, actual))
    if want != got:
      return Difference(f'{name} {want}', got)
  return None


def byte_difference(
  actual: Mapping[str, np.ndarray], expected: Description
) -> Difference | None:
  """Finds the first array whose bytes differ, if any; shapes must agree."""
  for name, leaf in actual.items():
    want, got = expected[name][1], _checksum(leaf)
    if want != got:
      saved = f'{name} as it was saved, of CRC-32 {want:08x}'
      return Difference(saved, f'{got:08x}')
  return None


def non_finite_leaf(arrays: Mapping[str, np.ndarray]) -> Difference | None:
  """Finds the first array with an infinity or a NaN, if any.

  Examples:
    >>> non_finite_leaf({'w': np.array([1.0, np.nan])})
    Difference(expected='finite numbers in w', actual='1 of 2 that are not')
  """
  for name, leaf in arrays.items():
    bad = leaf.size - np.count_nonzero(np.isfinite(leaf))
    if bad:
      count = f'{bad} of {leaf.size} that are not'
      return Difference(f'finite numbers in {name}', count)
  return None


def _checksum(leaf: np.ndarray) -> int:
  # tobytes is in C order, whatever the layout in memory.
  return zlib.crc32(leaf.tobytes())
