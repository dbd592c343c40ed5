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

from experiments import processes
from rllc_jax.results import files

_PACKAGES = ('rllc_jax', 'jax', 'jaxlib', 'numpy', 'optax', 'zarr')
_HERE = pathlib.Path(__file__).parent


def save(
  directory: pathlib.Path, config: ml_collections.ConfigDict, began: float
) -> None:
  """Keeps what is known of a run that ends now, in `DIRECTORY/runs`.

  Args:
    directory: of the store.
    config: of the run, whole.
    began: when it did, from `time.time`.
  """
  started = time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(began))
  process = processes.current()
  name = f'{started}-{process.index}-of-{process.count}.json'
  record = {
    'started': started,
    'seconds': round(time.time() - began, 1),
    'process': list(process),
    'devices': f'{jax.local_device_count()} x {jax.devices()[0].device_kind}',
    'git': git_commit(),
    'python': platform.python_version(),
    'versions': {name: metadata.version(name) for name in _PACKAGES},
    'config': config.to_dict(),
  }
  content = json.dumps(record, indent=1, default=str)
  files.replace(directory / 'runs' / name, content.encode())


def load(directory: pathlib.Path) -> list[dict[str, Any]]:
  """All that is kept of a store, in the order of time."""
  paths = sorted((directory / 'runs').glob('*.json'))
  return [json.loads(path.read_text('utf-8')) for path in paths]


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
