"""What changes in a local directory, brought to an address in whole steps.

A step is what changed between two moments. New files are uploaded beside; then
a journal says what is to go where, and what is to be removed; then that is done
there, and the journal is removed. A kill before the journal leaves the address
as it was, and one after it leaves the journal, which the next run carries out:
what is there is always the directory of one moment.

One run at a time writes to an address: it gives signs of life, and the next one
waits until there are none.
"""

import contextlib
import os
import pathlib
import re
import shutil
import socket
import threading
import time
from typing import Any, NamedTuple

from absl import logging

from experiments.runtime import remote_files
from rllc_jax import checked_files
from rllc_jax import visible

PATIENCE = 15.0  # Seconds without a sign of life.
BEAT_SECONDS = 2.0
_TRIES = 20
_OURS = '.mirror'
_JOURNAL, _LIFE, _NEW = (f'{_OURS}/{x}' for x in ('journal', 'life', 'new'))
_STAYS_HERE = (_OURS, 'compilation_cache')
# What these names are of is moved to its place, or given up.
_UNFINISHED = re.compile(
  r'\.(new|partial|unfinished)$|\.orbax-.*-tmp|\.incomplete'
)


class Stamp(NamedTuple):
  """What changes whenever a file does: it is replaced, or written to."""

  changed: int  # Nanoseconds.
  size: int
  inode: int


class Mirror:
  """A local directory whose files are brought to an address."""

  def __init__(self, remote: remote_files.RemoteFiles, local: pathlib.Path):
    self._remote, self._local = remote, local
    self._same: dict[str, Stamp] = {}  # Files that are here as they are there.
    self._own = {
      'host': socket.gethostname(),
      'process': os.getpid(),
      'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    }
    self._beats, self._ended = 0, False
    self._working, self._telling = threading.Lock(), threading.Lock()

  def claim(self) -> None:
    """Waits until no other run lives there, and says that this one does.

    Raises:
      ValueError: if another one does.
    """
    life = self._remote.read(_LIFE)
    if not life.get('ended', True):
      known = life.get('process'), life.get('host')
      logging.info('does process %s on %s live?', *known)
      until = time.monotonic() + PATIENCE
      while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 2)
        now = self._remote.read(_LIFE)
        if now.get('ended', True):
          break
        if now != life:
          raise self._taken(now)
    self._say()

  def tell(self) -> None:
    """Gives a sign of life, as long as nobody else does.

    Raises:
      ValueError: if another run took this one for dead.
    """
    self._check_ours()
    self._say()

  def receive(self) -> None:
    """Takes all that is there, after what a kill left to do there.

    Raises:
      ValueError: if a file there lies nowhere here, or the journal names others
        than those of a run.
    """
    self._carry_out(self._checked(self._remote.read(_JOURNAL)))
    incoming = self._local / _OURS
    incoming.mkdir(exist_ok=True)
    for name in self._remote.names():
      if not name.startswith(f'{_OURS}/'):
        place = self._place(name)
        self._remote.download(name, place)
        self._same[name] = _stamp(place)

  def send(self) -> None:
    """Brings there what changed here.

    Raises:
      OSError: if files change too fast, or it is not to be reached.
      ValueError: if another run took this one for dead.
    """
    with self._working:
      if not self._ended:
        self._send()

  def end(self) -> None:
    """Brings there what is left, and nothing from then on."""
    with self._working:
      if not self._ended:
        self._send()
        self._ended = True
        self._say()

  def _send(self) -> None:
    self._check_ours()
    found, taken = self._snapshot()
    try:
      changed = {name: f'{_NEW}/{i}' for i, name in enumerate(taken)}
      for name, new in changed.items():
        self._remote.upload(taken[name], new)
      gone = sorted(self._same.keys() - found.keys())
      if changed or gone:
        journal = {'copy': changed, 'remove': gone}
        self._remote.write(_JOURNAL, journal)
        self._carry_out(journal)
      self._same = found
    finally:
      shutil.rmtree(self._local / _OURS / 'out', ignore_errors=True)

  def _checked(self, journal: dict) -> dict:
    """A journal that was found there: whoever can write there wrote it."""
    new, gone = journal.get('copy'), journal.get('remove')
    if journal and not (isinstance(new, dict) and isinstance(gone, list)):
      raise self._stranger(_JOURNAL, [*journal])
    for name in [*(new or ()), *(gone or ())]:
      if not self._is_of_run(name):
        raise self._stranger(_JOURNAL, name)
    there = {*self._remote.names()} if new else set()
    for place in (new or {}).values():
      if not str(place).startswith(f'{_NEW}/') or place not in there:
        raise self._stranger(_JOURNAL, place)
    return journal

  def _carry_out(self, journal: dict) -> None:
    """Does what a journal says; done twice, it is as if done once."""
    if not journal:
      return
    for name, new in journal['copy'].items():
      self._remote.copy(new, name)
    for name in journal['remove']:
      self._remote.remove(name)
    self._remote.remove(_JOURNAL)
    for new in journal['copy'].values():
      self._remote.remove(new)

  def _snapshot(self) -> tuple[dict[str, Stamp], dict[str, pathlib.Path]]:
    """The files of one moment, and where what changed is kept meanwhile.

    Links keep what files are, since here they are replaced and not rewritten.
    """
    out = self._local / _OURS / 'out'
    for _ in range(_TRIES):
      shutil.rmtree(out, ignore_errors=True)
      out.mkdir()
      with contextlib.suppress(FileNotFoundError):
        found, taken = self._stamps(), {}
        for name in sorted(found):
          if self._same.get(name) != found[name]:
            taken[name] = out / str(len(taken))
            os.link(self._local / name, taken[name])
        if self._stamps() == found:
          return found, taken
      time.sleep(0.05)
    raise OSError(f'{self._local} changes faster than it can be copied')

  def _stamps(self) -> dict[str, Stamp]:
    if not (self._local / _OURS).is_dir():
      raise NotADirectoryError(
        f'{self._local} must stay while a run works in it; somebody removed it'
      )
    found = {}
    for directory, below, files in os.walk(self._local):
      below[:] = [name for name in below if _is_brought(name)]
      place = pathlib.Path(directory)
      for path in (place / name for name in files if _is_brought(name)):
        found[path.relative_to(self._local).as_posix()] = _stamp(path)
    return found

  def _place(self, name: str) -> pathlib.Path:
    """Where a file from there lies here; its directory is made."""
    if not self._is_of_run(name):
      raise self._stranger('', name)
    path = self._local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def _is_of_run(self, name: Any) -> bool:
    """Whether it is a plain name of a file in the directory, and not ours."""
    if not isinstance(name, str):
      return False
    path = pathlib.PurePosixPath(name)
    plain = str(path) == name and '..' not in path.parts
    ours = path.parts[:1] == (_OURS,)
    return plain and not ours and checked_files.lies_in(self._local, name)

  def _stranger(self, file: str, name: Any) -> ValueError:
    return ValueError(
      f'{"/".join(filter(None, (self._remote.address, file)))} must name files '
      f'of a run; got {visible.short(name, 80)}. Remove it.'
    )

  def _say(self) -> None:
    with self._telling:
      self._beats += 1
      life = {**self._own, 'beats': self._beats, 'ended': self._ended}
      self._remote.write(_LIFE, life)

  def _check_ours(self) -> None:
    life = self._remote.read(_LIFE)
    if any(life.get(name) != self._own[name] for name in self._own):
      raise self._taken(life)

  def _taken(self, life: dict) -> ValueError:
    known = ('process', 'host', 'since')
    process, host, since = (life.get(name, 'unknown') for name in known)
    return ValueError(
      f'{self._remote.address} must be written by one run at a time; got '
      f'another that is still going on: process {process} on {host}, since '
      f'{since}. Wait for it, or use another address.'
    )


def _stamp(path: pathlib.Path) -> Stamp:
  found = path.stat()
  return Stamp(found.st_mtime_ns, found.st_size, found.st_ino)


def _is_brought(name: str) -> bool:
  return name not in _STAYS_HERE and not _UNFINISHED.search(name)
