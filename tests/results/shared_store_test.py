"""Several processes share a store, and nothing else."""

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
    time.sleep(0.03)  # Or it would be done before anybody looks.
  store = rllc_jax.open_store(path, process=(index, count))
  numbers.run(store, progress=say, segment=3)
"""


@pytest.fixture(scope='module')
def whole():
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
def test_processes_do_all_and_nothing_twice(tmp_path, whole, count):
  totals = []
  for index in range(count):
    calls = []
    found = run(
      tmp_path / 'store',
      index,
      count,
      progress=lambda done, total, calls=calls: calls.append((done, total)),
    )
    assert calls[0][0] == 0, 'nothing of its own was there'
    assert calls[-1][0] == calls[-1][1]
    totals.append(calls[-1][1])
    assert int(found.recorded.sum()) == sum(totals)
  assert sum(totals) == whole.sizes['draw'] * whole.recorded.size
  numbers.assert_same(found, whole)


def test_pieces_of_several_checkpoints_and_files(tmp_path, whole, monkeypatch):
  """As large runs have them: shared, damaged, done again, gone on with."""
  monkeypatch.setattr(table, '_LEAST_CHUNK_DRAWS', 8)
  monkeypatch.setattr(table, '_CHUNK_BYTES', 1)
  monkeypatch.setattr(table, '_MOST_FILES', 140)
  path = tmp_path / 'store'
  for index in range(2):
    found = run(path, index, 2)
  numbers.assert_same(found, whole)
  held = json.loads((path / 'run.json').read_text())
  assert held['checkpoints_of_a_piece'] == 2
  [*_, chunk] = sorted((path / 'traces.zarr' / 'loss').glob('0.*'))
  assert chunk.name == '0.1.0.0.3'
  chunk.write_bytes(bytes(chunk.stat().st_size))
  with pytest.raises(ValueError, match=r'loss/0\.1\.\* must be as it was writ'):
    rllc_jax.open_store(path).read()
  trajectory, num_draws = toy.trajectory(toy.STEPS[:5]), 30
  more = {'trajectory': trajectory, 'num_draws': num_draws}
  with pytest.warns(UserWarning, match=r'loss/0\.1\.\* was expected'):
    found = run(path, 0, 1, **more)
  numbers.assert_same(found, numbers.run(**more))


def test_a_layout_may_change_on_the_way(tmp_path, whole):
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
    found = run(path, index, 3, rows_per_block=3)
  numbers.assert_same(found, whole)


def test_two_real_processes_at_once(tmp_path, whole):
  path = str(tmp_path / 'store')
  workers = [start(path, index, 2) for index in (1, 0)]
  for worker in workers:
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 0, said
  found = rllc_jax.open_store(path).read()
  numbers.assert_same(found, whole)


def test_one_of_two_is_killed_and_the_other_does_its_own(tmp_path, whole):
  path = str(tmp_path / 'store')
  first, second = start(path, 0, 2), start(path, 1, 2)
  second.wait_for_lines(4)
  second.send_signal(signal.SIGKILL)
  second.communicate(timeout=60)
  _, said = first.communicate(timeout=120)
  assert first.returncode == 0, said
  kept = rllc_jax.open_store(path).read()
  missing = kept.recorded < whole.sizes['draw']
  assert missing.any()
  rows = missing.any(['refinement', 'chain']).values.ravel()
  assert not rows[::2].any()  # These are its own.
  for index in range(2):
    found = run(path, index, 2)
  numbers.assert_same(found, whole)


@pytest.mark.long
@pytest.mark.parametrize('seed', range(3))
def test_each_of_two_is_killed_again_and_again(tmp_path, whole, seed):
  """And starts again at once, whatever the other is at."""
  path, rng = str(tmp_path / 'store'), random.Random(seed)
  workers = [start(path, index, 2) for index in range(2)]
  for _ in range(10):
    index = rng.randrange(2)
    workers[index].wait_for_lines(rng.randint(1, 5))  # Segments.
    workers[index].send_signal(rng.choice([signal.SIGKILL, signal.SIGINT]))
    workers[index].communicate(timeout=60)
    workers[index] = start(path, index, 2)
  for worker in workers:
    _, said = worker.communicate(timeout=120)
    assert worker.returncode == 0, said
  store = rllc_jax.open_store(path)
  assert not store.missing(store.extent)
  numbers.assert_same(store.read(), whole)


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
@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('seen', [True, False])
def test_process_0_comes_again_while_process_1_is_at_work(
  tmp_path, longer, monkeypatch, known, seen, number
):
  """Before, within and after a block: process 1 loses nothing of it.

  Nor if it is not seen, as on a disk without locks.
  """
  path = tmp_path / 'store'
  if not seen:
    monkeypatch.setattr(owners, 'peers_at_work', lambda *_: [])
  if known:  # There are draws to go on from.
    for index in range(2):
      run(path, index, 2)
  more = {'num_draws': 48}
  run(path, 0, 2, **more)

  def again():
    contents = lambda: {x: x.read_bytes() for x in (path / 'blocks').iterdir()}
    before = contents()
    run(path, 0, 2, **more)
    assert not seen or contents() == before

  progress, calls = at_call(number, again)
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


def test_a_block_that_comes_while_process_0_prepares_stays(
  tmp_path, monkeypatch
):
  path, seen = tmp_path / 'store', []
  later, load = path / 'blocks' / 'later.npz', block_files.Directory.load

  def load_before_another_is_written(self):
    seen.append(later.exists())
    found = load(self)
    if not seen[1:]:
      later.write_bytes(next((path / 'blocks').iterdir()).read_bytes())
    return found

  run(path, 0, 1)
  monkeypatch.setattr(
    block_files.Directory, 'load', load_before_another_is_written
  )
  run(path, 0, 1)
  assert seen == [False, True]


def test_process_1_comes_again_while_process_0_is_at_work(tmp_path, whole):
  """It goes on from the segments that it left, with no help of the other."""
  path, done = tmp_path / 'store', []

  def stop():
    raise KeyboardInterrupt

  def share():
    progress, calls = at_call(4, stop)
    with pytest.raises(KeyboardInterrupt):
      run(path, 1, 2, segment=5, progress=progress)
    progress, again = at_call(0, None)
    run(path, 1, 2, progress=progress)
    done.extend([calls[-1][0], again[0][0]])

  progress, _ = at_call(3, share)
  run(path, 0, 2, segment=5, progress=progress)
  stopped, goes_on = done
  assert goes_on == stopped > 0
  numbers.assert_same(rllc_jax.open_store(path).read(), whole)


def test_a_store_that_grew_in_between_is_dealt_anew(tmp_path, monkeypatch):
  """Process 1 had seen it small, and had not yet said that it begins."""
  path, seen = tmp_path / 'store', []
  text = {'datasets': {'text': toy.DATASETS['text']}}
  run(path, 0, 2, **text)
  is_prepared = disk.DiskStore._is_prepared

  def grow_in_between(self, extent):
    found = is_prepared(self, extent)
    if not seen:
      seen.append(found)
      run(path, 0, 2)
    return found

  monkeypatch.setattr(disk.DiskStore, '_is_prepared', grow_in_between)
  progress, calls = at_call(0, None)
  run(path, 1, 2, progress=progress, **text)
  assert seen == [True]
  assert calls == [(0, 0)], 'all of text is the share of process 0 by now'
  store = rllc_jax.open_store(path)
  assert not store.missing(store.extent._replace(datasets=('text',)))


def test_an_array_that_cannot_be_opened_is_named(tmp_path, whole):
  """Process 0, which would make it anew, had ended before."""
  path = tmp_path / 'store'
  run(path, 0, 2)
  (path / 'traces.zarr' / 'loss' / '.zarray').write_text('{')
  with pytest.raises(ValueError, match=r'loss must be .* with process 0 if'):
    run(path, 1, 2)
  with pytest.warns(UserWarning, match='loss.* was expected to be'):
    run(path, 0, 2)
  numbers.assert_same(run(path, 1, 2), whole)


def test_a_process_goes_on_without_a_block_that_is_damaged(tmp_path, longer):
  """Process 0 has ended before, and does not come again."""
  path, more = tmp_path / 'store', {'num_draws': 48}

  def stop():
    raise KeyboardInterrupt

  for index in range(2):
    run(path, index, 2)
  run(path, 0, 2, **more)
  progress, _ = at_call(3, stop)
  with pytest.raises(KeyboardInterrupt):
    run(path, 1, 2, segment=5, progress=progress, **more)
  [left] = [x for x in rllc_jax.open_store(path)._blocks.load() if x[1].traces]
  (path / 'blocks' / left[0]).write_bytes(b'1')
  with pytest.warns(UserWarning, match=f'{left[0]} was expected to be'):
    found = run(path, 1, 2, **more)
  numbers.assert_same(found, longer)


@pytest.mark.parametrize(
  'more', [{'num_chains': 3}, {'num_draws': 60}, {'datasets': toy.DATASETS}]
)
def test_a_store_does_not_grow_while_others_are_at_work(tmp_path, more):
  """Pieces would be dealt anew, and marks be of another shape."""
  path = tmp_path / 'store'
  first = {'datasets': {'text': toy.DATASETS['text']}}
  run(path, 0, 2, **first)

  def grow():
    with pytest.raises(ValueError, match=r'process 1 of 2 .* is at work'):
      run(path, 0, 2, **first | more)

  progress, _ = at_call(3, grow)
  run(path, 1, 2, segment=5, progress=progress, **first)
  for index in range(2):
    found = run(path, index, 2, **first | more)
  numbers.assert_same(found, numbers.run(**first | more))


@pytest.mark.parametrize('before', ['', '{"count": 2, "state": "ended"}'])
def test_processes_that_start_together_are_not_strangers(tmp_path, before):
  """One holds its lock a moment before it has said whose it is."""
  other = tmp_path / '1'
  other.write_text(before)
  with open(other, 'rb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    say = lambda: other.write_text('{"count": 3, "state": "preparing"}')
    threading.Timer(0.3, say).start()
    owners.Owner(tmp_path, owners.Process(0, 3)).end()


def test_a_run_of_another_count_is_refused_while_one_lives(tmp_path):
  path = tmp_path / 'store'
  refused = []

  def other(done, total):
    del done, total
    with pytest.raises(ValueError, match=f'process {os.getpid()} on') as error:
      run(path, 1, 2)
    refused.append(str(error.value))

  run(path, 0, 1, progress=other)
  assert 'one run at a time' in refused[0]
  run(path, 0, 2)


def test_a_disk_without_locks_is_said(tmp_path, monkeypatch):
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
def test_a_process_that_cannot_be_is_refused(tmp_path, process):
  with pytest.raises(ValueError, match='process must be a number from 0'):
    rllc_jax.open_store(tmp_path, process=process)
