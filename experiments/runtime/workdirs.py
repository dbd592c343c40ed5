"""Local workdirs, and workdirs in object stores.

Estimates are written to an object store as they are made, by any number of
processes. Everything else of a workdir (corpus, checkpoints, tables) depends on
locks and renames, which object stores lack: it is fetched to a temporary
directory when a command begins, and what is new is brought when it ends.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any, TypeVar

from absl import logging

from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.results import files

_LOCAL_ONLY = ('compilation_cache', 'at_work')
# Temporary names: a writer renames these files when they are complete.
_UNFINISHED = re.compile(
  r'\.(new|partial|unfinished)(/|$)|\.orbax-.*-tmp|\.incomplete'
)
_Result = TypeVar('_Result')

# Addresses by the local directory of what was fetched from them.
_addresses: dict[str, str] = {}


def shown(text: Any) -> str:
  """Replaces the local directory of a workdir in a text by its address."""
  text = str(text)
  for local, address in _addresses.items():
    text = text.replace(local, address)
  return text


def place(workdir: str) -> pathlib.Path:
  """The local directory of a run: the workdir, or a new one for an address."""
  workdir = workdir.removeprefix('file://')
  if '://' not in workdir:
    return pathlib.Path(os.path.expanduser(workdir))  # No shell did: --x=~/y.
  local = pathlib.Path(tempfile.mkdtemp(prefix='rllc_jax-')).resolve()
  _addresses[str(local)] = workdir.rstrip('/')
  return local


def store_place(path: pathlib.Path) -> Any:
  """Where the store of a local path is: at the address, if there is one."""
  text = shown(path)
  return text if text != str(path) else path


@contextlib.contextmanager
def fetched(local: pathlib.Path) -> Iterator[Callable[[], None]]:
  """Fetches a workdir from its address, and brings what is new at the end.

  Args:
    local: from `place`; without an address nothing is done.

  Yields:
    A function to call last if the process must end at once.

  Raises:
    ValueError, OSError: if the address cannot be used.
  """
  if str(local) not in _addresses:
    yield lambda: None
    return
  address = _addresses[str(local)]
  root = _errors_as_os_error(address, lambda: files.place(address))
  before = _errors_as_os_error(address, lambda: _fetch(root, local))

  def bring():
    try:
      _errors_as_os_error(address, lambda: _bring(root, local, before))
    except (OSError, ValueError) as error:
      raise OSError(
        f'{address} must take what was made; got {error}. It is in {local}.'
      ) from error

  try:
    yield bring
  finally:
    bring()
    del _addresses[str(local)]
    shutil.rmtree(local, ignore_errors=True)
  logging.info('%s: everything is kept there', address)


def _fetch(root: Any, local: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Downloads files, without those of stores; returns their stamps."""
  root.fs.invalidate_cache()
  for name in _remote_names(root):
    if not (name.isprintable() and checked_files.lies_in(local, name)):
      raise ValueError(
        f'{root} must name files of a run; got {visible.short(name, 80)}. '
        'Remove it.'
      )
    if (
      not name.endswith(files.SUFFIX)
      or '/traces/' not in f'/{name}'
      and ('/chains/' not in f'/{name}')
    ):
      path = local / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes((root / name).read_bytes())
  return _stamps(local)


def _remote_names(root: Any) -> list[str]:
  """Names of all files, without the empty markers of directories."""
  paths = root.fs.find(root.path)
  start = len(root.path.rstrip('/')) + 1
  names = [path[start:] for path in paths]
  return [name for name in names if name and not name.endswith('/')]


def _bring(root: Any, local: pathlib.Path, before: dict) -> None:
  """Uploads what is new, in the order in which it was written."""
  after = _stamps(local)
  new = [name for name in after if before.get(name) != after[name]]
  for name in sorted(new, key=lambda name: after[name]):
    (root / name).write_bytes((local / name).read_bytes())
  for name in before.keys() - after.keys():
    (root / name).unlink(missing_ok=True)
  before.clear()
  before |= after


def _stamps(local: pathlib.Path) -> dict[str, tuple[int, int]]:
  """Time of writing and size of all files that are complete, by name."""
  stamps = {}
  for path in local.rglob('*'):
    name = path.relative_to(local).as_posix()
    if {*path.parts} & {*_LOCAL_ONLY} or _UNFINISHED.search(name):
      continue
    with contextlib.suppress(FileNotFoundError):
      if path.is_file():
        stat = path.stat()
        stamps[name] = stat.st_mtime_ns, stat.st_size
  return stamps


def _errors_as_os_error(address: str, act: Callable[[], _Result]) -> _Result:
  """Turns errors of object-store libraries into an OSError of one line."""
  try:
    return act()
  except (ValueError, OSError):
    raise
  except Exception as error:
    raise OSError(
      f'{address} must be an address to read and write; got '
      f'{type(error).__name__}: {error}. See that the bucket is there and that '
      'this machine may use it.'
    ) from error
