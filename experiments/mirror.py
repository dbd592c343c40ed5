"""A workdir in an object store: worked on in a local directory, kept there.

Object stores have no locks and no renames, and all that a run writes depends on
these. So a run on an address works in a directory of its own; what changes
there goes to the address every few seconds and at the end, and what other
processes of the run bring there is taken here.

A pass uploads files, the oldest change first, and then the list of them,
`.mirror/INDEX-of-COUNT.list`. What no list names was left by a kill: nobody
sees it. Then the process says, in `.mirror/INDEX-of-COUNT.life`, that it lives
and which parts of the workdir are its own; others lock these here, as it does.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import tempfile
import threading
import time
from typing import Any, NamedTuple

from absl import logging
import fsspec

from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.results import owners

PATIENCE = 30.0  # Seconds without a sign of life.
_PASS_SECONDS, _BEAT_SECONDS = 3.0, 2.0
_TRIES = 20
_OURS = '.mirror'
_STAYS_HERE = (_OURS, 'owners', 'compilation_cache')

Stamp = tuple[int, int]  # Nanoseconds of the last change, bytes.


class Life(NamedTuple):
  """A sign of life of a process.

  Attributes:
    host: where it runs.
    process: its number there.
    since: when it began.
    count: of the processes of its run.
    beat: seconds since 1970, by its clock.
    ended: whether this is its last.
    owners: name -> what it says in files by which it owns parts of the workdir.
  """

  host: str
  process: int
  since: str
  count: int
  beat: float
  ended: bool
  owners: dict[str, dict[str, Any]]

  @property
  def fresh(self) -> bool:
    """Whether it lives, or has died just now."""
    return not self.ended and abs(time.time() - self.beat) < PATIENCE


class Remote:
  """The files below an address, by their names relative to it."""

  def __init__(self, address: str):
    """Connects.

    Raises:
      ValueError: if nothing here can read such addresses.
    """
    try:
      self._system, root = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
      raise ValueError(
        '--workdir must be a directory, or an address that fsspec can read '
        f'with what is installed; got {address}: {error}.'
      ) from None
    self._root = root.rstrip('/')
    self.address = address.rstrip('/')

  def versions(self, below: str = '') -> dict[str, str]:
    """All files below a name, each with what changes whenever it does."""
    self._system.invalidate_cache()
    found = self._system.find(self._path(below).rstrip('/'), detail=True)
    start = len(self._root) + 1
    return {path[start:]: _version(info) for path, info in found.items()}

  def read(self, name: str) -> dict[str, Any]:
    """A JSON file that `write` wrote.

    Raises:
      FileNotFoundError: if there is none.
      ValueError: if it is not what was written.
    """
    content = json.loads(self._system.cat_file(self._path(name)))
    if content.pop('checksum', None) != checked_files.checksum(content):
      raise ValueError(f'{self.address}/{name} is not as it was written')
    return content

  def write(self, name: str, content: dict[str, Any]) -> None:
    """Replaces a JSON file, whole or not at all."""
    whole = {**content, 'checksum': checked_files.checksum(content)}
    beside = self._path(f'{name}.new')
    self._make_room(beside)
    self._system.pipe_file(beside, json.dumps(whole).encode())
    self._system.mv(beside, self._path(name))

  def upload(self, path: pathlib.Path, name: str) -> None:
    self._make_room(self._path(name))
    self._system.put_file(str(path), self._path(name))

  def download(self, name: str, path: pathlib.Path) -> None:
    self._system.get_file(self._path(name), str(path))

  def remove(self, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
      self._system.rm_file(self._path(name))

  def _path(self, name: str) -> str:
    return f'{self._root}/{name}'

  def _make_room(self, path: str) -> None:
    # Only where there are directories: a bucket is not ours to make.
    if self._system.protocol == ('file', 'local'):
      self._system.makedirs(os.path.dirname(path), exist_ok=True)


def _version(info: dict[str, Any]) -> str:
  tags = ('ETag', 'etag', 'generation', 'mtime', 'LastModified', 'size')
  return repr([info.get(tag) for tag in tags])


class Mirror:
  """A local directory that is kept the same as what lies at an address."""

  def __init__(
    self, remote: Remote, local: pathlib.Path, process: owners.Process
  ):
    self._remote, self._local, self._process = remote, local, process
    self._name = f'{process.index}-of-{process.count}'
    self._since = time.strftime('%Y-%m-%d %H:%M:%S')
    self._same: dict[str, Stamp] = {}  # Files that are here as they are there.
    self._mine: set[str] = set()  # Of these, what this process answers for.
    self._taken: dict[str, str] = {}  # The others', by version.
    self._listed: list[str] | None = None
    self._locks: dict[str, Any] = {}
    self._owned: dict[str, dict[str, Any]] = {}
    self._ended = False
    self._working, self._telling = threading.Lock(), threading.Lock()

  def begin(self) -> None:
    """Takes all that is there.

    Raises:
      ValueError: if another run is at it, or it cannot be read.
    """
    self._refuse_others()
    alone, lists = self._process.count == 1, self._lists()
    if not lists and not self._process.index:  # What somebody copied there.
      lists = {self._name: [*self._remote.versions()]}
    own = [*lists] if alone else [self._name]
    self._mine = {name for x in own for name in lists.get(x, ())}
    self._take(lists)
    self._mine &= self._same.keys()
    self.send()
    if alone:
      for name in lists.keys() - {self._name}:
        self._remote.remove(f'{_OURS}/{name}.list')

  def end(self) -> None:
    """Brings there what is left, and gives the last sign of life."""
    self.exchange()
    self.tell(ended=True)
    self.close()

  def close(self) -> None:
    """Lets go of what was locked."""
    for lock in self._locks.values():
      lock.close()

  def exchange(self) -> None:
    """Brings there what changed here, and, of others, here what is there."""
    with self._working:
      _insist(self.send)  # A file may be gone before it is brought away.
      if self._process.count > 1:
        self.receive()

  def send(self) -> None:
    """Brings there what changed here.

    Raises:
      OSError: if files come and go too fast to be listed, or it is not to be
        reached.
    """
    owned = self._owned_here()  # Before: what it promises is sent then.
    found = self._files_here()
    changed = [name for name in found if self._same.get(name) != found[name]]
    for name in sorted(changed, key=lambda name: found[name]):
      self._remote.upload(self._local / name, name)
      self._same[name] = found[name]
      self._mine.add(name)
    gone = self._same.keys() - found.keys()
    listed = sorted(self._mine - gone)
    if listed != self._listed:
      self._remote.write(f'{_OURS}/{self._name}.list', {'files': listed})
      self._listed = listed
    for name in gone:
      self._remote.remove(name)
      self._mine.discard(name)
      self._taken.pop(name, None)
      del self._same[name]
    self._owned = owned
    self.tell()

  def receive(self) -> None:
    """Brings here what others of this run changed there."""
    lives = self._lives()
    self._take(self._lists())
    for name, life in lives.items():
      if name != self._name and life.count == self._process.count:
        self._lock(life)

  def tell(self, ended: bool = False) -> None:
    """Gives a sign of life, or the last one."""
    with self._telling:
      self._ended |= ended
      life = Life(
        socket.gethostname(),
        os.getpid(),
        self._since,
        self._process.count,
        time.time(),
        self._ended,
        self._owned,
      )
      self._remote.write(f'{_OURS}/{self._name}.life', life._asdict())

  def _refuse_others(self) -> None:
    """Raises if a run is at it that is not this one; the dead are none."""
    seen = self._lives()
    for name, life in seen.items():
      other = life.count != self._process.count or name == self._name
      if other and life.fresh:
        logging.info('does process %d on %s live?', life.process, life.host)
      while other and life.fresh:
        if (now := self._lives()[name]).beat != life.beat and not now.ended:
          raise ValueError(
            f'{self._remote.address} must be written by one run at a time; got '
            f'another that is still going on: process {now.process} on '
            f'{now.host}, since {now.since}. Wait for it, or use another '
            'address.'
          )
        life = now if now.ended else life
        time.sleep(_BEAT_SECONDS / 2)

  def _lives(self) -> dict[str, Life]:
    said = self._said('life')
    return {name: Life(**content) for name, content in said.items()}

  def _lists(self) -> dict[str, list[str]]:
    said = self._said('list')
    return {name: content['files'] for name, content in said.items()}

  def _said(self, kind: str) -> dict[str, dict[str, Any]]:
    """What processes say, by INDEX-of-COUNT."""
    found = {}
    for name in self._remote.versions(_OURS):
      if name.endswith(f'.{kind}'):
        with contextlib.suppress(FileNotFoundError):
          found[pathlib.PurePath(name).stem] = self._remote.read(name)
    return found

  def _take(self, lists: dict[str, list[str]]) -> None:
    """Takes what lists name, and drops what they name no longer."""
    there = self._remote.versions()
    named = {name for files in lists.values() for name in files}
    others = {*named} - ({*self._same} & self._mine)
    wanted = {name: there[name] for name in others if name in there}
    incoming = self._local / _OURS
    incoming.mkdir(exist_ok=True)
    new = [name for name in wanted if self._taken.get(name) != wanted[name]]
    for i, name in enumerate(new):
      self._place(name)
      self._remote.download(name, incoming / str(i))
    for i, name in enumerate(new):
      self._taken[name] = wanted[name]
      self._same[name] = _stamp(incoming / str(i))
      os.replace(incoming / str(i), self._place(name))
    for name in self._taken.keys() - wanted.keys() - self._mine:
      (self._local / name).unlink(missing_ok=True)
      del self._taken[name], self._same[name]

  def _files_here(self) -> dict[str, Stamp]:
    """The files of a moment: names do not change while they are listed."""
    for _ in range(_TRIES):
      with contextlib.suppress(FileNotFoundError):
        names = self._names_here()
        found = {name: _stamp(self._local / name) for name in names}
        if names == self._names_here():
          return found
    raise OSError(f'{self._local} changes faster than it can be listed')

  def _names_here(self) -> list[str]:
    found = []
    for directory, below, files in os.walk(self._local):
      below[:] = [name for name in below if name not in _STAYS_HERE]
      place = pathlib.Path(directory).relative_to(self._local)
      found += [(place / file).as_posix() for file in files]
    return sorted(found)

  def _owned_here(self) -> dict[str, dict[str, Any]]:
    """What files say of the parts that this process owns."""
    found = dict(self._owned)
    for path in self._local.rglob('owners/*'):
      name = path.relative_to(self._local).as_posix()
      if name not in self._locks and (said := owners.read(path)):
        found[name] = said
    return found

  def _place(self, name: str) -> pathlib.Path:
    """Where a file that others name lies here; its directory is made."""
    if not checked_files.lies_in(self._local, name):
      raise ValueError(
        f'{self._remote.address} must hold files of a run; got one called '
        f'{visible.short(name, 80)}. Remove it.'
      )
    path = self._local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def _lock(self, life: Life) -> None:
    """Makes what another process owns there look owned here."""
    for name, said in life.owners.items():
      path = self._place(name)
      if name not in self._locks:
        self._locks[name] = open(path, 'ab')
      path.write_text(json.dumps(said))
      lives = life.fresh and said['state'] != 'ended'
      how = fcntl.LOCK_EX if lives else fcntl.LOCK_UN
      with contextlib.suppress(BlockingIOError):  # Somebody looks at it now.
        fcntl.flock(self._locks[name], how | fcntl.LOCK_NB)


def _stamp(path: pathlib.Path) -> Stamp:
  found = path.stat()
  return found.st_mtime_ns, found.st_size


# The directory that this process works in, and the address it is kept at.
_shown: dict[str, str] = {}


def shown(text: Any) -> str:
  """A text in which the directory of a mirror is called by its address."""
  text = str(text)
  for local, address in _shown.items():
    text = text.replace(local, address)
  return text


def place(workdir: str) -> pathlib.Path:
  """The directory to work in: the workdir itself, or one for its mirror."""
  if '://' not in workdir:
    return pathlib.Path(workdir)
  local = pathlib.Path(tempfile.mkdtemp(prefix='rllc_jax-')).resolve()
  _shown[str(local)] = workdir.rstrip('/')
  return local


@contextlib.contextmanager
def kept(
  workdir: str, local: pathlib.Path, process: owners.Process
) -> Iterator[Callable[[], None]]:
  """Keeps a directory the same as its address, while something is done in it.

  Args:
    workdir: of the command line; if it is a directory nothing is to be done.
    local: from `place`.
    process: which of those that share the workdir this one is.

  Yields:
    What to do last if the process must end at once.

  Raises:
    ValueError, OSError: if the address cannot be used or another run is at it.
  """
  if str(local) not in _shown:
    yield lambda: None
    return
  try:
    mirror = Mirror(Remote(workdir), local, process)
    mirror.begin()
  except BaseException:
    shutil.rmtree(local, ignore_errors=True)  # Nothing was made yet.
    raise
  stopped = threading.Event()
  threads = [
    threading.Thread(target=_repeat, args=(stopped, *each), daemon=True)
    for each in ((_PASS_SECONDS, mirror.exchange), (_BEAT_SECONDS, mirror.tell))
  ]
  for thread in threads:
    thread.start()
  try:
    yield mirror.end
  finally:
    stopped.set()
    for thread in threads:
      thread.join()
    try:
      mirror.end()
    except Exception as error:
      del _shown[str(local)]
      raise OSError(
        f'{workdir} must take what was made; got {error}. It is in {local}.'
      ) from error
    shutil.rmtree(local, ignore_errors=True)
    logging.info('%s: everything is kept there', workdir)


def _repeat(
  stopped: threading.Event, seconds: float, act: Callable[[], None]
) -> None:
  """Acts again and again; what fails is said, and tried the next time."""
  pause = seconds
  while not stopped.wait(pause):
    began = time.monotonic()
    try:
      act()
    except Exception as error:  # What a system of files raises is its own.
      logging.warning('tried again in a moment: %s', error)
    pause = max(seconds, time.monotonic() - began)


def _insist(act: Callable[[], None]) -> None:
  for left in reversed(range(_TRIES)):
    try:
      return act()
    except OSError:
      if not left:
        raise
      time.sleep(0.1)
