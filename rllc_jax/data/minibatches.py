"""How a minibatch is drawn: by key, with replacement, from a window."""

import functools

import jax
import numpy as np

from rllc_jax import types


@functools.cache
def _draw_uniformly(batch_size: int) -> types.Draw:
  def draw(rng_key, step, data, window):
    del step  # The key is this step's already.
    rows = jax.random.randint(
      rng_key, (batch_size,), 0, window.length, np.int32
    )
    return jax.tree.map(lambda leaf: leaf[window.start + rows], data)

  return draw


def uniform(data: types.PyTree, batch_size: int) -> types.Minibatches:
  """Minibatches drawn uniformly with replacement.

  With replacement, because then a minibatch is independent of where the chain
  is. Replaying the data in epochs would make the recorded losses biased: a
  chain has already moved to suit the batches of its epoch.

  Args:
    data: a pytree of arrays that share their leading axis.
    batch_size: sequences a minibatch. Static.

  Returns:
    Minibatches whose windows are `types.Window`.

  Raises:
    ValueError: if the leading axes differ or `batch_size` is not positive.

  Examples:
    >>> import jax.numpy as jnp
    >>> batches = uniform(jnp.arange(10), batch_size=3)
    >>> window = types.Window(4, 1)
    >>> print(batches.draw(jax.random.key(0), 0, batches.data, window))
    [4 4 4]
  """
  if batch_size < 1:
    raise ValueError(
      'batch_size must be at least 1, because a loss is a mean over the '
      f'minibatch; got {batch_size}.'
    )
  num_sequences(data)
  data = jax.tree.map(jax.numpy.asarray, data)
  return types.Minibatches(data, _draw_uniformly(batch_size))


def num_sequences(data: types.PyTree) -> int:
  """The leading axis that all leaves of `data` must share, [N, ...]."""
  lengths = {
    jax.tree_util.keystr(path): np.shape(leaf)[:1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(data)
  }
  if len(set(lengths.values())) != 1 or set(lengths.values()) == {()}:
    raise ValueError(
      'data must be arrays that share a leading axis, over which minibatches '
      f'are drawn; got leading axes {lengths}.'
    )
  (length,) = next(iter(lengths.values()))
  if not length:
    raise ValueError(
      'data must hold at least one sequence to draw minibatches from; got 0.'
    )
  return length


def whole(data: types.PyTree) -> types.Window:
  """The window of all sequences."""
  return types.Window(0, num_sequences(data))
