"""What the device does in training: which sequences, which update, which loss.

The order of the data is drawn on the host as a function of the step alone, so a
run that is resumed, or looked at from the middle, sees the same batches.
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rllc_jax import types


def adamw(
  learning_rate: float, weight_decay: float
) -> optax.GradientTransformation:
  """The optimizer of the paper: AdamW at a constant rate, nothing else.

  No warm-up, no schedule, no clipping. The decay is on every weight, biases and
  gains too, and a step shrinks a weight by `learning_rate * weight_decay`.

  Args:
    learning_rate: about how far a weight moves in one step.
    weight_decay: per unit of learning rate.
  """
  return optax.adamw(
    learning_rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay
  )


def epoch_batches(
  seed: int, num_sequences: int, batch_size: int, first: int, count: int
) -> np.ndarray:
  """Which sequences the batches of some steps consist of.

  All batches laid end to end run through one permutation of the sequences
  after another, each drawn from (seed, epoch). So every sequence is seen once
  an epoch, and no step needs another to be computed. An epoch may end inside a
  batch, which then goes on with the next permutation; nothing is dropped, and
  such a batch can hold a sequence twice.

  Args:
    seed: not negative.
    num_sequences: sequences an epoch.
    batch_size: B.
    first: the first step, from 0.
    count: how many steps.

  Returns:
    [count, B] int32, positions in the epoch's data from 0.

  Examples:
    >>> batches = epoch_batches(0, 6, 4, first=0, count=3)
    >>> np.unique(batches, return_counts=True)[1]
    array([2, 2, 2, 2, 2, 2])
    >>> print((epoch_batches(0, 6, 4, first=2, count=1) == batches[2]).all())
    True
  """
  positions = np.arange(first * batch_size, (first + count) * batch_size)
  epochs, places = np.divmod(positions, num_sequences)
  sequences = np.empty(len(positions), np.int32)
  for epoch in np.unique(epochs):
    inside = epochs == epoch
    order = _permutation(seed, int(epoch), num_sequences)
    sequences[inside] = order[places[inside]]
  return sequences.reshape(count, batch_size)


def data_mesh(
  devices: Sequence[jax.Device], batch_size: int
) -> jax.sharding.Mesh:
  """A mesh of one axis, 'data', over which a batch is divided.

  It has as many of the devices as divide the batch evenly; all of them, if
  there are devices of several processes.

  Raises:
    ValueError: if the batch cannot be divided evenly.
  """
  several = len({device.process_index for device in devices}) > 1
  if batch_size < 1 or (several and batch_size % len(devices)):
    raise ValueError(
      f'batch_size must be a positive multiple of {len(devices)}, because each '
      f'device takes an equal part of a batch; got {batch_size}.'
    )
  counts = range(1, len(devices) + 1)
  count = max(count for count in counts if not batch_size % count)
  devices = devices[:count]
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), ('data',), auto, devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """Whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def update_steps(
  loss_fn: types.LossFn,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[types.Params, types.PyTree, types.Array]]:
  """Compiles training steps, as many as a call asks for.

  Returns:
    `run(params, optimizer_state, tokens, sequences, count) -> (params,
    optimizer_state, losses [G])`. `sequences` [G, B] are the rows of `tokens`
    of each step, of which the first `count` [] are made: a number, not a shape,
    so that one program serves segments of every length. `losses[i]` is that of
    step i's batch at the weights before its update; from `count` on it is 0.
  """

  @jax.jit(out_shardings=replicated(mesh))
  def run(params, optimizer_state, tokens, sequences, count):
    def step(i, carry):
      params, optimizer_state, losses = carry
      batch = _gather(tokens, sequences[i], mesh)
      loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
      # optax mixes integers and floats, also for those who forbid it elsewhere.
      with jax.numpy_dtype_promotion('standard'):
        updates, optimizer_state = optimizer.update(
          gradient, optimizer_state, params
        )
      params = optax.apply_updates(params, updates)
      return params, optimizer_state, losses.at[i].set(loss)

    losses = jnp.zeros(len(sequences), jnp.float32)
    carry = params, optimizer_state, losses
    return jax.lax.fori_loop(0, count, step, carry)

  return run


def mean_loss(
  loss_fn: types.LossFn, mesh: jax.sharding.Mesh
) -> Callable[..., types.Array]:
  """Compiles the loss on fixed sequences, the mean over all of them.

  Returns:
    `run(params, tokens, sequences, count) -> []`. `sequences` [M, B] are rows
    of `tokens`, of which the first `count` [] count; the rest is padding.
  """

  @jax.jit(out_shardings=replicated(mesh))
  def run(params, tokens, sequences, count):
    # One by one, because padding must not weigh in the last batch.
    one_by_one = jax.vmap(lambda sequence: loss_fn(params, sequence[None]))
    width = sequences.shape[1]

    def add(i, total):
      losses = one_by_one(_gather(tokens, sequences[i], mesh))
      counts = i * width + jnp.arange(width, dtype=jnp.int32) < count
      return total + jnp.sum(jnp.where(counts, losses, 0.0))

    total = jax.lax.fori_loop(0, len(sequences), add, jnp.zeros([]))
    return total / count.astype(total.dtype)

  return run


def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
  # By sorting raw bits, which numpy promises for good; shuffles it does not.
  source = np.random.SeedSequence(seed, spawn_key=(epoch,))
  bits = np.random.PCG64(source).random_raw(size)
  return np.argsort(bits, kind='stable')


def _gather(
  tokens: types.Array, rows: types.Array, mesh: jax.sharding.Mesh
) -> types.Array:
  """Rows [B] of the resident tokens, [B, T] int32, divided over the devices."""
  batch = tokens[rows].astype(jnp.int32)
  parts = jax.sharding.PartitionSpec('data')
  return jax.lax.with_sharding_constraint(
    batch, jax.sharding.NamedSharding(mesh, parts)
  )
