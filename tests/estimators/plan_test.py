"""Plans count exactly, and touch nothing."""

import time

import jax
import numpy as np
import pytest

import rllc_jax
from rllc_jax.data import minibatches
from rllc_jax.estimators import blocks
from rllc_jax.estimators import multiply_adds
from rllc_jax.estimators import plan as plans
from tests.estimators import toy

BATCH = 4 * 3  # Numbers in a minibatch of the toy.


def plan(**changes):
  families = {'refinements': [toy.family(0, 1), toy.family(2)]}
  args, kwargs = toy.arguments(**families | changes)
  return plans.plan(*args, **kwargs)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(plans, '_TIMED_SECONDS', 0.0)


def contents(path):
  return {
    file: (file.read_bytes(), file.stat().st_mtime_ns)
    for file in sorted(path.rglob('*'))
    if file.is_file()
  }


def loss_multiply_adds(heads=3, batch=4):
  """Of the toy: x W_h and the sum over heads and units."""
  return batch * heads * (2 * 4 + 4)


def test_everything_is_left_at_first():
  result = plan()
  rows, draws, chains = 3 * 2, 30, 2
  first, second = (family.counts for family in result.families)
  assert [family.names for family in result.families] == [
    ('0:0', '0:1'),
    ('0:2',),
  ]
  assert (first.cells, second.cells) == (2 * rows, rows)
  assert first.chain_steps == rows * 2 * chains * draws
  assert first.row_steps == rows * draws + rows * 4  # The baseline, too.
  assert first.entries == first.chain_steps * BATCH
  # A context is a forward pass, a step of a chain that and two products for
  # the gradient of each, but none for the data.
  forward = loss_multiply_adds()
  back = 4 * 3 * (2 * 4) + 2 * (4 * 3 * 4)
  expected = first.row_steps * forward + first.chain_steps * (forward + back)
  assert first.multiply_adds == expected
  for a, b, c in zip(result.counts, first, second, strict=True):
    assert a == b + c


def test_steps_between_draws_and_minibatches_of_their_own():
  result = plan(
    refinements=[toy.family(0, 1)],
    num_steps_between_draws=3,
    share_batches=False,
    burn_in=7,
  )
  draws = 24 + 3  # 7 steps of burn-in are 3 draws.
  first = result.counts
  assert first.chain_steps == 6 * 4 * draws * 3
  assert first.row_steps == first.chain_steps + 6 * 4


def test_what_is_stored_is_not_planned_and_nothing_is_written(tmp_path):
  store = lambda: rllc_jax.open_store(tmp_path / 'store')
  assert plan(store=store()).counts.chain_steps == 6 * 6 * 30
  assert not (tmp_path / 'store').exists()
  run = {'refinements': [toy.family(0, 1), toy.family(2)], 'store': store()}
  toy.run(**run | {'trajectory': toy.trajectory((0, 10))})

  def stop(done, total):
    if done > 4 * 6 * 30:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    toy.run(**run, segment=8, progress=stop)
  before = contents(tmp_path)
  result = plan(store=store())
  (first, second) = result.families
  assert (first.counts.cells, second.counts.cells) == (2 * 2, 2)
  assert first.counts.chain_steps == 2 * 4 * (30 - 8)
  assert second.counts.chain_steps == 2 * 2 * 30
  assert contents(tmp_path) == before
  toy.run(**run)
  before = contents(tmp_path)
  assert plan(store=store()).families == ()
  assert plan(store=store()).counts == (0, 0, 0, 0, 0)
  assert contents(tmp_path) == before


def test_a_store_of_another_run_is_refused(tmp_path):
  toy.run(store=rllc_jax.open_store(tmp_path / 'store'))
  with pytest.raises(ValueError, match='made with step_size = 0.001'):
    plan(store=rllc_jax.open_store(tmp_path / 'store'), step_size=2e-3)


def test_settings_are_checked_as_in_a_run():
  with pytest.raises(ValueError, match='step_size must be positive'):
    plan(step_size=-1.0)


def test_memory_has_data_and_grows_with_the_chunk():
  small, large = (
    plan(
      refinements=[toy.family(0, 1)],
      minibatches=minibatches.uniform(np.ones((n, 3), np.float32), 4),
    )
    for n in (64, 100_064)
  )
  more = large.bytes_per_device - small.bytes_per_device
  np.testing.assert_allclose(more, 100_000 * 3 * 4, rtol=1e-3)


def test_multiply_adds_are_those_of_xla_without_loops():
  work = lambda x: jax.numpy.sum(jax.numpy.tanh(x @ x.T) @ x)
  x = jax.numpy.ones((64, 128))
  compiled = jax.jit(jax.value_and_grad(work)).lower(x).compile()
  ours = multiply_adds.multiply_adds(jax.value_and_grad(work), x)
  np.testing.assert_allclose(
    2 * ours, compiled.cost_analysis()['flops'], rtol=0.05
  )


@pytest.mark.parametrize('length', [1, 7])
def test_loops_count_as_often_as_they_run(length):
  def work(x):
    body = lambda carry, row: (carry @ x, None)
    return jax.lax.scan(body, x, jax.numpy.arange(length))[0]

  x = jax.numpy.ones((5, 5))
  assert multiply_adds.multiply_adds(work, x) == length * 125


def test_a_call_is_told_from_its_draws(monkeypatch):
  """Timed by a clock of 0.5 s a call and 0.1 s a draw."""
  take = blocks.take

  def timed(*arguments):
    states, segment = take(*arguments)
    return states, segment._replace(seconds=0.5 + 0.1 * segment.count)

  monkeypatch.setattr(blocks, 'take', timed)
  for seconds, draw in ((0.0, 0.6), (3.0, 0.1), (1e9, 0.1)):
    monkeypatch.setattr(plans, '_TIMED_SECONDS', seconds)
    (result,) = plan(refinements=toy.family(0)).families
    assert result.costs.draw_seconds == pytest.approx(draw)
    assert result.costs.segment_seconds >= 0.6 - draw - 1e-6


@pytest.mark.long
@pytest.mark.timed
def test_time_is_within_30_percent(monkeypatch):
  """Median of three, because other processes come and go.

  The run finds the programs compiled that the plan has timed, so that the time
  to compile them is added to the run's.
  """
  monkeypatch.setattr(plans, '_TIMED_SECONDS', 3.0)
  families = [toy.family(0, 1), toy.family(2)]
  batch = minibatches.uniform(toy.data(), 1024)
  ratios = []
  for seed in range(3):
    changes = {'num_draws': 5000 + seed, 'minibatches': batch}
    planned = plan(**changes)
    began = time.perf_counter()
    toy.run(refinements=families, **changes)
    taken = time.perf_counter() - began + planned.compile_seconds
    ratios.append(planned.seconds / taken)
  assert 1 / 1.3 < np.median(ratios) < 1.3
