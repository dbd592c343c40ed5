"""Checkpoints on several devices, in their order."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.analysis import every_checkpoint

STEPS = (0, 3, 7, 20, 50)
# The numbers of steps stand in for weights.
TRAJECTORY = types.Trajectory(
  STEPS, lambda steps: {'w': np.array(steps, np.float32)}
)


def test_results_are_in_order_and_progress_ends():
  calls = []
  results = every_checkpoint.map_checkpoints(
    lambda params: jnp.square(params['w']),
    TRAJECTORY,
    lambda *counts: calls.append(counts),
  )
  assert results == [0, 9, 49, 400, 2500]
  assert all(isinstance(x, np.ndarray | np.generic) for x in results)
  assert calls == [(i + 1, 5) for i in range(5)]


def test_devices_work_on_checkpoints_at_the_same_time():
  devices = jax.local_devices()
  assert len(devices) == 2
  barrier = threading.Barrier(2, timeout=30)  # Nobody passes alone.

  def device(params):
    barrier.wait()
    [used] = (jnp.zeros(1) + params['w']).devices()
    return used.id

  trajectory = TRAJECTORY._replace(steps=STEPS[:2])
  results = every_checkpoint.map_checkpoints(device, trajectory)
  assert sorted(results) == [device.id for device in devices]


def test_the_caller_s_precision_holds_in_every_thread():
  precision = lambda params: jax.config.jax_default_matmul_precision == 'high'
  with jax.default_matmul_precision('high'):
    results = every_checkpoint.map_checkpoints(precision, TRAJECTORY)
  assert all(results)
  assert not any(every_checkpoint.map_checkpoints(precision, TRAJECTORY))


def test_an_error_ends_the_map():
  def refuse(params):
    raise ValueError(f'not {params["w"]}')

  with pytest.raises(ValueError, match='not 0.0'):
    every_checkpoint.map_checkpoints(refuse, TRAJECTORY)
