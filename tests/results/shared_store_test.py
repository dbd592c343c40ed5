"""Several processes share one store directory, and nothing else."""

import errno
import fcntl
import json
import os
import random
import signal
import threading

import pytest

import rllc_jax
from rllc_jax.results import block_files
from rllc_jax.results import disk
from rllc_jax.results import owners
from rllc_jax.results import table
from tests import binaries
from tests.estimators import toy
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


@pytest.fixture(scope='module')
def longer():
  return numbers.run(num_draws=48)


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
    traces = run(
      tmp_path / 'store',
      index,
      count,
      progress=lambda done, total, calls=calls: calls.append((done, total)),
    )
    assert calls[0][0] == 0, 'nothing of its own was there'
    assert calls[-1][0] == calls[-1][1]
    totals.append(calls[-1][1])
    assert int(traces.recorded.sum()) == sum(totals)
  assert sum(totals) == complete.sizes['draw'] * complete.recorded.size
  numbers.assert_same(traces, complete)


def test_pieces_of_several_checkpoints_and_files_are_repaired_and_grown(
  tmp_path, complete, monkeypatch
):
  """Layouts of large runs are shared, damaged, repaired and grown."""
  monkeypatch.setattr(table, '_LEAST_CHUNK_DRAWS', 8)
  monkeypatch.setattr(table, '_CHUNK_BYTES', 1)
  monkeypatch.setattr(table, '_MOST_FILES', 140)
  path = tmp_path / 'store'
  for index in range(2):
    traces = run(path, index, 2)
  numbers.assert_same(traces, complete)
  run_json = json.loads((path / 'run.json').read_text())
  assert run_json['checkpoints_of_a_piece'] == 2
  [*_, chunk] = sorted((path / 'traces.zarr' / 'loss').glob('0.*'))
  assert chunk.name == '0.1.0.0.3'
  chunk.write_bytes(bytes(chunk.stat().st_size))
  with pytest.raises(ValueError, match=r'loss/0\.1\.\* must be as it was writ'):
    rllc_jax.open_store(path).read()
  trajectory, num_draws = toy.trajectory(toy.STEPS[:5]), 30
  more = {'trajectory': trajectory, 'num_draws': num_draws}
  with pytest.warns(UserWarning, match=r'loss/0\.1\.\* was expected'):
    traces = run(path, 0, 1, **more)
  numbers.assert_same(traces, numbers.run(**more))


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
  traces = rllc_jax.open_store(path).read()
  numbers.assert_same(traces, complete)


def test_if_one_of_two_is_killed_the_other_does_its_share(tmp_path, complete):
  path = str(tmp_path / 'store')
  first, second = start(path, 0, 2), start(path, 1, 2)
  second.wait_for_lines(4)
  second.send_signal(signal.SIGKILL)
  second.communicate(timeout=60)
  _, stderr = first.communicate(timeout=120)
  assert first.returncode == 0, stderr
  after_kill = rllc_jax.open_store(path).read()
  missing = after_kill.recorded < complete.sizes['draw']
  assert missing.any()
  rows = missing.any(['refinement', 'chain']).values.ravel()
  assert not rows[::2].any()  # These are its own.
  for index in range(2):
    traces = run(path, index, 2)
  numbers.assert_same(traces, complete)


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
  store = rllc_jax.open_store(path)
  assert not store.missing(store.extent)
  numbers.assert_same(store.read(), complete)


def at_call(number, act):
  """Progress that acts once, at one of its calls, and keeps all of them."""
  calls = []

  def progress(done, total):
    calls.append((done, total))
    if len(calls) == number:
      act()

  return progress, calls


@pytest.mark.sampled(4)
@pytest.mark.parametrize('number', [2, 3, 4, 6])
@pytest.mark.parametrize('has_draws', [True, False])
@pytest.mark.parametrize('has_locks', [True, False])
def test_a_restart_of_process_0_loses_no_draw_of_process_1(
  tmp_path, longer, monkeypatch, has_draws, has_locks, number
):
  """Before, within and after a block process 1 loses no draw.

  Without locks process 0 does not see process 1, and still takes none.
  """
  path = tmp_path / 'store'
  if not has_locks:
    monkeypatch.setattr(owners, 'peers_at_work', lambda *_: [])
  if has_draws:  # Draws to go on from.
    for index in range(2):
      run(path, index, 2)
  more = {'num_draws': 48}
  run(path, 0, 2, **more)

  def restart():
    contents = lambda: {x: x.read_bytes() for x in (path / 'blocks').iterdir()}
    before = contents()
    run(path, 0, 2, **more)
    assert not has_locks or contents() == before

  progress, calls = at_call(number, restart)
  run(path, 1, 2, segment=5, progress=progress, **more)
  assert len(calls) > 6
  store = rllc_jax.open_store(path)
  assert not store.missing(store.extent)
  assert not [*(path / 'blocks').glob('*.new')]
  numbers.assert_same(store.read(), longer)
  for index in range(2):
    progress, calls = at_call(0, None)
    run(path, index, 2, progress=progress, **more)
    assert calls[0][0] == calls[0][1]


def test_a_block_written_while_process_0_prepares_stays(tmp_path, monkeypatch):
  path, was_there = tmp_path / 'store', []
  later, load = path / 'blocks' / 'later.npz', block_files.Directory.load

  def load_before_another_is_written(self):
    was_there.append(later.exists())
    blocks = load(self)
    if not was_there[1:]:
      later.write_bytes(next((path / 'blocks').iterdir()).read_bytes())
    return blocks

  run(path, 0, 1)
  monkeypatch.setattr(
    block_files.Directory, 'load', load_before_another_is_written
  )
  run(path, 0, 1)
  assert was_there == [False, True]


def test_a_restarted_process_1_goes_on_while_process_0_works(
  tmp_path, complete
):
  """It goes on from its own segments, without help of process 0."""
  path, num_done = tmp_path / 'store', []

  def stop():
    raise KeyboardInterrupt

  def share():
    progress, calls = at_call(4, stop)
    with pytest.raises(KeyboardInterrupt):
      run(path, 1, 2, segment=5, progress=progress)
    progress, again = at_call(0, None)
    run(path, 1, 2, progress=progress)
    num_done.extend([calls[-1][0], again[0][0]])

  progress, _ = at_call(3, share)
  run(path, 0, 2, segment=5, progress=progress)
  stopped, goes_on = num_done
  assert goes_on == stopped > 0
  numbers.assert_same(rllc_jax.open_store(path).read(), complete)


def test_shares_follow_a_growth_during_the_start(tmp_path, monkeypatch):
  """Process 1 has read the old extent, and has not published its state."""
  path, prepared = tmp_path / 'store', []
  text = {'datasets': {'text': toy.DATASETS['text']}}
  run(path, 0, 2, **text)
  is_prepared = disk.DiskStore._is_prepared

  def grow_in_between(self, extent):
    is_ready = is_prepared(self, extent)
    if not prepared:
      prepared.append(is_ready)
      run(path, 0, 2)
    return is_ready

  monkeypatch.setattr(disk.DiskStore, '_is_prepared', grow_in_between)
  progress, calls = at_call(0, None)
  run(path, 1, 2, progress=progress, **text)
  assert prepared == [True]
  assert calls == [(0, 0)], 'all of text is the share of process 0 by now'
  store = rllc_jax.open_store(path)
  assert not store.missing(store.extent._replace(datasets=('text',)))


def test_an_array_that_cannot_be_opened_is_named(tmp_path, complete):
  """Process 0, which would create it again, has ended."""
  path = tmp_path / 'store'
  run(path, 0, 2)
  (path / 'traces.zarr' / 'loss' / '.zarray').write_text('{')
  with pytest.raises(ValueError, match=r'loss must be .* with process 0 if'):
    run(path, 1, 2)
  with pytest.warns(UserWarning, match='loss.* was expected to be'):
    run(path, 0, 2)
  numbers.assert_same(run(path, 1, 2), complete)


def test_a_process_repairs_its_own_damaged_block(tmp_path, longer):
  """Process 0 has ended, and is not started again."""
  path, more = tmp_path / 'store', {'num_draws': 48}

  def stop():
    raise KeyboardInterrupt

  for index in range(2):
    run(path, index, 2)
  run(path, 0, 2, **more)
  progress, _ = at_call(3, stop)
  with pytest.raises(KeyboardInterrupt):
    run(path, 1, 2, segment=5, progress=progress, **more)
  [unfinished] = [
    x for x in rllc_jax.open_store(path)._blocks.load() if x[1].traces
  ]
  (path / 'blocks' / unfinished[0]).write_bytes(b'1')
  with pytest.warns(UserWarning, match=f'{unfinished[0]} was expected to be'):
    traces = run(path, 1, 2, **more)
  numbers.assert_same(traces, longer)


@pytest.mark.parametrize(
  'more', [{'num_chains': 3}, {'num_draws': 60}, {'datasets': toy.DATASETS}]
)
def test_a_store_does_not_grow_while_others_are_at_work(tmp_path, more):
  """Growth would assign pieces anew and reshape marks."""
  path = tmp_path / 'store'
  first = {'datasets': {'text': toy.DATASETS['text']}}
  run(path, 0, 2, **first)

  def grow():
    with pytest.raises(ValueError, match=r'process 1 of 2 .* is at work'):
      run(path, 0, 2, **first | more)

  progress, _ = at_call(3, grow)
  run(path, 1, 2, segment=5, progress=progress, **first)
  for index in range(2):
    traces = run(path, index, 2, **first | more)
  numbers.assert_same(traces, numbers.run(**first | more))


@pytest.mark.parametrize('before', ['', '{"count": 2, "state": "ended"}'])
def test_processes_that_start_together_are_not_refused(tmp_path, before):
  """A process holds its lock a moment before it writes its state."""
  lock = tmp_path / '1'
  lock.write_text(before)
  with open(lock, 'rb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    publish = lambda: lock.write_text('{"count": 3, "state": "preparing"}')
    threading.Timer(0.3, publish).start()
    owners.Owner(tmp_path, owners.Process(0, 3)).end()


def test_a_run_of_another_count_is_refused_while_one_lives(tmp_path):
  path = tmp_path / 'store'
  refused = []

  def second_run(done, total):
    del done, total
    with pytest.raises(ValueError, match=f'process {os.getpid()} on') as error:
      run(path, 1, 2)
    refused.append(str(error.value))

  run(path, 0, 1, progress=second_run)
  assert 'one run at a time' in refused[0]
  run(path, 0, 2)


def test_a_disk_without_locks_warns(tmp_path, monkeypatch):
  def refuse(*arguments):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(fcntl, 'flock', refuse)
  with pytest.warns(UserWarning, match='expected to be locked.*No locks'):
    run(tmp_path / 'store', 0, 1)


def test_others_wait_for_process_0(tmp_path, monkeypatch):
  monkeypatch.setattr(owners, '_PATIENCE', 0.3)
  with pytest.raises(ValueError, match='must be prepared by process 0 of 2'):
    run(tmp_path / 'store', 1, 2)


@pytest.mark.parametrize('process', [(2, 2), (-1, 2), (0, 0)])
def test_an_index_beyond_the_count_is_refused(tmp_path, process):
  with pytest.raises(ValueError, match='process must be a number from 0'):
    rllc_jax.open_store(tmp_path, process=process)
