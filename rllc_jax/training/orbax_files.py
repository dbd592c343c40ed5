"""Trees of arrays on disk: the one module that imports Orbax.

Orbax's log lines are suppressed, and its many exceptions become one with a text
of one line. Faults that Orbax passes over (zeroed data, other shapes, other
dtypes) are detected in `training.checkpoints`.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import gc
import json
import logging
import pathlib
import shutil
import sys
import time
from typing import Any, TypeVar
import warnings

import jax
from orbax.checkpoint import v1 as ocp

from rllc_jax import types

_Result = TypeVar('_Result')
METADATA = '_CHECKPOINT_METADATA'
SKIPPED = ocp.PLACEHOLDER
_TREE = '_METADATA'  # The file in which Orbax describes a tree.
_ITEM = 'state'  # The folder to which the v1 API writes a tree.
_UNFINISHED = '.orbax-checkpoint-tmp'
_SETTLING_SECONDS = 0.1  # For late messages of a failed read, see `_quietly`.


class OrbaxError(OSError):
  """A failure of Orbax; the text is its message, with the type of error."""


def write(path: pathlib.Path, arrays: types.PyTree, record: Any) -> None:
  """Writes numpy arrays and a JSON value to a new directory atomically.

  All connected processes must call it with equal arguments; one of them writes.

  Args:
    path: the directory, which must not exist.
    arrays: a tree of numpy arrays.
    record: any JSON value.

  Raises:
    OSError: if the disk fails.
  """
  # If Orbax cannot write, it leaves threads that delay the exit by minutes.
  path.parent.mkdir(parents=True, exist_ok=True)
  if not jax.process_index():
    clear_unfinished(path.parent)
  try:
    _quietly(lambda: ocp.save(str(path), arrays, custom_metadata=record))
  except OrbaxError:
    # The partial files may be what fills the disk.
    clear_unfinished(path.parent)
    raise


def read(
  path: pathlib.Path,
  template: types.PyTree | None = None,
  item: str | None = _ITEM,
) -> types.PyTree:
  """Reads arrays, as dicts and lists, or in the structure of a template.

  Args:
    path: the directory.
    template: numpy arrays; `SKIPPED` for leaves not to read.
    item: the subdirectory that holds the tree; None for the directory itself.
  """
  return _quietly(
    lambda: ocp.load(str(path), template, checkpointable_name=item), alone=True
  )


def read_shapes(path: pathlib.Path, item: str | None) -> types.PyTree | None:
  """Reads a tree of values with shapes and dtypes; None if Orbax cannot."""
  return _quietly(
    lambda: ocp.metadata(str(path), checkpointable_name=item).metadata,
    alone=True,
  )


def read_metadata(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads the metadata of a checkpoint; None if the file is missing.

  Raises:
    ValueError: if it is not a JSON object.
  """
  try:
    content = json.loads((path / METADATA).read_bytes())
  except FileNotFoundError:
    return None
  if not isinstance(content, dict):
    raise ValueError(f'a {type(content).__name__}')
  return content


def items(path: pathlib.Path) -> Sequence[str | None]:
  """Lists subdirectories with trees; [None] if the directory itself has one."""
  if (path / _TREE).is_file():
    return [None]
  return sorted(child.parent.name for child in path.glob(f'*/{_TREE}'))


def may_be_ours(path: pathlib.Path) -> bool:
  """True if a folder may be of `write`, with or without its record."""
  return (path / _ITEM).is_dir() and list(items(path)) in ([], [_ITEM])


def delete(path: pathlib.Path) -> None:
  """Removes a checkpoint; if killed halfway, it counts as unfinished."""
  # Renamed first, because a half-removed checkpoint would look damaged.
  discarded = path.with_name(f'{path.name}.deleted{_UNFINISHED}')
  path.rename(discarded)
  shutil.rmtree(discarded)


def clear_unfinished(directory: pathlib.Path) -> None:
  """Removes remains of killed writes and deletions from a directory."""
  for path in directory.glob(f'*{_UNFINISHED}'):
    shutil.rmtree(path, ignore_errors=True)


def _quietly(function: Callable[[], _Result], alone: bool = False) -> _Result:
  """Calls Orbax without logging; turns its exceptions into `OrbaxError`.

  Args:
    function: calls Orbax.
    alone: does not wait for other processes.
  """
  options = ocp.Context()
  if alone:  # Other processes may read other checkpoints at this time.
    process = jax.process_index()
    options.multiprocessing.primary_host = process
    options.multiprocessing.active_processes = {process}
    options.multiprocessing.barrier_sync_key_prefix = f'process_{process}'
  options.array.saving.use_compression = False  # Weights do not compress.
  options.asynchronous.create_directories_asynchronously = False
  with silence():
    try:
      with options:
        return function()
    except Exception as error:  # Orbax's errors share no base class.
      reason = f'{type(error).__name__}: {error}'
    # Abandoned tasks log when they end or are collected: let them do so here,
    # where messages are suppressed.
    time.sleep(_SETTLING_SECONDS)
    gc.collect()
  raise OrbaxError(reason)


@contextlib.contextmanager
def silence() -> Iterator[None]:
  """Suppresses log lines of Orbax and of its abandoned tasks, no others."""
  with (
    _filtered('absl', lambda record: 'orbax' not in record.pathname),
    _filtered('asyncio', lambda record: False),
    warnings.catch_warnings(),
  ):
    _drop_closed_loops()
    warnings.simplefilter('ignore')
    yield


def _drop_closed_loops() -> None:
  """Ignores, from here on, errors of reads that Orbax has abandoned.

  On a busy machine such a read ends long after its error was raised, so the
  hook stays.
  """
  before = sys.unraisablehook
  if getattr(before, '__module__', '') == __name__:
    return  # An earlier call has installed the hook.

  def hook(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      before(unraisable)

  sys.unraisablehook = hook


@contextlib.contextmanager
def _filtered(
  name: str, keep: Callable[[logging.LogRecord], bool]
) -> Iterator[None]:
  """Adds a filter to a logger for the time of the context."""
  logger = logging.getLogger(name)
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
