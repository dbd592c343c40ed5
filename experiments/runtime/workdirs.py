"""Where a command works: in its workdir, or in a mirror of one elsewhere.

Object stores have no locks and no renames, and all that a run writes depends on
these. So a run on an address works in a directory of its own, which it fills
with what is there; what changes goes to the address every few seconds and at
the end (`experiments.runtime.mirror`).
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
from rllc_jax.results import owners

_PASS_SECONDS = 3.0
_PATIENCE = (
  120.0  # Seconds in which the address may be out of reach at the end.
)
_PATIENCE_AT_ONCE = 10.0
_Result = TypeVar('_Result')

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
    return pathlib.Path(os.path.expanduser(workdir))  # No shell did: --x=~/y.
  local = pathlib.Path(tempfile.mkdtemp(prefix='rllc_jax-')).resolve()
  _shown[str(local)] = workdir.rstrip('/')
  return local


@contextlib.contextmanager
def kept(
  workdir: str, local: pathlib.Path, process: owners.Process
) -> Iterator[Callable[[], None]]:
  """Brings what is done in a directory to its address, now and at the end.

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
  with contextlib.ExitStack() as undone:
    undone.callback(shutil.rmtree, local, ignore_errors=True)
    found = _told_of(workdir, lambda: _claimed(workdir, local, process))
    with _repeated(found.tell, mirror.BEAT_SECONDS):
      _told_of(workdir, found.receive)
      undone.pop_all()
      before = ''
      try:
        with _repeated(found.send, _PASS_SECONDS):
          yield lambda: _end_at_once(found, local)
      except Exception as error:
        before = f' Before that: {error}'
        raise
      finally:
        _end(found, workdir, local, before)


def _claimed(
  workdir: str, local: pathlib.Path, process: owners.Process
) -> mirror.Mirror:
  if process.count > 1:
    raise ValueError(
      '--workdir must be a directory that all processes see, because they '
      f'lock files in it; got {workdir} for {process.count} of them. Mount it, '
      'or give each process an address and a part of the work of its own.'
    )
  found = mirror.Mirror(remote_files.RemoteFiles(workdir), local)
  found.claim()
  return found


def _told_of(workdir: str, act: Callable[[], _Result]) -> _Result:
  """Makes one line of what libraries of object stores raise."""
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
  found: mirror.Mirror, workdir: str, local: pathlib.Path, before: str
) -> None:
  try:
    _insist(found.end, _PATIENCE)
  except Exception as error:
    del _shown[str(local)]
    raise OSError(
      f'{workdir} must take what was made; got {type(error).__name__}: '
      f'{error}. It is in {local}.{before}'
    ) from error
  shutil.rmtree(local, ignore_errors=True)
  logging.info('%s: everything is kept there', workdir)


def _end_at_once(found: mirror.Mirror, local: pathlib.Path) -> None:
  """The same while the main thread goes on, until the process ends."""
  _insist(found.end, _PATIENCE_AT_ONCE)
  subprocess.Popen(['rm', '-rf', str(local)])


def _insist(act: Callable[[], None], patience: float) -> None:
  """Tries again for so many seconds, less and less often."""
  pause, until = 0.5, time.monotonic() + patience
  while True:
    try:
      return act()
    except ValueError:  # Another run is there.
      raise
    except Exception:
      if time.monotonic() + pause > until:
        raise
    time.sleep(pause)
    pause *= 2


@contextlib.contextmanager
def _repeated(act: Callable[[], None], seconds: float) -> Iterator[None]:
  """Acts again and again; what fails is said, and tried the next time."""
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
      pause = max(seconds, time.monotonic() - began)

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stopped.set()
    thread.join()
