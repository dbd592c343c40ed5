"""Who writes to a store: the processes of one run, and no other.

Every process locks a file of its own and says there who it is. The system lets
go of the lock when the process ends, however it ends. Process 0 prepares the
store; the others wait until it says that it has. It may come again while others
are at work: they say that before they look at it, and it says that it prepares
before it looks at them, so that one of both always knows.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import fcntl
import json
import os
import pathlib
import socket
import time
from typing import Any, NamedTuple, TypeVar
import warnings

from rllc_jax.results import files
from rllc_jax.results import traces

_PATIENCE = 600.0  # Seconds to wait for process 0.
_PAUSE = 0.05
_TRIES = 20  # Others look at a lock by holding it for a moment.
_Found = TypeVar('_Found')


class Process(NamedTuple):
  """Which of the processes of a run this one is.

  Attributes:
    index: from 0.
    count: of all.
  """

  index: int = 0
  count: int = 1


class Owner:
  """A process's right to write to a store, until it is ended."""

  def __init__(self, directory: pathlib.Path, process: Process):
    self._directory, self._process = directory, process
    directory.mkdir(parents=True, exist_ok=True)
    self._file = _open_locked(directory / str(process.index))
    try:
      self.say('preparing')
      self._refuse_others()
    except BaseException:
      self._file.close()
      raise

  def say(self, state: str) -> None:
    """Writes who holds the lock and how far it is."""
    said = {
      'host': socket.gethostname(),
      'process': os.getpid(),
      'index': self._process.index,
      'count': self._process.count,
      'since': time.strftime('%Y-%m-%d %H:%M:%S'),
      'state': state,
    }
    self._file.seek(0)
    self._file.truncate()
    self._file.write(json.dumps(said).encode())

  def end(self) -> None:
    """Lets others write."""
    with contextlib.suppress(OSError):  # What is told is for people.
      self.say('ended')
    self._file.close()

  def _refuse_others(self) -> None:
    strangers = lambda: [
      path
      for path, said in _living(self._directory, self._process)
      if not _same_run(said, self._process)
    ]
    for path in lasting(strangers):
      raise _taken(path, _read(path))


def state_of_first(directory: pathlib.Path, process: Process) -> str:
  """What process 0 of the same run says of itself, while it lives.

  Returns:
    'preparing', 'ready', or '' if it is dead or of another run; 'ended' is what
    it said last.
  """
  path = directory / '0'
  said = _read(path)
  state = said.get('state', '') if _same_run(said, process) else ''
  return state if state == 'ended' or (state and _held(path)) else ''


def wait_until(
  done: Callable[[], bool],
  directory: pathlib.Path,
  process: Process,
  patience: float | None = None,
) -> None:
  """Waits for what process 0 does, as long as it lives.

  Args:
    done: whether it has.
    directory: where it locks its file.
    process: the one that waits.
    patience: seconds without a process 0 that lives; ten minutes by default.

  Raises:
    StoreError: if there is none for so long.
  """
  patience = _PATIENCE if patience is None else patience
  seen = time.monotonic()
  while not done():
    if state_of_first(directory, process) in ('preparing', 'ready'):
      seen = time.monotonic()
    if time.monotonic() > seen + patience:
      raise traces.StoreError(
        f'{directory.parent} must be prepared by process 0 of {process.count}, '
        f'which shares the work with this one; got none within {patience:.0f} '
        'seconds. Start it, with the same settings.'
      )
    time.sleep(_PAUSE)


def others_live(directory: pathlib.Path, process: Process) -> list[int]:
  """Which other processes of the same run live."""
  return [
    int(path.name)
    for path, said in _living(directory, process)
    if not said or _same_run(said, process)
  ]


def others_at_work(directory: pathlib.Path, process: Process) -> list[int]:
  """Which of the others do not wait for process 0 any more."""
  return [
    int(path.name)
    for path, said in _living(directory, process)
    if said.get('state') != 'preparing'
  ]


def lasting(look: Callable[[], list[_Found]]) -> list[_Found]:
  """What is found again and again for a second.

  A process that begins holds its lock before it says what it is.
  """
  found = look()
  for _ in range(_TRIES):
    if not found:
      break
    time.sleep(_PAUSE)
    now = look()
    found = [x for x in found if x in now]
  return found


def _living(
  directory: pathlib.Path, process: Process
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """Files of other processes that live, and what they say."""
  for path in sorted(directory.iterdir()):
    if path.name != str(process.index) and _held(path):
      yield path, _read(path)


def _open_locked(path: pathlib.Path) -> Any:
  if path.is_dir():  # Nobody's lock.
    files.remove(path)
  # What no disk takes must not be left to be written at the end.
  file = open(path, 'ab', buffering=0)
  for _ in range(_TRIES):
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      return file
    except BlockingIOError:
      time.sleep(_PAUSE)
    except OSError as error:
      warnings.warn(
        f'{path} was expected to be locked, so that no two runs write to one '
        f'directory; got {error}. See to it that there is one.',
        stacklevel=4,
      )
      return file
  file.close()
  raise _taken(path, _read(path))


def _held(path: pathlib.Path) -> bool:
  """Whether a process that lives holds the lock."""
  try:
    with open(path, 'rb') as file:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # No locks, or no file.
    pass
  return False


def _read(path: pathlib.Path) -> dict[str, Any]:
  """What an owner says; nothing while it writes it."""
  try:
    said = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return said if isinstance(said, dict) else {}


def _same_run(said: dict[str, Any], process: Process) -> bool:
  return said.get('count') == process.count


def _taken(path: pathlib.Path, said: dict[str, Any]) -> traces.StoreError:
  known = ('process', 'host', 'since')
  process, host, since = (said.get(name, 'unknown') for name in known)
  return traces.StoreError(
    f'{path.parent.parent} must be written by one run at a time; got another '
    f'that is still going on: process {process} on {host}, since {since}. Wait '
    'for it, or use another directory.'
  )
