"""Trees of arrays on disk: the one module that imports Orbax.

Here Orbax is made to speak once: no log lines, and one exception with a text of
one line in place of its own zoo. What it lets through in silence (zeroed data,
other shapes, other dtypes) is for `training.checkpoints` to notice.
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
_TREE = '_METADATA'  # Where Orbax describes a tree.
_ITEM = 'state'  # Where the v1 API writes a tree.
_UNFINISHED = '.orbax-checkpoint-tmp'
_SETTLING_SECONDS = 0.1


class OrbaxError(OSError):
  """Orbax could not do it; the text is its reason, with the kind of error."""


def write(path: pathlib.Path, arrays: types.PyTree, record: Any) -> None:
  """Writes numpy arrays and a JSON value to a new directory, all or nothing.

  Connected processes must all call it, with the same; one of them writes.

  Args:
    path: the directory, which must not exist.
    arrays: a tree of numpy arrays.
    record: any JSON value.

  Raises:
    OSError: if the disk does not take it.
  """
  # Orbax, told to write where it cannot, leaves threads that wait minutes.
  path.parent.mkdir(parents=True, exist_ok=True)
  if not jax.process_index():
    clear_unfinished(path.parent)
  try:
    _quietly(lambda: ocp.save(str(path), arrays, custom_metadata=record))
  except OrbaxError:
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
    template: numpy arrays; `SKIPPED` for what need not be read.
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
  """Reads what Orbax says of a checkpoint; None if the file is missing.

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
  """The subdirectories that hold trees; [None] if the directory itself does."""
  if (path / _TREE).is_file():
    return [None]
  return sorted(child.parent.name for child in path.glob(f'*/{_TREE}'))


def may_be_ours(path: pathlib.Path) -> bool:
  """True if `write` could have written it, whatever has been lost since."""
  return (path / _ITEM).is_dir() and list(items(path)) in ([], [_ITEM])


def delete(path: pathlib.Path) -> None:
  """Removes what `write` wrote; killed halfway, it counts as unfinished."""
  grave = path.with_name(f'{path.name}.deleted{_UNFINISHED}')
  path.rename(grave)
  shutil.rmtree(grave)


def clear_unfinished(directory: pathlib.Path) -> None:
  """Removes what killed writes and deletions left behind in a directory."""
  for path in directory.glob(f'*{_UNFINISHED}'):
    shutil.rmtree(path, ignore_errors=True)


def _quietly(function: Callable[[], _Result], alone: bool = False) -> _Result:
  options = ocp.Context()
  if alone:  # Without waiting for other processes, which may read other things.
    own = jax.process_index()
    options.multiprocessing.primary_host = own
    options.multiprocessing.active_processes = {own}
    options.multiprocessing.barrier_sync_key_prefix = f'process_{own}'
  options.array.saving.use_compression = False  # Weights do not compress.
  options.asynchronous.create_directories_asynchronously = False
  with silence():
    try:
      with options:
        return function()
    except Exception as error:  # The zoo.
      reason = f'{type(error).__name__}: {error}'
    # What was abandoned complains when it ends or is collected: let it do so
    # here, where nobody listens.
    time.sleep(_SETTLING_SECONDS)
    gc.collect()
  raise OrbaxError(reason)


@contextlib.contextmanager
def silence() -> Iterator[None]:
  """Keeps Orbax, and what it leaves behind, from logging; others are heard."""
  with (
    _filtered('absl', lambda record: 'orbax' not in record.pathname),
    _filtered('asyncio', lambda record: False),
    warnings.catch_warnings(),
  ):
    _drop_closed_loops()
    warnings.simplefilter('ignore')
    yield


def _drop_closed_loops() -> None:
  """Drops, from here on, the protests of reads that Orbax has given up.

  They end when they end, on a busy machine long after the error is told.
  """
  before = sys.unraisablehook
  if getattr(before, '__module__', '') == __name__:
    return  # Since an earlier call.

  def hook(unraisable):
    if 'Event loop is closed' not in str(unraisable.exc_value):
      before(unraisable)

  sys.unraisablehook = hook


@contextlib.contextmanager
def _filtered(
  name: str, keep: Callable[[logging.LogRecord], bool]
) -> Iterator[None]:
  logger = logging.getLogger(name)
  logger.addFilter(keep)
  try:
    yield
  finally:
    logger.removeFilter(keep)
