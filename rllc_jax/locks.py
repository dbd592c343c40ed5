"""Locks: a run is at work in a directory.

No number needs them, because files are immutable and draws are addressed. They
keep two runs from doing the same work, and `run.json` from being replaced by
two processes at once. The system releases a lock when its process ends, however
it ends. Object stores have none.
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
import time
from typing import Any, NamedTuple
import warnings

_PATIENCE = 600.0  # Seconds to wait for process 0.
_PAUSE = 0.05
_TRIES = 20  # Who looks whether a file is locked locks it for a moment.
_DIRECTORY = 'at_work'


class LockedError(ValueError):
  """Another process is at work in a directory, or process 0 is not."""


class Process(NamedTuple):
  """The place of a process among those of its run.

  Attributes:
    index: from 0.
    count: the number of processes.
  """

  index: int = 0
  count: int = 1


@contextlib.contextmanager
def held(path: pathlib.Path) -> Iterator[None]:
  """Holds a file's lock, for which other processes wait."""
  with path.open('ab') as file:
    with _warning(path):
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


class Work:
  """A process's share of a run in a directory, until it is ended."""

  def __init__(self, directory: pathlib.Path, process: Process):
    """Begins.

    Raises:
      LockedError: if another process does this share, or one of a run that is
        divided otherwise is at work.
    """
    self._place = directory / _DIRECTORY
    self._place.mkdir(parents=True, exist_ok=True)
    own = self._place / '{}_of_{}'.format(*process)
    self._file = _locked(own)
    try:
      # Locked before it looks, so that one of two runs at least sees the other.
      for path in self._place.iterdir():
        same = path.name.endswith(f'_of_{process.count}')
        if not same and is_held(path):
          raise _refusal(path)
    except BaseException:
      self.end()
      raise

  def end(self) -> None:
    """Ends it; the file stays, and says who was last."""
    self._file.close()


def wait_for(done: Callable[[], bool], directory: pathlib.Path) -> None:
  """Waits for what process 0 of a directory makes, as long as it is at work.

  Args:
    done: true once it is made.
    directory: that of its `Work`.

  Raises:
    LockedError: if there is no process 0 for ten minutes.
  """
  last_alive = time.monotonic()
  while not done():
    if any(map(is_held, (directory / _DIRECTORY).glob('0_of_*'))):
      last_alive = time.monotonic()
    if time.monotonic() > last_alive + _PATIENCE:
      raise LockedError(
        f'{directory} must be prepared by process 0, which shares the work '
        f'with this one; got none within {_PATIENCE:.0f} seconds. Start it, '
        'with the same settings.'
      )
    time.sleep(_PAUSE)


def is_held(path: pathlib.Path) -> bool:
  """True if a live process holds the lock of a file."""
  try:
    with open(path, 'rb') as file:
      # A shared lock: those who look do not block one another.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # No locks, or no file.
    pass
  return False


def _locked(path: pathlib.Path) -> Any:
  """The file, locked; it says who holds it."""
  if path.is_dir():  # A damaged store: no process locks a directory.
    shutil.rmtree(path)
  # Appending: opening must not empty what a live process has written.
  file = open(path, 'ab', buffering=0)
  for _ in range(_TRIES):
    try:
      with _warning(path):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      break
    except BlockingIOError:
      time.sleep(_PAUSE)
  else:
    file.close()
    raise _refusal(path)
  holder = {
    'process': os.getpid(),
    'host': socket.gethostname(),
    'since': time.strftime('%Y-%m-%d %H:%M:%S'),
  }
  file.truncate(0)
  file.write(json.dumps(holder).encode())
  return file


@contextlib.contextmanager
def _warning(path: pathlib.Path) -> Iterator[None]:
  """Warns where a file system has no locks, and goes on."""
  try:
    yield
  except BlockingIOError:
    raise
  except OSError as error:
    warnings.warn(
      f'{path} was expected to be locked, so that no two runs do the same '
      f'work; got {error}. See to it that there is one.',
      stacklevel=4,
    )


def _refusal(path: pathlib.Path) -> LockedError:
  try:
    holder = json.loads(path.read_bytes())
    names = ('process', 'host', 'since')
    process, host, since = (holder[name] for name in names)
  except (OSError, ValueError, KeyError, TypeError):
    process = host = since = 'unknown'
  return LockedError(
    f'{path.parent.parent} must be written by one run at a time; got another '
    f'that is still going on: process {process} on {host}, since {since}. Wait '
    'for it, or use another directory.'
  )
