"""Local workdirs, and local mirrors of workdirs in object stores.

Object stores have no locks and no renames, on which all files of a run depend.
So a run on an address works in a temporary directory, which is filled from the
address. Changes are copied back every few seconds and at the end
(`experiments.runtime.mirror`).
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
import time
from typing import Any, TypeVar

from absl import logging

from experiments.runtime import mirror
from experiments.runtime import remote_files
from rllc_jax import locks

_PASS_SECONDS = 3.0
# Seconds in which the address may be out of reach at the end.
_PATIENCE = 120.0
_PATIENCE_AT_ONCE = 10.0  # After a signal: a preempted machine has little time.
_Result = TypeVar('_Result')

# Addresses by the local directory of their mirror.
_addresses: dict[str, str] = {}


def shown(text: Any) -> str:
  """Replaces the local directory of a mirror in a text by its address."""
  text = str(text)
  for local, address in _addresses.items():
    text = text.replace(local, address)
  return text


def place(workdir: str) -> pathlib.Path:
  """The local directory of a run: the workdir, or a new one for a mirror."""
  if '://' not in workdir:
    return pathlib.Path(os.path.expanduser(workdir))  # No shell did: --x=~/y.
  local = pathlib.Path(tempfile.mkdtemp(prefix='rllc_jax-')).resolve()
  _addresses[str(local)] = workdir.rstrip('/')
  return local


@contextlib.contextmanager
def mirrored(
  workdir: str, local: pathlib.Path, process: locks.Process
) -> Iterator[Callable[[], None]]:
  """Copies a directory to its address while the context lasts and at its end.

  Args:
    workdir: of the command line; if it is a directory nothing is copied.
    local: from `place`.
    process: index of this process and number of processes.

  Yields:
    A function to call last if the process must end at once.

  Raises:
    ValueError, OSError: if the address cannot be used or another run uses it.
  """
  if str(local) not in _addresses:
    yield lambda: None
    return
  with contextlib.ExitStack() as cleanup:
    cleanup.callback(shutil.rmtree, local, ignore_errors=True)
    replica = _errors_as_os_error(
      workdir, lambda: _claim_address(workdir, local, process)
    )
    with _in_background(replica.heartbeat, mirror.BEAT_SECONDS):
      _errors_as_os_error(workdir, replica.receive)
      cleanup.pop_all()  # From here the directory may hold unsaved results.
      earlier = ''
      try:
        with _in_background(replica.send, _PASS_SECONDS):
          yield lambda: _end_at_once(replica, local)
      except Exception as error:
        earlier = f' Before that: {error}'
        raise
      finally:
        _end(replica, workdir, local, earlier)


def _claim_address(
  workdir: str, local: pathlib.Path, process: locks.Process
) -> mirror.Mirror:
  if process.count > 1:
    raise ValueError(
      '--workdir must be a directory that all processes see, because they '
      f'lock files in it; got {workdir} for {process.count} of them. Mount it, '
      'or give each process an address and a part of the work of its own.'
    )
  replica = mirror.Mirror(remote_files.RemoteFiles(workdir), local)
  replica.claim()
  return replica


def _errors_as_os_error(workdir: str, act: Callable[[], _Result]) -> _Result:
  """Turns errors of object-store libraries into an OSError of one line."""
  try:
    return act()
  except (ValueError, OSError):
    raise
  except Exception as error:
    raise OSError(
      f'{workdir} must be an address to read and write; got '
      f'{type(error).__name__}: {error}. See that the bucket is there and that '
      'this machine may use it.'
    ) from error


def _end(
  replica: mirror.Mirror, workdir: str, local: pathlib.Path, earlier: str
) -> None:
  try:
    _retry(replica.end, _PATIENCE)
  except Exception as error:
    del _addresses[str(local)]
    raise OSError(
      f'{workdir} must take what was made; got {type(error).__name__}: '
      f'{error}. It is in {local}.{earlier}'
    ) from error
  shutil.rmtree(local, ignore_errors=True)
  logging.info('%s: everything is kept there', workdir)


def _end_at_once(replica: mirror.Mirror, local: pathlib.Path) -> None:
  """Ends the mirror while the main thread goes on, before the process ends."""
  _retry(replica.end, _PATIENCE_AT_ONCE)
  # In another process: the main thread may still write files here.
  subprocess.Popen(['rm', '-rf', str(local)])


def _retry(act: Callable[[], None], patience: float) -> None:
  """Retries for `patience` seconds, with pauses that double."""
  pause, until = 0.5, time.monotonic() + patience
  while True:
    try:
      return act()
    except ValueError:  # Another run has claimed the address: no use to retry.
      raise
    except Exception:
      if time.monotonic() + pause > until:
        raise
    time.sleep(pause)
    pause *= 2


@contextlib.contextmanager
def _in_background(act: Callable[[], None], seconds: float) -> Iterator[None]:
  """Calls a function every few seconds in a thread; logs errors and retries."""
  stopped = threading.Event()

  def repeat():
    pause = seconds
    while not stopped.wait(pause):
      began = time.monotonic()
      try:
        act()
      except Exception as error:
        message = 'tried again in a moment: %s'
        logging.log_every_n_seconds(logging.WARNING, message, 60, error)
      # A slow connection must not be used all the time.
      pause = max(seconds, time.monotonic() - began)

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stopped.set()
    thread.join()
