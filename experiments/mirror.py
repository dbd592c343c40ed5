"""A local directory that is kept the same as what lies at an address.

A pass uploads files, the oldest change first, and then the list of them,
`.mirror/INDEX-of-COUNT.list`. What no list names was left by a kill: nobody
sees it. Then the process says, in `.mirror/INDEX-of-COUNT.life`, that it lives
and which parts of the directory are its own; others lock these on their side.
"""

from collections.abc import Callable
import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from typing import Any, NamedTuple

from absl import logging

from experiments import remote_files
from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.results import owners

PATIENCE = 30.0  # Seconds without a sign of life.
BEAT_SECONDS = 2.0
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


class Mirror:
  """A local directory that is kept the same as what lies at an address."""

  def __init__(
    self,
    remote: remote_files.RemoteFiles,
    local: pathlib.Path,
    process: owners.Process,
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
        time.sleep(BEAT_SECONDS / 2)

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


def _insist(act: Callable[[], None]) -> None:
  for left in reversed(range(_TRIES)):
    try:
      return act()
    except OSError:
      if not left:
        raise
      time.sleep(0.1)
