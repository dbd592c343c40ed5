"""Locks of a store: only the processes of one run may write to it.

Every process locks its own file and writes its state there. The system releases
the lock when the process ends, however it ends. Process 0 prepares the store;
the others wait for its state "ready". It may be restarted while others are at
work. Each side publishes its state before reading the other's, so at least one
sees the conflict.
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
_TRIES = 20  # A reader of the state holds a shared lock for a moment.
_Entry = TypeVar('_Entry')


class Process(NamedTuple):
  """The place of a process among those of its run.

  Attributes:
    index: from 0.
    count: the number of processes.
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
      # Before it reads the others' states: see the module's docstring.
      self.say('preparing')
      self._refuse_others()
    except BaseException:
      self._file.close()
      raise

  def say(self, state: str) -> None:
    """Writes the holder of the lock and its state to the locked file."""
    content = {
      'host': socket.gethostname(),
      'process': os.getpid(),
      'index': self._process.index,
      'count': self._process.count,
      'since': time.strftime('%Y-%m-%d %H:%M:%S'),
      'state': state,
    }
    self._file.seek(0)
    self._file.truncate()
    self._file.write(json.dumps(content).encode())

  def end(self) -> None:
    """Releases the lock."""
    with contextlib.suppress(OSError):  # A full disk: the state is for people.
      self.say('ended')
    self._file.close()

  def _refuse_others(self) -> None:
    other_runs = lambda: [
      path
      for path, state in _live_files(self._directory, self._process)
      if not _is_same_run(state, self._process)
    ]
    for path in stable_for_one_second(other_runs):
      raise _locked_error(path, _read(path))


def state_of_first(directory: pathlib.Path, process: Process) -> str:
  """The state of process 0 of the same run, while it is alive.

  Returns:
    'preparing', 'ready', or '' if it is dead or of another run; 'ended' if it
    ended normally.
  """
  path = directory / '0'
  content = _read(path)
  state = content.get('state', '') if _is_same_run(content, process) else ''
  return state if state == 'ended' or (state and _is_locked(path)) else ''


def wait_until(
  done: Callable[[], bool],
  directory: pathlib.Path,
  process: Process,
  patience: float | None = None,
) -> None:
  """Waits until process 0 has prepared the store, as long as it is alive.

  Args:
    done: returns True once it has.
    directory: where it locks its file.
    process: the one that waits.
    patience: seconds without a process 0 that lives; ten minutes by default.

  Raises:
    StoreError: if there is none for so long.
  """
  patience = _PATIENCE if patience is None else patience
  last_alive = time.monotonic()
  while not done():
    if state_of_first(directory, process) in ('preparing', 'ready'):
      last_alive = time.monotonic()
    if time.monotonic() > last_alive + patience:
      raise traces.StoreError(
        f'{directory.parent} must be prepared by process 0 of {process.count}, '
        f'which shares the work with this one; got none within {patience:.0f} '
        'seconds. Start it, with the same settings.'
      )
    time.sleep(_PAUSE)


def live_peers(directory: pathlib.Path, process: Process) -> list[int]:
  """Indices of the other live processes of the same run."""
  return [
    int(path.name)
    for path, state in _live_files(directory, process)
    if not state or _is_same_run(state, process)
  ]


def peers_at_work(directory: pathlib.Path, process: Process) -> list[int]:
  """Indices of the other live processes that no longer wait for process 0."""
  return [
    int(path.name)
    for path, state in _live_files(directory, process)
    if state.get('state') != 'preparing'
  ]


def stable_for_one_second(poll: Callable[[], list[_Entry]]) -> list[_Entry]:
  """Entries present in every poll for one second.

  A process that starts holds its lock a moment before its state is written.
  """
  entries = poll()
  for _ in range(_TRIES):
    if not entries:
      break
    time.sleep(_PAUSE)
    current = poll()
    entries = [x for x in entries if x in current]
  return entries


def _live_files(
  directory: pathlib.Path, process: Process
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """Files of other live processes, with their content."""
  for path in sorted(directory.iterdir()):
    if path.name != str(process.index) and _is_locked(path):
      yield path, _read(path)


def _open_locked(path: pathlib.Path) -> Any:
  if path.is_dir():  # A damaged store: no process locks a directory.
    files.remove(path)
  # Appending: opening must not empty the state of a live owner. Unbuffered: on
  # a full disk a buffer would fail again when it is closed.
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
  raise _locked_error(path, _read(path))


def _is_locked(path: pathlib.Path) -> bool:
  """True if a live process holds the lock."""
  try:
    with open(path, 'rb') as file:
      # A shared lock: readers do not block one another.
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
  except BlockingIOError:
    return True
  except OSError:  # No locks, or no file.
    pass
  return False


def _read(path: pathlib.Path) -> dict[str, Any]:
  """The content of a lock file; {} while it is being written."""
  try:
    content = json.loads(path.read_bytes())
  except (OSError, ValueError):
    return {}
  return content if isinstance(content, dict) else {}


def _is_same_run(content: dict[str, Any], process: Process) -> bool:
  return content.get('count') == process.count


def _locked_error(
  path: pathlib.Path, content: dict[str, Any]
) -> traces.StoreError:
  names = ('process', 'host', 'since')
  process, host, since = (content.get(name, 'unknown') for name in names)
  return traces.StoreError(
    f'{path.parent.parent} must be written by one run at a time; got another '
    f'that is still going on: process {process} on {host}, since {since}. Wait '
    'for it, or use another directory.'
  )
