"""A workdir at an address, which always holds the files of one moment."""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import threading
import time

import pytest

from experiments.runtime import mirror
from experiments.runtime import remote_files
from experiments.runtime import workdirs
from rllc_jax import locks
from tests.experiments import processes_test

settings, alone = processes_test.settings, processes_test.alone
REQUESTS = ('upload', 'write', 'copy', 'remove')


@pytest.fixture
def address(tmp_path):
  return f'file://{tmp_path}/bucket/run'


@pytest.fixture
def begin(tmp_path, address):
  """`begin()` returns a mirror in a new directory, with the remote files."""
  numbers = itertools.count()

  def make():
    here = tmp_path / f'here{next(numbers)}'
    here.mkdir()
    writer = mirror.Mirror(remote_files.RemoteFiles(address), here)
    writer.claim()
    writer.receive()
    return writer

  return make


def write(place, **files):
  """Replaces files, as every writer to a workdir does."""
  for name, text in files.items():
    path = place._local / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f'{path.name}.new')
    beside.write_text(text)
    os.replace(beside, path)


def here(place):
  """Contents of the files of a mirror, without its internal ones."""
  return {
    path.relative_to(place._local).as_posix(): path.read_text()
    for path in place._local.rglob('*')
    if path.is_file() and '.mirror' not in path.parts
  }


def test_a_run_receives_the_files_of_the_last_one(tmp_path, begin):
  first = begin()
  write(first, a='1', b__c='2', b__d='3')
  first.send()
  write(first, a='4')
  (first._local / 'b' / 'd').rename(first._local / 'e')
  first.end()
  life = json.loads((tmp_path / 'bucket/run/.mirror/life').read_text())
  assert life['ended'], 'the next run would wait'
  # Files are there under their names, for whoever looks.
  assert (tmp_path / 'bucket' / 'run' / 'b' / 'c').read_text() == '2'
  second = begin()
  assert here(second) == {'a': '4', 'b/c': '2', 'e': '3'}
  second.end()
  third = begin()
  assert here(third) == here(second)
  assert not third._snapshot()[1], 'nothing is brought twice'


def test_a_kill_at_any_request_leaves_a_moment(begin, monkeypatch):
  """Replaces a file and a directory, removes a file and adds one."""
  before = {'block': 'draws', 'chunk': '', 'step/0': 'a', 'step/1': 'a'}
  after = {'block': 'chains', 'chunk': 'draws', 'step/0': 'b', 'new/0': 'c'}
  states = set()
  for last in itertools.count():
    writer, calls = begin(), itertools.count()
    for name in {*here(writer)} - {*before}:
      (writer._local / name).unlink()
    write(writer, **{k.replace('/', '__'): v for k, v in before.items()})
    writer.send()

    def cut(real, calls=calls, last=last):
      def call(remote, *args):
        if next(calls) == last:
          raise ConnectionError('cut')
        return real(remote, *args)

      return call

    for name in {*before} - {*after}:
      (writer._local / name).unlink()
    write(writer, **{k.replace('/', '__'): v for k, v in after.items()})
    with monkeypatch.context() as patch:
      for name in REQUESTS:
        real = getattr(remote_files.RemoteFiles, name)
        patch.setattr(remote_files.RemoteFiles, name, cut(real))
      try:
        writer.send()
        done = True
      except ConnectionError:
        done = False
    monkeypatch.setattr(mirror, 'PATIENCE', 0.0)
    later = begin()
    assert here(later) in (before, after)
    states.add(later._local.joinpath('block').read_text())
    later.end()
    if done:
      break
  assert last > 12 and states == {'draws', 'chains'}


def test_content_that_moves_between_files_is_never_lost(begin, monkeypatch):
  """Draws go from a block to the table while a slow upload goes on."""
  place = begin()
  write(place, block='draws', chunk='')
  real = remote_files.RemoteFiles.upload

  def slow(remote, path, name):
    write(place, chunk='draws')
    write(place, block='chains')
    real(remote, path, name)

  with monkeypatch.context() as patch:
    patch.setattr(remote_files.RemoteFiles, 'upload', slow)
    place.send()
  monkeypatch.setattr(mirror, 'PATIENCE', 0.0)
  assert here(begin()) == {'block': 'draws', 'chunk': ''}


def test_content_that_moves_during_linking_is_never_lost(begin, monkeypatch):
  place = begin()
  write(place, a_chunk='', block='draws')
  real, calls = os.link, itertools.count()

  def link(path, to):
    real(path, to)
    if not next(calls):  # After the chunk, before the block.
      write(place, a_chunk='draws')
      write(place, block='chains')

  monkeypatch.setattr(os, 'link', link)
  _, links = place._snapshot()
  contents = {name: path.read_text() for name, path in links.items()}
  assert contents == {'a_chunk': 'draws', 'block': 'chains'}


def test_a_snapshot_of_changing_files_is_of_one_moment(begin):
  """A directory that is moved to its place by another thread."""
  place, stopped = begin(), threading.Event()

  def move():
    while not stopped.is_set():
      write(place, begun__a='1', begun__b='2')
      (place._local / 'begun').rename(place._local / 'done')
      (place._local / 'done').rename(place._local / 'gone')
      shutil.rmtree(place._local / 'gone')
      time.sleep(0.01)

  thread = threading.Thread(target=move)
  thread.start()
  try:
    for _ in range(50):
      _, links = place._snapshot()
      contents = {name: path.read_text() for name, path in links.items()}
      assert len([name for name in contents if name.startswith('done')]) in (
        0,
        2,
      )
  finally:
    stopped.set()
    thread.join()


def test_a_second_run_is_refused_unless_the_first_is_dead(begin, monkeypatch):
  monkeypatch.setattr(mirror, 'PATIENCE', 1.0)
  monkeypatch.setattr(mirror, 'BEAT_SECONDS', 0.1)
  first = begin()
  write(first, a='1')
  first.send()
  with workdirs._in_background(first.heartbeat, 0.1):
    with pytest.raises(ValueError, match=f'process {os.getpid()} on'):
      begin()
  second = begin()
  assert here(second) == {'a': '1'}


def test_a_run_taken_for_dead_copies_nothing(begin, monkeypatch):
  monkeypatch.setattr(mirror, 'PATIENCE', 0.0)
  first = begin()
  first._identity['since'] = 'before'
  first._write_life()
  second = begin()
  write(second, a='2')
  second.send()
  write(first, a='1')
  for act in (first.send, first.heartbeat, first.end):
    with pytest.raises(ValueError, match='one run at a time'):
      act()
  second.end()
  assert here(begin()) == {'a': '2'}


def test_a_mirror_removes_nothing_after_its_end(begin):
  place = begin()
  write(place, a='1')
  place.end()
  shutil.rmtree(place._local)
  place.end()
  place.send()
  assert here(begin()) == {'a': '1'}


def test_a_removed_directory_removes_no_remote_files(begin, monkeypatch):
  place = begin()
  write(place, a='1')
  place.send()
  shutil.rmtree(place._local)
  with pytest.raises(OSError):
    place.send()
  monkeypatch.setattr(mirror, 'PATIENCE', 0.0)
  assert here(begin()) == {'a': '1'}


def test_files_copied_to_the_address_are_received(tmp_path, begin):
  there = tmp_path / 'bucket' / 'run'
  (there / 'corpus').mkdir(parents=True)
  (there / 'corpus' / 'a').write_text('1')
  assert here(begin()) == {'corpus/a': '1'}


def test_a_damaged_journal_is_named(tmp_path, begin):
  begin().end()
  path = tmp_path / 'bucket' / 'run' / '.mirror' / 'journal'
  path.write_text('{"copy": {}, "remove": ["a"]}')
  with pytest.raises(ValueError, match='.mirror/journal must be as it was'):
    begin()


@pytest.mark.parametrize('name', ['../a', 'b/../../a', 'x' * 300])
def test_remote_names_outside_the_directory_are_refused(
  begin, monkeypatch, name
):
  place = begin()
  monkeypatch.setattr(remote_files.RemoteFiles, 'names', lambda _: [name])
  with pytest.raises(ValueError, match='must name files of a run'):
    place.receive()


@pytest.mark.parametrize(
  'journal',
  [
    {'copy': {}, 'remove': ['../kept']},
    {'copy': {'../made': '.mirror/new/0'}, 'remove': []},
    {'copy': {'/made': '.mirror/new/0'}, 'remove': []},
    {'copy': {'a': '../kept'}, 'remove': []},
    {'copy': {'a': '.mirror/new/../../../kept'}, 'remove': []},
    {'copy': {'.mirror/life': '.mirror/new/0'}, 'remove': []},
    {'copy': {'a': '.mirror/new/1'}, 'remove': []},  # Is not there.
    {'copy': {'a': 'b'}, 'remove': []},
    {'copy': {'a': 1}, 'remove': []},
    {'copy': {'a': ['.mirror/new/0']}, 'remove': []},
    {'copy': ['a'], 'remove': []},
    {'copy': {}, 'remove': 'a'},
    {'copy': {}, 'remove': [1]},
    {'other': 1},
  ],
  ids=str,
)
def test_a_malicious_journal_changes_nothing(tmp_path, begin, journal):
  """Whoever writes to the address writes the checksum, too."""
  place = begin()
  file = tmp_path / 'bucket' / 'kept'
  file.write_text('1')
  write(place, a='1', b='2')
  place.end()
  place._remote.upload(file, '.mirror/new/0')
  place._remote.write('.mirror/journal', journal)
  names = lambda: sorted((tmp_path / 'bucket').rglob('*'))
  before = names()
  with pytest.raises(ValueError, match='journal must name files of a run; got'):
    begin()
  assert names() == before
  assert (tmp_path / 'bucket' / 'run' / 'a').read_text() == '1'


@pytest.mark.parametrize('life', [{'x': 1}, {'ended': False}, {'ended': 1}])
def test_a_malformed_heartbeat_counts_as_none(begin, monkeypatch, life):
  monkeypatch.setattr(mirror, 'PATIENCE', 0.1)
  monkeypatch.setattr(mirror, 'BEAT_SECONDS', 0.1)
  first = begin()
  first.end()
  first._remote.write('.mirror/life', life)
  begin().end()


@pytest.mark.parametrize('name', ['run[1]', 'run*', 'r?n'])
def test_an_address_that_is_a_pattern_is_refused(name):
  with pytest.raises(ValueError, match=r'without \*, \? and \['):
    remote_files.RemoteFiles(f'memory://{name}')


def test_directory_markers_are_not_files(begin, monkeypatch):
  """Consoles of object stores leave them, with names that end in '/'."""
  place = begin()
  write(place, a='1')
  place.end()
  system = place._remote._system
  list_all = lambda root: [f'{root}/', f'{root}/a', f'{root}/b/']
  monkeypatch.setattr(system, 'find', list_all)
  assert place._remote.names() == ['a']


def test_a_workdir_may_lie_in_the_home(tmp_path, monkeypatch):
  """Shells leave the ~ of --workdir=~/run alone."""
  monkeypatch.setenv('HOME', str(tmp_path))
  assert workdirs.place('~/run') == tmp_path / 'run'
  assert workdirs.place('run~') == pathlib.Path('run~')


def mirrored(address, process=None):
  place = workdirs.place(address)
  return place, workdirs.mirrored(address, place, process or locks.Process())


def test_files_that_cannot_be_copied_stay_local(address, monkeypatch):
  monkeypatch.setattr(workdirs, '_PATIENCE', 0.0)
  place, mirroring = mirrored(address)
  message = f'ZeroDivisionError.*It is in {place}. Before that: no such head'
  with pytest.raises(OSError, match=message), mirroring:
    (place / 'a').write_text('1')
    monkeypatch.setattr(remote_files.RemoteFiles, 'upload', lambda *_: 1 / 0)
    raise ValueError('no such head')
  assert (place / 'a').read_text() == '1'


def test_the_last_copy_is_retried(address, tmp_path, monkeypatch):
  place, mirroring = mirrored(address)
  failures, real = iter(range(2)), remote_files.RemoteFiles.upload

  def fails_twice(*args):
    if next(failures, None) is not None:
      raise ConnectionResetError
    real(*args)

  with mirroring:
    (place / 'a').write_text('1')
    monkeypatch.setattr(remote_files.RemoteFiles, 'upload', fails_twice)
  assert (tmp_path / 'bucket' / 'run' / 'a').read_text() == '1'


def test_the_local_directory_is_removed_after_the_last_copy(address, tmp_path):
  place, mirroring = mirrored(address)
  with mirroring:
    (place / 'a').write_text('1')
    assert workdirs.shown(place / 'a') == f'{address}/a'
  assert not place.exists()
  assert (tmp_path / 'bucket' / 'run' / 'a').read_text() == '1'


def test_a_library_error_of_an_address_is_one_line(address, monkeypatch):
  class Refused(Exception):
    """An exception as libraries of object stores define them."""

  def refuse(*_):
    raise Refused('no credentials')

  monkeypatch.setattr(remote_files.RemoteFiles, 'names', refuse)
  place, mirroring = mirrored(address)
  with pytest.raises(OSError, match='Refused: no credentials. See that'):
    with mirroring:
      pass
  assert not place.exists()


def test_several_processes_need_a_directory(address):
  place, mirroring = mirrored(address, locks.Process(1, 2))
  with pytest.raises(ValueError, match='a directory that all processes see'):
    with mirroring:
      pass
  assert not place.exists()


@pytest.mark.parametrize('address', ['gs://bucket/run', 'nowhere://run'])
def test_an_address_that_cannot_be_read_is_one_line(settings, address):
  process = processes_test.start('build_corpus', address, *settings)
  last = processes_test.finish(process, status=1).splitlines()[-1]
  assert '--workdir must be a directory, or an address' in last


def wait_for_draws(there, process):
  """Waits until a process has copied the first draws to an address."""
  while not [*there.glob('rllc/traces/*.safetensors')]:
    assert process.poll() is None, process.communicate()[0]
    time.sleep(0.05)


@pytest.mark.long
def test_a_run_on_an_address_survives_kills_and_signals(
  tmp_path, address, settings, alone
):
  """From text to estimates, by real processes."""
  start, finish = processes_test.start, processes_test.finish
  there = pathlib.Path(address.removeprefix('file://'))
  settings = [*settings, '--config.sampling.num_draws=400']
  for name in ('build_corpus', 'train'):
    finish(start(name, address, *settings))
  killed = start('estimate_rllc', address, *settings)
  wait_for_draws(there, killed)
  killed.kill()
  killed.communicate()
  process = start('estimate_rllc', address, *settings)
  with contextlib.suppress(ValueError):
    while json.loads((there / '.mirror/life').read_text())['beats'] < 4:
      time.sleep(0.1)
  process.terminate()
  process.communicate()
  assert process.returncode in (0, 4, -15)
  output = finish(start('estimate_rllc', address, *settings))
  assert f'{address}: everything is kept there' in output
  workdir = tmp_path / 'alone'
  shutil.copytree(alone, workdir)
  finish(start('estimate_rllc', workdir, *settings))
  processes_test.assert_same(
    processes_test.traces(there), processes_test.traces(workdir)
  )
  tables = [(p / 'estimates.csv').read_text() for p in (there, workdir)]
  assert tables[0] == tables[1]
  finish(start('verify', address, *settings))
