"""Weights are copied before the caller can touch their memory again."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.estimators import grid
from tests.estimators import toy

STEPS = toy.STEPS[:6]


def numpy_load():
  """One buffer for all checkpoints, as a reader of files may have."""
  buffer = jax.tree.map(lambda leaf: leaf[None], toy.checkpoint(0))

  def load(steps):
    jax.tree.map(np.copyto, buffer, stacked(steps))
    return buffer

  return load


def torch_load():
  """A model's own memory: `load_state_dict` copies into it."""
  torch = pytest.importorskip('torch', reason='part of the extra `bench`')
  start = toy.checkpoint(0)
  model = torch.nn.ParameterDict(
    {name: torch.nn.Parameter(torch.tensor(x)) for name, x in start.items()}
  )

  def load(steps):
    weights = {k: torch.tensor(x[0]) for k, x in stacked(steps).items()}
    model.load_state_dict(weights)
    return {k: x.detach().numpy()[None] for k, x in model.items()}

  return load


def jax_load():
  """Arrays that the next call gives away, as a donating training step does."""
  kept: list[jax.Array] = []

  def load(steps):
    while kept:
      kept.pop().delete()
    weights = jax.tree.map(jnp.array, stacked(steps))
    kept.extend(jax.tree.leaves(weights))
    return weights

  return load


def stacked(steps):
  return jax.tree.map(
    lambda *leaves: np.stack(leaves), *map(toy.checkpoint, steps)
  )


@pytest.mark.parametrize('make', [numpy_load, torch_load, jax_load])
def test_the_next_load_changes_no_number(make):
  options = {'datasets': {'text': toy.DATASETS['text']}, 'num_chains': 1}
  expected = toy.run(trajectory=toy.trajectory(STEPS), **options)
  result = toy.run(
    trajectory=types.Trajectory(STEPS, make()),
    mesh=grid.make_mesh(1, 1),
    rows_per_block=1,
    **options,
  )
  toy.assert_same_traces(result, expected)
  assert result.attrs['identity'] == expected.attrs['identity']


def test_a_block_keeps_its_weights_while_the_next_one_loads():
  """Deterministic where the one above is a race: the first block waits."""
  loads = threading.Semaphore(0)
  load, calls, during = numpy_load(), [], []

  def slow(steps):
    weights = load(steps)
    calls.append(steps)
    loads.release()
    return weights

  def observe(position, context):
    del context
    return {'W_of_chain': position['W']}

  def progress(done, total):
    del total
    at_door = len(STEPS) + 1  # Each once for its hash, and the first again.
    if len(calls) > at_door and not during:  # The first block is at work.
      while len(calls) < at_door + 2:
        assert loads.acquire(timeout=10)
      during.append(done)

  result = toy.run(
    trajectory=types.Trajectory(STEPS, slow),
    datasets={'text': toy.DATASETS['text']},
    mesh=grid.make_mesh(1, 1),
    rows_per_block=1,
    num_chains=1,
    observe=observe,
    progress=progress,
  )
  for place, step in enumerate(STEPS):
    np.testing.assert_array_equal(
      result.W_of_chain[place, 0, 0, 0, 0], toy.checkpoint(step)['W'][0]
    )


def test_weights_that_differ_from_those_that_were_checked_are_refused():
  calls = []

  def load(steps):
    calls.append(steps)
    grown = 1.0 + (len(calls) > 4)
    return jax.tree.map(lambda leaf: np.float32(grown) * leaf, stacked(steps))

  with pytest.raises(ValueError, match='same weights whenever.*for step'):
    toy.run(trajectory=types.Trajectory(toy.STEPS[:2], load))


def test_what_cannot_be_copied_is_refused_by_name():
  class Tensor:
    def __array__(self, *args, **options):
      raise RuntimeError('requires grad: use detach()')

  load = lambda steps: {**stacked(steps), 'v': Tensor()}
  with pytest.raises(ValueError, match=r"\['v'\], requires grad"):
    toy.run(trajectory=types.Trajectory((0,), load))
