"""Copies the changes of a local directory to a remote address, atomically.

A step copies the changes between two moments. New files are uploaded to
temporary names. A journal then lists the files to copy to their places and
those to remove; after these operations it is removed. A kill before the journal
leaves the address unchanged. After a kill behind it, the next run applies the
journal. So the address always holds the directory of one moment.

One run at a time writes to an address. It writes a heartbeat, and the next run
waits until there is none.
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

PATIENCE = 15.0  # Seconds without a heartbeat after which a run is dead.
BEAT_SECONDS = 2.0
_TRIES = 20
_INTERNAL = '.mirror'
_JOURNAL, _LIFE, _NEW = (f'{_INTERNAL}/{x}' for x in ('journal', 'life', 'new'))
_LOCAL_ONLY = (_INTERNAL, 'compilation_cache')
# Temporary names: a writer renames these files when they are complete.
_UNFINISHED = re.compile(
  r'\.(new|partial|unfinished)$|\.orbax-.*-tmp|\.incomplete'
)


class Stamp(NamedTuple):
  """Metadata of a file that changes when the file is replaced or written."""

  changed: int  # Nanoseconds.
  size: int
  inode: int


class Mirror:
  """A local directory that is copied to a remote address."""

  def __init__(self, remote: remote_files.RemoteFiles, local: pathlib.Path):
    self._remote, self._local = remote, local
    self._synced: dict[str, Stamp] = {}  # Local files as of the last copy.
    self._identity = {
      'host': socket.gethostname(),
      'process': os.getpid(),
      'since': time.strftime('%Y-%m-%d %H:%M:%S'),
    }
    self._beats, self._ended = 0, False
    self._send_lock, self._life_lock = threading.Lock(), threading.Lock()

  def claim(self) -> None:
    """Waits until no other run uses the address, and claims it.

    Raises:
      ValueError: if another run's heartbeat changes meanwhile.
    """
    life = self._remote.read(_LIFE)
    if not life.get('ended', True):
      holder = life.get('process'), life.get('host')
      logging.info('does process %s on %s live?', *holder)
      # Compares two heartbeats, because clocks of two machines may differ.
      until = time.monotonic() + PATIENCE
      while time.monotonic() < until:
        time.sleep(BEAT_SECONDS / 2)
        now = self._remote.read(_LIFE)
        if now.get('ended', True):
          break
        if now != life:
          raise self._conflict_error(now)
    self._write_life()

  def heartbeat(self) -> None:
    """Writes a heartbeat, unless another run has claimed the address.

    Raises:
      ValueError: if another run took this one for dead.
    """
    self._check_claim()
    self._write_life()

  def receive(self) -> None:
    """Downloads all files, after applying the journal of a killed run.

    Raises:
      ValueError: if a remote file or an entry of the journal is not a plain
        name below the directory.
    """
    self._apply_journal(self._check_journal(self._remote.read(_JOURNAL)))
    incoming = self._local / _INTERNAL
    incoming.mkdir(exist_ok=True)
    for name in self._remote.names():
      if not name.startswith(f'{_INTERNAL}/'):
        place = self._local_path(name)
        self._remote.download(name, place)
        self._synced[name] = _stamp(place)

  def send(self) -> None:
    """Copies local changes to the address.

    Raises:
      OSError: if files change too fast, or the address cannot be reached.
      ValueError: if another run took this one for dead.
    """
    with self._send_lock:
      if not self._ended:
        self._send()

  def end(self) -> None:
    """Copies the last changes and releases the address."""
    with self._send_lock:
      if not self._ended:
        self._send()
        self._ended = True
        self._write_life()

  def _send(self) -> None:
    self._check_claim()
    stamps, links = self._snapshot()
    try:
      changed = {name: f'{_NEW}/{i}' for i, name in enumerate(links)}
      for name, new in changed.items():
        self._remote.upload(links[name], new)
      removed = sorted(self._synced.keys() - stamps.keys())
      if changed or removed:
        # After all uploads: a journal must name complete files.
        journal = {'copy': changed, 'remove': removed}
        self._remote.write(_JOURNAL, journal)
        self._apply_journal(journal)
      self._synced = stamps
    finally:
      shutil.rmtree(self._local / _INTERNAL / 'out', ignore_errors=True)

  def _check_journal(self, journal: dict) -> dict:
    """Checks a remote journal, which anyone with access may have written."""
    new, removed = journal.get('copy'), journal.get('remove')
    if journal and not (isinstance(new, dict) and isinstance(removed, list)):
      raise self._foreign_name_error(_JOURNAL, [*journal])
    for name in [*(new or ()), *(removed or ())]:
      if not self._is_of_run(name):
        raise self._foreign_name_error(_JOURNAL, name)
    uploaded = {*self._remote.names()} if new else set()
    for place in (new or {}).values():
      if not str(place).startswith(f'{_NEW}/') or place not in uploaded:
        raise self._foreign_name_error(_JOURNAL, place)
    return journal

  def _apply_journal(self, journal: dict) -> None:
    """Applies a journal; applying it twice has the same result."""
    if not journal:
      return
    for name, new in journal['copy'].items():
      self._remote.copy(new, name)
    for name in journal['remove']:
      self._remote.remove(name)
    # The journal goes first: it must not name uploads that are gone.
    self._remote.remove(_JOURNAL)
    for new in journal['copy'].values():
      self._remote.remove(new)

  def _snapshot(self) -> tuple[dict[str, Stamp], dict[str, pathlib.Path]]:
    """Stamps of all files at one moment, and hard links to the changed ones.

    A link preserves the content, because writers replace files and never write
    into them.
    """
    out = self._local / _INTERNAL / 'out'
    for _ in range(_TRIES):
      shutil.rmtree(out, ignore_errors=True)
      out.mkdir()
      with contextlib.suppress(FileNotFoundError):
        stamps, links = self._stamps(), {}
        for name in sorted(stamps):
          if self._synced.get(name) != stamps[name]:
            links[name] = out / str(len(links))
            os.link(self._local / name, links[name])
        # The files were those of one moment if none changed while linking.
        if self._stamps() == stamps:
          return stamps, links
      time.sleep(0.05)
    raise OSError(f'{self._local} changes faster than it can be copied')

  def _stamps(self) -> dict[str, Stamp]:
    if not (self._local / _INTERNAL).is_dir():
      raise NotADirectoryError(
        f'{self._local} must stay while a run works in it; somebody removed it'
      )
    stamps = {}
    for directory, below, files in os.walk(self._local):
      below[:] = [name for name in below if _is_mirrored(name)]
      place = pathlib.Path(directory)
      for path in (place / name for name in files if _is_mirrored(name)):
        stamps[path.relative_to(self._local).as_posix()] = _stamp(path)
    return stamps

  def _local_path(self, name: str) -> pathlib.Path:
    """The local path of a remote file, whose directory is created."""
    if not self._is_of_run(name):
      raise self._foreign_name_error('', name)
    path = self._local / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

  def _is_of_run(self, name: Any) -> bool:
    """True for a plain name below the directory, outside the internal one."""
    if not isinstance(name, str):
      return False
    path = pathlib.PurePosixPath(name)
    plain = str(path) == name and '..' not in path.parts
    ours = path.parts[:1] == (_INTERNAL,)
    return plain and not ours and checked_files.lies_in(self._local, name)

  def _foreign_name_error(self, file: str, name: Any) -> ValueError:
    return ValueError(
      f'{"/".join(filter(None, (self._remote.address, file)))} must name files '
      f'of a run; got {visible.short(name, 80)}. Remove it.'
    )

  def _write_life(self) -> None:
    with self._life_lock:
      self._beats += 1
      life = {**self._identity, 'beats': self._beats, 'ended': self._ended}
      self._remote.write(_LIFE, life)

  def _check_claim(self) -> None:
    life = self._remote.read(_LIFE)
    if any(life.get(name) != self._identity[name] for name in self._identity):
      raise self._conflict_error(life)

  def _conflict_error(self, life: dict) -> ValueError:
    fields = ('process', 'host', 'since')
    process, host, since = (life.get(name, 'unknown') for name in fields)
    return ValueError(
      f'{self._remote.address} must be written by one run at a time; got '
      f'another that is still going on: process {process} on {host}, since '
      f'{since}. Wait for it, or use another address.'
    )


def _stamp(path: pathlib.Path) -> Stamp:
  stat = path.stat()
  return Stamp(stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _is_mirrored(name: str) -> bool:
  return name not in _LOCAL_ONLY and not _UNFINISHED.search(name)
