"""Arithmetic on pytrees of weights."""

import functools
import hashlib

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import types


def size(tree: types.PyTree) -> int:
  """Counts the numbers in a tree.

  Examples:
    >>> size({'a': jnp.zeros((2, 3)), 'b': jnp.zeros([])})
    7
  """
  return sum(np.size(leaf) for leaf in jax.tree.leaves(tree))


def dot(a: types.PyTree, b: types.PyTree) -> types.Array:
  """The inner product of two trees of one structure, [].

  Examples:
    >>> print(dot({'a': jnp.ones(3)}, {'a': 2 * jnp.ones(3)}))
    6.0
  """
  products = jax.tree.leaves(jax.tree.map(lambda x, y: jnp.sum(x * y), a, b))
  # No zero to start from: its dtype could change that of the sum.
  return functools.reduce(jnp.add, products) if products else jnp.zeros([])


def subtract(a: types.PyTree, b: types.PyTree) -> types.PyTree:
  """Returns a - b, leaf by leaf."""
  return jax.tree.map(jnp.subtract, a, b)


def norm(tree: types.PyTree) -> types.Array:
  """The Euclidean length of a tree, []."""
  return jnp.sqrt(dot(tree, tree))


def normal_like(rng_key: types.Key, tree: types.PyTree) -> types.PyTree:
  """Standard normals in the shape of `tree`. The key is consumed.

  They are one flat vector in `ravel_pytree` order, so a position and its
  flattening see the same noise.
  """
  flat, unravel = ravel_pytree(tree)
  return unravel(jax.random.normal(rng_key, flat.shape, flat.dtype))


def stack(trees: list[types.PyTree]) -> types.PyTree:
  """Stacks trees of one structure along a new leading axis, on the host."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def copied(tree: types.PyTree) -> types.PyTree:
  """Copies every leaf into NumPy memory of its own, on the host.

  Raises:
    ValueError: if a leaf cannot be one, naming it.

  Examples:
    >>> original = np.zeros(2)
    >>> copy = copied({'w': original})
    >>> original += 1
    >>> print(copy['w'])
    [0. 0.]
  """

  def copy(path, leaf):
    try:
      array = np.array(leaf, copy=True)
    except Exception as error:  # Tensor libraries raise no common type.
      array, reason = None, str(error)
    else:
      reason = f'{type(leaf).__module__}.{type(leaf).__name__}'
    if array is None or array.dtype == object:
      raise ValueError(
        'Weights must be arrays of numbers, because they are copied before '
        f'they are sampled; got, at {jax.tree_util.keystr(path) or "the top"}, '
        f'{reason}. Give NumPy or JAX arrays, such as tensor.detach().numpy().'
      )
    return array

  return jax.tree_util.tree_map_with_path(copy, tree)


def content_hash(tree: types.PyTree) -> str:
  """A 128-bit hash of names, shapes, dtypes and bytes, as hexadecimal digits.

  Examples:
    >>> a = {'w': np.zeros(2, np.float32)}
    >>> content_hash(a) == content_hash({'w': np.zeros(2, np.int32)})
    False
  """
  digest = hashlib.blake2b(digest_size=16)
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    leaf = np.asarray(leaf)
    name = f'{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}'
    digest.update(name.encode())
    digest.update(leaf.tobytes())  # Not a buffer: bfloat16 has none.
  return digest.hexdigest()
