"""Compiled training steps and losses, and the order of the data.

The order is drawn on the host as a function of the step alone, so a resumed run
has the same batches.
"""

from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rllc_jax import types


def adamw(
  learning_rate: float, weight_decay: float, beta2: float = 0.999
) -> optax.GradientTransformation:
  """The optimizer of the paper: AdamW at a constant rate.

  No warm-up, no schedule, no clipping. The decay is on every weight, biases and
  gains too, and a step shrinks a weight by `learning_rate * weight_decay`.

  Args:
    learning_rate: about the distance that a weight moves in one step.
    weight_decay: per unit of learning rate.
    beta2: decay of the average of squared gradients.
  """
  return optax.adamw(
    learning_rate, b1=0.9, b2=beta2, eps=1e-8, weight_decay=weight_decay
  )


def epoch_batches(
  seed: int, num_sequences: int, batch_size: int, first: int, count: int
) -> np.ndarray:
  """Returns the sequences in the batches of some steps.

  Laid end to end, the batches are one permutation of the sequences after
  another, each drawn from (seed, epoch). So every sequence occurs once an
  epoch, and a step is computed without those before it. An epoch may end inside
  a batch, which continues with the next permutation; such a batch can hold a
  sequence twice, and nothing is dropped.

  Args:
    seed: not negative.
    num_sequences: sequences an epoch.
    batch_size: B.
    first: the first step, from 0.
    count: number of steps.

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
  """Builds a mesh of one axis, 'data', over which a batch is divided.

  It has the largest number of devices that divides the batch evenly; all of
  them, if they belong to several processes.

  Raises:
    ValueError: if the batch cannot be divided evenly.
  """
  several = len({device.process_index for device in devices}) > 1
  if batch_size < 1 or (several and batch_size % len(devices)):
    raise ValueError(
      f'batch_size must be a positive multiple of {len(devices)}, because each '
      f'device takes an equal part of a batch; got {batch_size}.'
    )
  # Fewer devices rather than a refusal: 32 rows on six devices use four.
  counts = range(1, len(devices) + 1)
  count = max(count for count in counts if not batch_size % count)
  devices = devices[:count]
  auto = (jax.sharding.AxisType.Auto,)
  return jax.make_mesh((len(devices),), ('data',), auto, devices=devices)


def replicated(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
  """The sharding of arrays that are whole on every device."""
  return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def update_steps(
  loss_fn: types.LossFn,
  optimizer: optax.GradientTransformation,
  mesh: jax.sharding.Mesh,
) -> Callable[..., tuple[types.Params, types.PyTree, types.Array]]:
  """Compiles training steps, of which a call chooses the number.

  Returns:
    `run(params, optimizer_state, tokens, sequences, count) -> (params,
    optimizer_state, losses [G])`. `sequences` [G, B] are the rows of `tokens`
    of each step, of which the first `count` [] are made. `count` is a traced
    number, so one program serves segments of every length. `losses[i]` is that
    of step i's batch at the weights before its update; from `count` on it is 0.
  """

  @jax.jit(out_shardings=replicated(mesh))
  def run(params, optimizer_state, tokens, sequences, count):
    def step(i, carry):
      params, optimizer_state, losses = carry
      batch = _gather(tokens, sequences[i], mesh)
      loss, gradient = jax.value_and_grad(loss_fn)(params, batch)
      # optax mixes integers and floats, which strict promotion forbids.
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
  """Compiles the mean loss over fixed sequences.

  Returns:
    `run(params, tokens, sequences, count) -> []`. `sequences` [M, B] are rows
    of `tokens`, of which the first `count` [] count; the rest is padding.
  """

  @jax.jit(out_shardings=replicated(mesh))
  def run(params, tokens, sequences, count):
    # Losses of single sequences, so that padding can be left out of the mean.
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
  # Sorted raw bits: numpy keeps these stable between releases, not shuffles.
  source = np.random.SeedSequence(seed, spawn_key=(epoch,))
  bits = np.random.PCG64(source).random_raw(size)
  return np.argsort(bits, kind='stable')


def _gather(
  tokens: types.Array, rows: types.Array, mesh: jax.sharding.Mesh
) -> types.Array:
  """Gathers rows of the resident tokens, [B, T] int32, over the devices."""
  batch = tokens[rows].astype(jnp.int32)
  parts = jax.sharding.PartitionSpec('data')
  return jax.lax.with_sharding_constraint(
    batch, jax.sharding.NamedSharding(mesh, parts)
  )
