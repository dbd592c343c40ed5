"""Where a command works: in its workdir, or in a mirror of one elsewhere.

Object stores have no locks and no renames, and all that a run writes depends on
these. So a run on an address works in a directory of its own; what changes
there goes to the address every few seconds and at the end, and what other
processes of the run bring there is taken here.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import pathlib
import shutil
import tempfile
import threading
import time
from typing import Any

from absl import logging

from experiments import mirror
from experiments import remote_files
from rllc_jax.results import owners

_PASS_SECONDS = 3.0

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
  kept_here = _begun(workdir, local, process)
  try:
    with (
      _repeated(kept_here.exchange, _PASS_SECONDS),
      _repeated(kept_here.tell, mirror.BEAT_SECONDS),
    ):
      yield kept_here.end
  finally:
    try:
      kept_here.end()
    except Exception as error:
      del _shown[str(local)]
      raise OSError(
        f'{workdir} must take what was made; got {error}. It is in {local}.'
      ) from error
    shutil.rmtree(local, ignore_errors=True)
    logging.info('%s: everything is kept there', workdir)


def _begun(
  workdir: str, local: pathlib.Path, process: owners.Process
) -> mirror.Mirror:
  """A mirror with all that is at its address."""
  with contextlib.ExitStack() as undone:
    undone.callback(shutil.rmtree, local, ignore_errors=True)
    try:
      remote = remote_files.RemoteFiles(workdir)
      found = mirror.Mirror(remote, local, process)
      found.begin()
    except (ValueError, OSError):
      raise
    except Exception as error:  # Libraries of object stores have their own.
      raise OSError(
        f'{workdir} must be an address to read and write; got '
        f'{type(error).__name__}: {error}. See that the bucket is there and '
        'that this machine may use it.'
      ) from error
    undone.pop_all()
  return found


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
      except Exception as error:  # Those, too.
        logging.warning('tried again in a moment: %s', error)
      pause = max(seconds, time.monotonic() - began)

  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    stopped.set()
    thread.join()
