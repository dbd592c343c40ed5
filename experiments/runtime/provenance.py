"""Who made what: a file a run, kept beside the numbers, printed by the report.

The identity of a store (`rllc_jax.results.traces`) says what its numbers are.
This says how they came to be: it changes no number, and any number of runs may
have had a share in a store.
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
  """Keeps what is known of a run in a file of `DIRECTORY/runs`."""

  def __init__(
    self, directory: pathlib.Path, config: ml_collections.ConfigDict
  ):
    """Begins the run now; nothing is written yet.

    Args:
      directory: of the store.
      config: of the run, whole.
    """
    self._began = time.time()
    self._kept = 0.0  # When the file was last written.
    started = time.gmtime(self._began)
    process = processes.current()
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
    # A config may hold what JSON does not have.
    self._facts = json.loads(json.dumps(facts, default=str))

  def keep(self, ended: bool) -> None:
    """Writes the file: of a run that goes on, once a minute.

    Args:
      ended: whether the run has; of one that is killed, this stays false and
        its seconds are of the last time.

    Raises:
      OSError: if the disk does not take it.
    """
    now = time.time()
    if ended or now - self._kept >= 60:
      times = {'seconds': round(now - self._began, 1), 'ended': ended}
      checked_files.write_json(self._path, self._facts | times)
      self._kept = now


def load(directory: pathlib.Path) -> list[dict[str, Any]]:
  """All that is kept of the runs of a store, in the order of time.

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
  ask = lambda *words: subprocess.run(
    ['git', '-C', str(_HERE), *words],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.strip()
  try:
    changed = ask('status', '--porcelain', '--untracked-files=no')
    return ask('rev-parse', '--short=12', 'HEAD') + ('+' if changed else '')
  except (OSError, subprocess.CalledProcessError):
    return ''
