"""A workdir at an address: what is there is what was here, or was before."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import threading
import time

import jax
import pytest

from experiments import mirror
from experiments import processes
from experiments import remote_files
from experiments import workdirs
from rllc_jax.results import owners
from rllc_jax.results import traces as tables
from tests.experiments import processes_test

settings, alone = processes_test.settings, processes_test.alone


@pytest.fixture
def address(tmp_path):
  return f'file://{tmp_path}/bucket/run'


@pytest.fixture
def begin(tmp_path, address):
  """`begin(index, count)` -> a mirror in a new directory, begun."""

  begun = []

  def make(index=0, count=1):
    here = tmp_path / f'here{len(begun)}'
    here.mkdir()
    remote, process = (
      remote_files.RemoteFiles(address),
      owners.Process(index, count),
    )
    begun.append(mirror.Mirror(remote, here, process))
    begun[-1].begin()
    return begun[-1]

  yield make
  for place in begun:
    place.close()


def write(place, **files):
  for name, text in files.items():
    path = place._local / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def here(place):
  """What a mirror holds, but for its own files and locks."""
  return {
    path.relative_to(place._local).as_posix(): path.read_text()
    for path in place._local.rglob('*')
    if path.is_file() and not {'.mirror', 'owners'} & {*path.parts}
  }


def test_what_one_run_leaves_the_next_one_finds(begin):
  first = begin()
  write(first, a='1', b__c='2', b__d='3')
  first.exchange()
  write(first, a='4')
  (first._local / 'b' / 'd').rename(first._local / 'e')
  first.end()
  second = begin()
  assert here(second) == {'a': '4', 'b/c': '2', 'e': '3'}
  second.end()
  assert here(begin()) == here(second)


def test_two_processes_see_what_the_other_changes(begin):
  first = begin(0, 2)
  write(first, run='1', mark0='a')
  first.exchange()
  second = begin(1, 2)
  assert here(second) == {'run': '1', 'mark0': 'a'}
  write(second, mark1='b', block='c')
  second.exchange()
  write(first, run='2')
  (first._local / 'mark0').unlink()
  first.exchange()
  assert here(first) == {'run': '2', 'mark1': 'b', 'block': 'c'}
  (second._local / 'block').unlink()
  for place in (second, first):
    place.exchange()
    assert here(place) == {'run': '2', 'mark1': 'b'}
  first.end()
  second.end()
  # One that is alone takes over what both made, and may drop any of it.
  third = begin()
  assert here(third) == here(first)
  (third._local / 'mark1').unlink()
  third.end()
  assert here(begin(1, 3)) == {'run': '2'}


def test_an_upload_that_is_cut_short_is_not_seen(begin, monkeypatch):
  """At every file: the directory is there whole, or not at all."""
  first = begin()
  write(first, old='1')
  first.end()
  upload = remote_files.RemoteFiles.upload
  for last in range(4):
    writer, sent = begin(), []

    def cut(remote, path, name, sent=sent, last=last):
      if len(sent) == last:
        raise ConnectionError('cut')
      sent.append(name)
      upload(remote, path, name)

    write(writer, **{f'step__{i}': str(i) for i in range(4)})
    with monkeypatch.context() as patch:
      patch.setattr(remote_files.RemoteFiles, 'upload', cut)
      patch.setattr(mirror, '_TRIES', 2)
      with pytest.raises(ConnectionError):
        writer.exchange()
    writer.tell(ended=True)
    later = begin()
    assert here(later) == {'old': '1'}
    later.end()
  writer.end()
  assert len(here(begin())) == 5


def test_files_that_come_and_go_are_listed_as_of_one_moment(begin):
  """A directory that is moved to its place by another thread."""
  place, stopped = begin(), threading.Event()

  def move():
    while not stopped.is_set():
      write(place, unfinished__a='1', unfinished__b='2')
      (place._local / 'unfinished').rename(place._local / 'done')
      (place._local / 'done').rename(place._local / 'gone')
      for name in 'ab':
        (place._local / 'gone' / name).unlink()
      (place._local / 'gone').rmdir()
      time.sleep(0.002)

  thread = threading.Thread(target=move)
  thread.start()
  try:
    for _ in range(200):
      names = {*place._files_here()}
      assert len({name for name in names if name.startswith('done')}) in (0, 2)
  finally:
    stopped.set()
    thread.join()


def test_what_others_own_is_locked_here(begin):
  first, second = begin(0, 2), begin(1, 2)
  where = [place._local / 'rllc' / 'owners' for place in (first, second)]
  processes = owners.Process(0, 2), owners.Process(1, 2)
  owner = owners.Owner(where[0], processes[0])
  where[1].mkdir(parents=True)

  def state():
    first.exchange()
    second.exchange()
    return owners.state_of_first(where[1], processes[1])

  assert state() == 'preparing'
  owner.say('ready')
  assert state() == 'ready'
  assert owners.others_live(where[1], processes[1]) == [0]
  with pytest.raises(tables.StoreError, match=socket.gethostname()):
    owners.Owner(where[1], owners.Process(0, 1))
  owner.end()
  assert state() == 'ended'
  assert owners.others_live(where[1], processes[1]) == []


def test_a_dead_process_owns_nothing(begin, monkeypatch):
  first, second = begin(0, 2), begin(1, 2)
  owner = owners.Owner(first._local / 'rllc' / 'owners', owners.Process(0, 2))
  first.exchange()
  second.exchange()
  where = second._local / 'rllc' / 'owners'
  assert owners.others_live(where, owners.Process(1, 2)) == [0]
  monkeypatch.setattr(mirror, 'PATIENCE', 0.0)
  second.exchange()
  assert owners.others_live(where, owners.Process(1, 2)) == []
  owner.end()


def test_a_second_run_is_refused_unless_the_first_is_dead(begin, monkeypatch):
  monkeypatch.setattr(mirror, 'PATIENCE', 1.0)
  monkeypatch.setattr(mirror, 'BEAT_SECONDS', 0.1)
  first = begin()
  write(first, a='1')
  first.exchange()
  with workdirs._repeated(first.tell, 0.1):
    with pytest.raises(ValueError, match=f'process {os.getpid()} on'):
      begin()
    with pytest.raises(ValueError, match='one run at a time'):
      begin(0, 2)
  assert here(begin()) == {'a': '1'}


def test_files_that_somebody_copied_there_are_taken(tmp_path, begin):
  there = tmp_path / 'bucket' / 'run'
  (there / 'corpus').mkdir(parents=True)
  (there / 'corpus' / 'a').write_text('1')
  place = begin()
  assert here(place) == {'corpus/a': '1'}
  place.end()
  assert here(begin(1, 2)) == {'corpus/a': '1'}


def test_a_list_that_is_damaged_is_named(tmp_path, begin):
  begin().end()
  path = tmp_path / 'bucket' / 'run' / '.mirror' / '0-of-1.list'
  path.write_text(path.read_text().replace('[]', '["a"]'))
  with pytest.raises(ValueError, match='0-of-1.list'):
    begin()


@pytest.mark.parametrize('name', ['../a', 'b/../../a', 'x' * 300])
def test_nobody_names_a_place_outside(begin, name):
  place = begin(0, 2)
  other = mirror.Mirror(place._remote, place._local, owners.Process(1, 2))
  other._owned = {name: {'state': 'ready'}}
  other.tell()
  with pytest.raises(ValueError, match='must hold files of a run'):
    place.exchange()


def kept(address):
  place = workdirs.place(address)
  return place, workdirs.kept(address, place, owners.Process())


def test_what_cannot_be_brought_there_stays_here(address, monkeypatch):
  monkeypatch.setattr(mirror, '_TRIES', 2)
  place, keeping = kept(address)
  with pytest.raises(OSError, match=f'It is in {place}'), keeping:
    (place / 'a').write_text('1')
    monkeypatch.setattr(remote_files.RemoteFiles, 'upload', lambda *_: 1 / 0)
  assert (place / 'a').read_text() == '1'


def test_an_address_that_refuses_is_one_line(address, monkeypatch):
  class Refused(Exception):
    """As libraries of object stores have them."""

  def refuse(*_):
    raise Refused('no credentials')

  monkeypatch.setattr(remote_files.RemoteFiles, 'versions', refuse)
  place, keeping = kept(address)
  with pytest.raises(OSError, match='Refused: no credentials. See that'):
    with keeping:
      pass
  assert not place.exists()


def test_the_directory_is_gone_when_all_is_there(address, tmp_path):
  place, keeping = kept(address)
  with keeping:
    (place / 'a').write_text('1')
    assert workdirs.shown(place / 'a') == f'{address}/a'
  assert not place.exists()
  assert (tmp_path / 'bucket' / 'run' / 'a').read_text() == '1'


def test_connected_processes_do_not_train_on_an_address(address, monkeypatch):
  place, keeping = kept(address)
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  path = place / 'train' / 'training.zarr'
  with keeping:
    with pytest.raises(ValueError, match=f'got {address}/train'):
      processes.share(path, lambda: None)


@pytest.mark.parametrize('address', ['gs://bucket/run', 'nowhere://run'])
def test_an_address_that_cannot_be_read_is_one_line(settings, address):
  process = processes_test.start('build_corpus', address, *settings)
  last = processes_test.finish(process, status=1).splitlines()[-1]
  assert '--workdir must be a directory, or an address' in last


def wait_for_life(there, process):
  """Waits until a process says at an address that it lives."""
  while process.poll() is None:
    for path in there.glob('.mirror/*.life'):
      with contextlib.suppress(ValueError, OSError):
        if json.loads(path.read_text())['process'] == process.pid:
          return
    time.sleep(0.1)
  raise AssertionError(process.communicate()[0])


@pytest.mark.long
def test_two_processes_on_an_address(tmp_path, address, settings, alone):
  """From text to estimates; one is killed, and later both are told to stop."""
  start, finish = processes_test.start, processes_test.finish
  there = pathlib.Path(address.removeprefix('file://'))
  settings = [*settings, '--config.estimation.num_draws=48']

  def pair(name):
    return [
      start(name, address, f'--process={i}/2', *settings) for i in range(2)
    ]

  for name in ('build_corpus', 'train'):
    for process in pair(name):
      finish(process)
  first, second = pair('estimate_rllc')
  wait_for_life(there, second)
  second.kill()
  second.communicate()
  said = finish(first, status=4)
  assert re.search(r'incomplete: \d+ of 12 cells lack draws', said)
  told = pair('estimate_rllc')
  for process in told:
    wait_for_life(there, process)
  time.sleep(3)  # It may be done by then.
  for process in told:
    process.terminate()
  for process in told:
    assert process.communicate()[0] is not None
    assert process.returncode in (0, 4)
  first, second = pair('estimate_rllc')
  assert f'{address}: everything is kept there' in finish(first)
  finish(second)
  workdir = tmp_path / 'alone'
  shutil.copytree(alone, workdir)
  finish(start('estimate_rllc', workdir, *settings))
  processes_test.assert_same(
    processes_test.traces(there), processes_test.traces(workdir)
  )
  tables = [(p / 'estimates.csv').read_text() for p in (there, workdir)]
  assert tables[0] == tables[1]
  said = finish(start('verify', address, *settings))
  assert re.search('difference of the block done again +0 ', said)
