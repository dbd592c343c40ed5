"""Several processes share one store directory, and nothing else."""

import errno
import fcntl
import os
import random
import signal

import pytest

import rllc_jax
from tests import binaries
from tests.results import numbers

WORKER = """
  import sys
  import time
  import rllc_jax
  from tests.results import numbers
  path, index, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
  def say(done, total):
    print(done, total, flush=True)
    time.sleep(0.03)  # Or it would end before the test sees it run.
  store = rllc_jax.open_store(path, process=(index, count))
  numbers.run(store, progress=say, segment=3)
"""


@pytest.fixture(scope='module')
def complete():
  return numbers.run()


def run(path, index, count, **options):
  store = rllc_jax.open_store(path, process=(index, count))
  return numbers.run(store, **options)


def start(path, index, count):
  """A real process of several."""
  return binaries.Process(WORKER, path, index, count)


@pytest.mark.parametrize('count', [2, 3, 8])
def test_processes_sample_every_draw_once(tmp_path, complete, count):
  totals = []
  for index in range(count):
    calls = []
    record = lambda *call, calls=calls: calls.append(call)
    traces = run(tmp_path / 'store', index, count, progress=record)
    assert calls[0][0] == 0, 'nothing of its own was there'
    assert calls[-1][0] == calls[-1][1]
    totals.append(calls[-1][1])
    assert int(traces.recorded.sum()) == sum(totals)
  assert sum(totals) == complete.sizes['draw'] * complete.recorded.size
  numbers.assert_same(traces, complete)


def test_the_number_of_processes_may_change_within_a_run(tmp_path, complete):
  """Begun by one of two processes, gone on with by one, ended by three.

  Each cuts the work in another way, in the middle of a block.
  """
  path = tmp_path / 'store'

  def stop(done, total):
    if done > total // 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(path, 0, 2, progress=stop, segment=7, rows_per_block=2)
  with pytest.raises(KeyboardInterrupt):
    run(path, 0, 1, progress=stop, segment=5, rows_per_block=1)
  for index in range(3):
    traces = run(path, index, 3, rows_per_block=3)
  numbers.assert_same(traces, complete)


def test_two_real_processes_fill_one_store(tmp_path, complete):
  path = str(tmp_path / 'store')
  workers = [start(path, index, 2) for index in (1, 0)]
  for worker in workers:
    _, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
  numbers.assert_same(rllc_jax.open_store(path).read(), complete)


@pytest.mark.long
@pytest.mark.parametrize('seed', range(3))
def test_repeated_kills_of_two_processes_change_no_draw(
  tmp_path, complete, seed
):
  """Each starts again at once, whatever the other is doing."""
  path, rng = str(tmp_path / 'store'), random.Random(seed)
  workers = [start(path, index, 2) for index in range(2)]
  for _ in range(10):
    index = rng.randrange(2)
    workers[index].wait_for_lines(rng.randint(1, 5))  # Segments.
    workers[index].send_signal(rng.choice([signal.SIGKILL, signal.SIGINT]))
    workers[index].communicate(timeout=60)
    workers[index] = start(path, index, 2)
  for worker in workers:
    _, stderr = worker.communicate(timeout=120)
    assert worker.returncode == 0, stderr
  numbers.assert_same(rllc_jax.open_store(path).read(), complete)


def test_a_process_grows_the_store_while_another_is_at_work(tmp_path):
  """Neither waits, and each goes on where it was."""
  path, first = tmp_path / 'store', {'datasets': ('text',)}
  grown = []

  def grow(done, total):
    if done and not grown:
      grown.append(run(path, 1, 2, num_draws=48))

  run(path, 0, 2, progress=grow, **first)
  for index in range(2):
    traces = run(path, index, 2, num_draws=48)
  numbers.assert_same(traces, numbers.run(num_draws=48))


def test_a_run_of_another_count_is_refused_while_one_lives(tmp_path):
  path, refused = tmp_path / 'store', []

  def second_run(done, total):
    del done, total
    for process in () if refused else ((0, 1), (1, 2)):
      message = f'one run at a time.*process {os.getpid()} on'
      with pytest.raises(ValueError, match=message):
        run(path, *process)
    refused.append(True)

  run(path, 0, 1, progress=second_run)
  assert refused
  run(path, 0, 2)


def test_a_disk_without_locks_warns(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with pytest.warns(UserWarning, match='expected to be locked.*No locks'):
    run(tmp_path / 'store', 0, 1)


@pytest.mark.parametrize('process', [(2, 2), (-1, 2), (0, 0)])
def test_an_index_beyond_the_count_is_refused(tmp_path, process):
  with pytest.raises(ValueError, match='process must be a number from 0'):
    rllc_jax.open_store(tmp_path, process=process)
