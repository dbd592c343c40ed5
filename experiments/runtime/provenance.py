"""Records when, where and by which code a run was made, for the report.

There is a file for each run, beside the store. The identity of a store
(`rllc_jax.results.traces`) holds the inputs that its numbers depend on; the
facts here change no number, and several runs may have filled a store.
"""

from importlib import metadata
import json
import pathlib
import platform
import subprocess
import time
from typing import Any

import jax
import ml_collections

from experiments.runtime import processes
from rllc_jax import checked_files

_PACKAGES = ('rllc_jax', 'jax', 'jaxlib', 'numpy', 'optax', 'zarr')
_ENTRIES = (
  'started',
  'seconds',
  'ended',
  'process',
  'devices',
  'git',
  'python',
  'versions',
  'config',
)
_HERE = pathlib.Path(__file__).parents[1]


class Run:
  """The facts of a run, saved in a file of `DIRECTORY/runs`."""

  def __init__(
    self, directory: pathlib.Path, config: ml_collections.ConfigDict
  ):
    """Begins the run now; nothing is written yet.

    Args:
      directory: of the store.
      config: all settings of the run.
    """
    self._began = time.time()
    self._last_write = 0.0  # When the file was last written.
    started = time.gmtime(self._began)
    process = processes.current()
    # Names sort by time; processes that start together differ by index.
    name = time.strftime('%Y%m%dT%H%M%SZ', started)
    name = f'{name}-{process.index}-of-{process.count}.json'
    self._path = directory / 'runs' / name
    facts = {
      'started': time.strftime('%Y-%m-%d %H:%M:%S', started),
      'process': list(process),
      'devices': f'{jax.local_device_count()} x {jax.devices()[0].device_kind}',
      'git': git_commit(),
      'python': platform.python_version(),
      'versions': {name: metadata.version(name) for name in _PACKAGES},
      'config': config.to_dict(),
    }
    # A config may hold values that JSON does not have.
    self._facts = json.loads(json.dumps(facts, default=str))

  def save(self, ended: bool) -> None:
    """Writes the file: once a minute during a run, and at its end.

    Args:
      ended: True at the end; in the file of a killed run it stays false, with
        the seconds of the last write.

    Raises:
      OSError: if the disk is full.
    """
    now = time.time()
    if ended or now - self._last_write >= 60:
      times = {'seconds': round(now - self._began, 1), 'ended': ended}
      checked_files.write_json(self._path, self._facts | times)
      self._last_write = now


def load(directory: pathlib.Path) -> list[dict[str, Any]]:
  """Loads the records of all runs of a store, in the order of time.

  Raises:
    ValueError: a file is not as it was written.
  """
  remedy = 'Put back a copy, or remove it: no number hangs on it.'
  return [
    checked_files.read_json(path, _ENTRIES, remedy)
    for path in sorted((directory / 'runs').glob('*.json'))
  ]


def git_commit() -> str:
  """The commit of this code, with + if files differ from it; '' if unknown."""
  git = lambda *words: subprocess.run(
    ['git', '-C', str(_HERE), *words],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  try:
    changed = git('status', '--porcelain', '--untracked-files=no')
    return git('rev-parse', '--short=12', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):  # No git, or no checkout.
    return ''
