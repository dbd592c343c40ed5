"""Blocks as tasks of executors: the same draws, whoever takes them."""

from concurrent import futures
import itertools
import multiprocessing
import threading
import time

import numpy as np
import pytest

import rllc_jax
from rllc_jax.estimators import executors
from rllc_jax.estimators import grid
from tests.estimators import stops_test
from tests.estimators import toy


def run(path, executor, **options):
  return toy.run(store=rllc_jax.open_store(path), executor=executor, **options)


@pytest.fixture(scope='module')
def whole():
  return toy.run()


@pytest.fixture
def threads():
  with futures.ThreadPoolExecutor(1) as pool:
    yield pool


def assert_same(traces, expected):
  np.testing.assert_array_equal(traces.recorded, expected.recorded)
  toy.assert_same_traces(traces, expected)


def test_tasks_take_all_draws_once_and_say_how_far_they_are(
  tmp_path, threads, whole
):
  calls = []
  path = tmp_path / 'store'
  progress = lambda *call: calls.append(call)
  assert_same(run(path, threads, progress=progress), whole)
  total = int(whole.recorded.sum())
  assert calls[0] == (0, total) and calls[-1] == (total, total)
  assert [done for done, _ in calls] == sorted(done for done, _ in calls)
  calls.clear()
  assert_same(run(path, threads, progress=progress), whole)
  assert {*calls} == {(total, total)}
  assert not [*(path / 'at_work').glob('*.tasks')]
  writers = {x.name.split('.')[2] for x in (path / 'traces').iterdir()}
  assert len(writers) == 1, 'one a process, and not one a task'


def test_a_target_error_is_reached_by_tasks(tmp_path, threads):
  store = rllc_jax.open_store(tmp_path / 'store')
  traces = stops_test.run(store=store, executor=threads)
  expected = stops_test.whole()
  np.testing.assert_array_equal(traces.recorded, expected.recorded)


def test_a_task_goes_on_from_what_is_there(tmp_path, threads, whole):
  path = tmp_path / 'store'

  def stop(done, total):
    if done > total // 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    toy.run(store=rllc_jax.open_store(path), segment=7, progress=stop)
  there, calls = rllc_jax.open_store(path).num_draws(), []
  traces = run(path, threads, progress=lambda *call: calls.append(call))
  assert calls[0][0] == there > 0
  assert_same(traces, whole)


@pytest.mark.parametrize(
  ('name', 'change'),
  [
    (
      'trajectory',
      lambda lock: toy.trajectory()._replace(
        fingerprint=lambda step: str((step, lock)[0])
      ),
    ),
    ('observe', lambda lock: lambda u, context: {'x': (u['W'].sum(), lock)[0]}),
  ],
)
def test_what_cannot_be_pickled_is_refused_by_name(
  tmp_path, threads, name, change
):
  message = f'{name} must be something that can be pickled.*lock'
  with pytest.raises(ValueError, match=message):
    run(tmp_path / 'store', threads, **{name: change(threading.Lock())})


def test_a_mesh_and_a_store_in_memory_are_refused(tmp_path, threads):
  with pytest.raises(ValueError, match='layout.mesh must be None'):
    run(tmp_path / 'store', threads, mesh=grid.make_mesh(1, 1))
  with pytest.raises(ValueError, match='store must be one of open_store'):
    toy.run(executor=threads)


def test_shared_bytes_of_somebody_else_are_not_unpickled(tmp_path, threads):
  """Their hash comes with the task."""
  path = tmp_path / 'store'
  run(path, threads)
  (path / 'at_work' / f'{"0" * 64}.tasks').write_bytes(b'cos\nsystem\n')
  task = executors.Task(str(path), '0' * 64, 0, ('0:0',), ((0, 'text'),))
  with pytest.raises(ValueError, match='got other bytes'):
    executors.run_task(task)


@pytest.mark.parametrize('failures', [2, 3])
def test_a_task_may_fail_twice(tmp_path, threads, whole, monkeypatch, failures):
  """After three times it is named, and the rest is done."""
  tries, run_task = itertools.count(1), executors.run_task
  monkeypatch.setattr(executors, '_LEAST_TASKS', 1)

  def fail(task):
    if task.rows[0] == (10, 'text') and next(tries) <= failures:
      raise RuntimeError('a device\nis gone')
    return run_task(task)

  monkeypatch.setattr(executors, 'run_task', fail)
  path = tmp_path / 'store'
  with pytest.warns(UserWarning, match='is done again: a device'):
    if failures < 3:
      assert_same(run(path, threads), whole)
      return
    message = '1 that failed 3 times, such as step 10 on text.*device is gone'
    with pytest.raises(ValueError, match=message):
      run(path, threads)
  store = rllc_jax.open_store(path)
  assert {cell[:2] for cell in store.missing(store.extent)} <= {
    (10, 'text'),
    (10, 'code'),
  }


def test_rows_are_split_by_refinements_if_they_are_few():
  names = [f'0:{i}' for i in range(8)]
  assert [*executors._split(names, 3)] == [
    tuple(names[i : i + 2]) for i in (0, 2, 4, 6)
  ]
  assert [*executors._split(names, 1)] == [tuple(names)]
  assert len([*executors._split(names, 100)]) == 8


def test_the_last_of_unequal_workers_is_alone_for_a_tenth_at_most(
  tmp_path, monkeypatch
):
  """Three, of which one is three times as slow; the run has three rows."""
  speeds = iter((1, 1, 3))
  local, ends = threading.local(), {}
  monkeypatch.setattr(executors, '_POLL_SECONDS', 0.01)

  def take(task):
    if not hasattr(local, 'factor'):
      local.factor = next(speeds)
    time.sleep(0.05 * local.factor * len(task.names) / 4)
    ends[local.factor, threading.get_ident()] = time.monotonic()

  monkeypatch.setattr(executors, 'run_task', take)
  began = time.monotonic()
  heads = toy.family(*range(3))
  names = tuple(f'0:{i}' for i in range(128))
  many = heads._replace(
    names=names, indices=np.resize(np.arange(3, dtype=np.int32), 128)
  )
  nothing = pytest.raises(ValueError, match='num_draws to be read')
  with futures.ThreadPoolExecutor(3) as pool, nothing:
    run(
      tmp_path / 'store',
      pool,
      refinements=[many],
      datasets={'text': toy.DATASETS['text']},
      rows_per_block=2,
    )
  first, last = min(ends.values()), max(ends.values())
  share = (last - first) / (last - min(began, first))
  print(f'the first idles for {share:.1%}')
  assert len(ends) == 3 and share < 0.1


def test_a_pool_of_processes_ends_as_one_process(tmp_path, whole):
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    traces = run(tmp_path / 'store', pool, segment=10)
  assert_same(traces, whole)
