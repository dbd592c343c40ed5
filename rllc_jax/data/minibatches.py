"""Minibatches: uniform draws from a window, full data, or replayed epochs.

Estimates need `uniform`, which draws by key and with replacement. `full` gives
a reference without minibatch noise, `epochs` a comparison with a program that
replays its data. Both hold their data as one entry, so their one window is the
whole. Any other window is refused where windows are checked.
"""

import functools

import jax
import numpy as np

from rllc_jax import types
from rllc_jax import whole_numbers


def of_size(data: types.PyTree, batch_size: int | None) -> types.Minibatches:
  """Returns `uniform` minibatches, or `full` data if `batch_size` is None."""
  return full(data) if batch_size is None else uniform(data, batch_size)


# Cached, because compiled programs are shared by draws that are one object.
@functools.cache
def _draw_uniformly(batch_size: int) -> types.Draw:
  def draw(rng_key, step, data, window):
    del step  # The key depends on the step already.
    # int32, because the default dtype draws other rows under x64.
    rows = jax.random.randint(
      rng_key, (batch_size,), 0, window.length, np.int32
    )
    return jax.tree.map(lambda leaf: leaf[window.start + rows], data)

  return draw


def uniform(data: types.PyTree, batch_size: int) -> types.Minibatches:
  """Minibatches drawn uniformly with replacement.

  With replacement a minibatch is independent of the chain's position. Replaying
  the data in epochs would bias the recorded losses, because a chain has already
  moved to suit the batches of its epoch.

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
  batch_size = whole_numbers.whole_number('batch_size', batch_size)
  if batch_size < 1:
    raise ValueError(
      'batch_size must be at least 1, because a loss is a mean over the '
      f'minibatch; got {batch_size}.'
    )
  num_sequences(data)  # Raises if the leading axes differ.
  data = jax.tree.map(jax.numpy.asarray, data)
  return types.Minibatches(data, _draw_uniformly(batch_size))


def weighted(data: types.ClassedTokens, batch_size: int) -> types.Minibatches:
  """`uniform` minibatches whose tokens are weighted by their classes.

  Args:
    data: sequences with classes; see `token_classes.classify`.
    batch_size: sequences a minibatch. Static.

  Returns:
    Minibatches, `types.WeightedTokens`, whose windows are
    `types.WeightedWindow`.

  Examples:
    >>> import jax.numpy as jnp
    >>> data = types.ClassedTokens(np.array([[5, 6]]), np.array([[0, 2]]))
    >>> batches = weighted(data, batch_size=1)
    >>> table = jnp.zeros(256).at[2].set(1.5)
    >>> window = types.WeightedWindow(0, 1, table)
    >>> batch = batches.draw(jax.random.key(0), 0, batches.data, window)
    >>> print(batch.tokens, batch.weights)
    [[5 6]] [[0.  1.5]]
  """
  draw = _draw_weighted(whole_numbers.whole_number('batch_size', batch_size))
  return uniform(data, batch_size)._replace(draw=draw)


@functools.cache
def _draw_weighted(batch_size: int) -> types.Draw:
  draw_classed = _draw_uniformly(batch_size)

  def draw(rng_key, step, data, window):
    drawn = draw_classed(rng_key, step, data, window)
    return types.WeightedTokens(
      drawn.tokens, jax.numpy.asarray(window.table)[drawn.classes]
    )

  return draw


def _everything(rng_key, step, data, window):
  del rng_key, step, window  # The one entry is the one window.
  return jax.tree.map(lambda leaf: leaf[0], data)


def full(data: types.PyTree) -> types.Minibatches:
  """Minibatches that are the whole data, for losses without minibatch noise.

  The key is ignored. A step costs a pass over the data, so this is for small
  data and for kernels that are exact only so, such as MALA.

  Args:
    data: a pytree of arrays that share their leading axis [N].

  Returns:
    Minibatches whose one window is the whole, `whole(minibatches.data)`.

  Raises:
    ValueError: if the leading axes differ.

  Examples:
    >>> import jax.numpy as jnp
    >>> batches = full(jnp.arange(3))
    >>> window = whole(batches.data)
    >>> print(batches.draw(jax.random.key(0), 7, batches.data, window))
    [0 1 2]
  """
  num_sequences(data)
  add_axis = lambda leaf: jax.numpy.asarray(leaf)[None]
  return types.Minibatches(jax.tree.map(add_axis, data), _everything)


def _replay(rng_key, step, data, window):
  del rng_key, window  # The one entry is the one window.
  epoch = jax.tree.map(lambda leaf: leaf[0], data)
  num_batches = len(jax.tree.leaves(epoch)[0])
  return jax.tree.map(lambda leaf: leaf[step % num_batches], epoch)


def epochs(data: types.PyTree, order: np.ndarray) -> types.Minibatches:
  """Minibatches replayed in a fixed order, for parity with other programs.

  Not for estimates, which it biases. The minibatch of a step is the one that
  the chain saw longest ago, so the chain leans to all the others. Hence the
  recorded loss is not that of an independent minibatch: in a bowl of two
  minibatches it is too high by the whole lean. The law of the chain differs,
  too, because minibatch noise cancels over an epoch.

  The key is ignored, so all chains of all runs see the same: step i sees
  `data[order[i % num_batches]]`, and so does baseline minibatch i.

  Args:
    data: a pytree of arrays that share their leading axis [N].
    order: [num_batches, B], integers below N: an epoch.

  Returns:
    Minibatches whose one window is the whole, `whole(minibatches.data)`. Orders
    of one shape share compiled programs.

  Raises:
    ValueError: if the leading axes differ or the order is not one of them.

  Examples:
    >>> import jax.numpy as jnp
    >>> batches = epochs(jnp.arange(6), np.array([[4, 0], [5, 1], [2, 3]]))
    >>> window = whole(batches.data)
    >>> print(batches.draw(jax.random.key(0), 4, batches.data, window))
    [5 1]
  """
  order = np.asarray(order)
  N = num_sequences(data)
  if order.ndim != 2 or not order.size or order.dtype.kind not in 'iu':
    raise ValueError(
      'order must be whole numbers [num_batches, B], at least one, because it '
      f'says which sequences make each minibatch; got {order.dtype} of shape '
      f'{list(order.shape)}.'
    )
  if order.min() < 0 or order.max() >= N:
    raise ValueError(
      f'order must lie within the {N} sequences of the data, because JAX would '
      f'clamp what does not; got {order.min()} to {order.max()}.'
    )
  take = lambda leaf: jax.numpy.asarray(leaf)[order][None]
  return types.Minibatches(jax.tree.map(take, data), _replay)


def num_sequences(data: types.PyTree) -> int:
  """Returns N, the length of the leading axis that all leaves must share."""
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
