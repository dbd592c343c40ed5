"""The order of the data, the optimizer, and one program for all lengths."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax.training import updates


def mean_square(params, batch):
  """A loss whose gradient is exact: the mean of (w . x - 1)^2 / 2."""
  residual = batch.astype(jnp.float32) @ params['w'] - 1.0
  return 0.5 * jnp.mean(residual**2)


@pytest.mark.parametrize(
  ('num_sequences', 'batch_size'), [(12, 4), (10, 4), (3, 3), (7, 5), (5, 2)]
)
def test_every_sequence_occurs_once_an_epoch(num_sequences, batch_size):
  batches = updates.epoch_batches(1, num_sequences, batch_size, 0, 40)
  assert batches.dtype == np.int32
  stream = batches.ravel()
  epochs = stream[: len(stream) // num_sequences * num_sequences]
  epochs = epochs.reshape(-1, num_sequences)
  np.testing.assert_array_equal(
    np.sort(epochs), np.tile(np.arange(num_sequences), (len(epochs), 1))
  )
  assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_batch_is_a_function_of_its_step_alone():
  whole = updates.epoch_batches(3, 10, 4, 0, 50)
  for first, count in ((0, 1), (7, 1), (2, 9), (49, 1), (30, 20)):
    part = updates.epoch_batches(3, 10, 4, first, count)
    np.testing.assert_array_equal(part, whole[first : first + count])


def test_seeds_give_different_orders():
  orders = {
    tuple(updates.epoch_batches(seed, 20, 20, 0, 1)[0]) for seed in range(9)
  }
  assert len(orders) == 9


def test_places_in_the_order_are_uniform():
  first = [updates.epoch_batches(s, 5, 1, 0, 1)[0, 0] for s in range(2_000)]
  counts = np.bincount(first, minlength=5)
  # Standard deviation sqrt(2000 * 0.2 * 0.8) = 18; five of them.
  assert np.abs(counts - 400).max() < 90


def test_adamw_is_the_recursion_of_the_paper():
  rate, decay = 0.01, 0.3
  optimizer = updates.adamw(rate, decay)
  w = np.array([1.0, -2.0, 3.0])
  params = {'w': jnp.asarray(w, jnp.float32)}
  state = optimizer.init(params)
  m = v = np.zeros(3)
  for t in range(1, 30):
    g = np.array([0.1, -50.0, 1e-9]) * np.cos(t)
    gradient = {'w': jnp.asarray(g, jnp.float32)}
    with jax.numpy_dtype_promotion('standard'):
      step, state = optimizer.update(gradient, state, params)
    params = {'w': params['w'] + step['w']}
    m = 0.9 * m + 0.1 * g
    v = 0.999 * v + 0.001 * g**2
    mean, square = m / (1 - 0.9**t), v / (1 - 0.999**t)
    w = w - rate * mean / (np.sqrt(square) + 1e-8) - rate * decay * w
  # 30 steps in float32.
  np.testing.assert_allclose(params['w'], w, rtol=3e-6)


def make_run(num_devices=2, batch_size=4):
  mesh = updates.data_mesh(jax.devices()[:num_devices], batch_size)
  whole = updates.replicated(mesh)
  optimizer = updates.adamw(0.05, 0.1)
  traces = []

  def loss_fn(params, batch):
    traces.append(batch.shape)
    assert batch.dtype == jnp.int32
    return mean_square(params, batch)

  params = {'w': jnp.array([0.1, -0.2, 0.3])}
  tokens = np.random.default_rng(0).integers(0, 5, (11, 3)).astype(np.uint16)
  start = jax.device_put((params, optimizer.init(params), tokens), whole)
  return updates.update_steps(loss_fn, optimizer, mesh), start, traces


def test_segments_of_any_length_are_one_program_and_one_run():
  run, (params, state, tokens), traces = make_run()
  sequences = updates.epoch_batches(0, 11, 4, 0, 20)
  padded = lambda part: np.pad(part, ((0, 20 - len(part)), (0, 0)))
  whole = run(params, state, tokens, sequences, np.int32(20))
  pieces, first = [], 0
  for count in (1, 6, 10, 3):
    part = padded(sequences[first : first + count])
    params, state, losses = run(params, state, tokens, part, np.int32(count))
    assert not np.any(losses[count:])
    pieces.append(losses[:count])
    first += count
  np.testing.assert_array_equal(np.concatenate(pieces), whole[2])
  np.testing.assert_array_equal(params['w'], whole[0]['w'])
  assert len(traces) == 1


def test_updates_are_those_of_a_plain_loop():
  run, (params, state, tokens), _ = make_run()
  sequences = updates.epoch_batches(0, 11, 4, 0, 12)
  final, _, losses = run(params, state, tokens, sequences, np.int32(12))
  optimizer = updates.adamw(0.05, 0.1)
  params = {'w': jnp.array([0.1, -0.2, 0.3])}
  state, expected = optimizer.init(params), []
  for rows in sequences:
    batch = np.asarray(tokens)[rows]
    loss, gradient = jax.value_and_grad(mean_square)(params, batch)
    with jax.numpy_dtype_promotion('standard'):
      step, state = optimizer.update(gradient, state, params)
    params = {'w': params['w'] + step['w']}
    expected.append(float(loss))
  # Float32, and sums over two devices.
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  np.testing.assert_allclose(final['w'], params['w'], rtol=1e-5)


def test_one_device_and_two_agree():
  outcomes = []
  for num_devices in (1, 2):
    run, (params, state, tokens), _ = make_run(num_devices)
    sequences = updates.epoch_batches(0, 11, 4, 0, 30)
    params, _, losses = run(params, state, tokens, sequences, np.int32(30))
    assert len(params['w'].sharding.device_set) == num_devices
    outcomes.append((np.asarray(params['w']), np.asarray(losses)))
  for one, two in zip(*outcomes, strict=True):
    # The order of float32 sums.
    np.testing.assert_allclose(one, two, rtol=1e-4)


def test_a_batch_is_divided_over_the_devices():
  run, start, _ = make_run(num_devices=2, batch_size=4)
  sequences = updates.epoch_batches(0, 11, 4, 0, 2)
  program = run.lower(*start, sequences, np.int32(2)).compile().as_text()
  # Half of a batch of 4 sequences of 3 tokens on each of two devices.
  assert 'all-reduce' in program
  assert '[2,3]' in program
  assert '[4,3]' not in program


@functools.cache
def mean_loss():
  return updates.mean_loss(mean_square, updates.data_mesh(jax.devices(), 4))


@pytest.mark.parametrize('count', [1, 3, 4, 5, 8])
def test_the_mean_loss_ignores_padding(count):
  tokens = np.arange(30).reshape(10, 3).astype(np.uint16) % 7
  params = {'w': jnp.array([0.1, -0.2, 0.3])}
  rows = np.arange(8)[::-1].copy()
  rows[count:] = 9  # Padding, which would be seen.
  program = mean_loss()
  sequences = rows.reshape(2, 4).astype(np.int32)
  loss = program(params, tokens, sequences, np.int32(count))
  expected = mean_square(params, tokens[rows[:count]])
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


class Device(NamedTuple):
  process_index: int


@pytest.mark.parametrize(('batch_size', 'processes'), [(0, 1), (-2, 1), (3, 2)])
def test_a_batch_that_cannot_be_divided_is_refused(batch_size, processes):
  devices = [Device(i % processes) for i in range(2)]
  with pytest.raises(ValueError, match='positive multiple of 2'):
    updates.data_mesh(devices, batch_size)


def test_devices_that_do_not_divide_a_batch_are_not_used():
  assert updates.data_mesh(jax.devices()[:2], 3).size == 1
  assert updates.data_mesh(jax.devices()[:2], 4).size == 2
