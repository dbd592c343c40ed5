"""Checkpoints of a training run: written whole, read back verified.

A checkpoint is a directory named after its training step. It is written beside
its place and renamed there, so a save that was killed is never listed. Every
checkpoint carries a record of its leaves (dtype, shape, CRC-32 of the bytes),
which has a checksum itself, and a load that does not reproduce the record is an
error.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import re
from typing import Any

import jax
import numpy as np

from rllc_jax import checked_files
from rllc_jax import types
from rllc_jax.training import leaf_records
from rllc_jax.training import orbax_files
from rllc_jax.training import together

PathLike = str | os.PathLike[str]

_STEP = re.compile('0|[1-9][0-9]*')
_MAKE_ROOM = (
  'Make room, or see that it can be written to, and run the same command again.'
)
_REMEDY = (
  'Put back a copy, or remove the directory of the training run and train '
  'again: it gives the same.'
)


class CheckpointError(ValueError):
  """A checkpoint cannot be written, or is not what was asked for."""


def save(
  directory: PathLike,
  step: int,
  params: types.Params,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes one checkpoint, which is there whole or not at all.

  What a killed or failed save left in `directory` is cleared first, so two
  processes must not save into one directory.

  Args:
    directory: where checkpoints lie; made if need be.
    step: training step, that is, batches seen.
    params: arrays, in nested dicts and lists if they are to be loaded without
      naming their structure.
    metadata: kept beside the weights; JSON values.

  Raises:
    CheckpointError: if the step is there already, a leaf is not finite, or the
      disk does not take it.
  """
  path = _path(directory, step)
  with _naming(step, path, 'a tree of arrays, and metadata of JSON values'):
    arrays = jax.tree.map(np.asarray, params)
    kept = json.loads(json.dumps(dict(metadata or {})))
  _refuse(leaf_records.non_finite_leaf(arrays), step, path)
  if path.exists():
    raise _error(step, path, 'no checkpoint yet, as none is overwritten', 'one')
  leaves = leaf_records.describe(arrays)
  record = {'step': step, 'leaves': leaves, 'metadata': kept}
  record['checksum'] = checked_files.checksum(record)
  with _naming(step, path, 'a directory with room to write to', _MAKE_ROOM):
    orbax_files.write(path, arrays, record)


def load(
  directory: PathLike, step: int, like: types.Params | None = None
) -> types.Params:
  """Reads one checkpoint and verifies every byte of it.

  Args:
    directory: where checkpoints lie.
    step: training step.
    like: the structure, shapes and dtypes that are expected; arrays or
      `jax.ShapeDtypeStruct`. By default those of the file, as nested dicts and
      lists.

  Returns:
    The weights, as numpy arrays.

  Raises:
    CheckpointError: if the checkpoint is missing, damaged, not finite, or not
      like `like`.
  """
  path = _path(directory, step)
  leaves = _read_record(step, path)['leaves']
  saved = {name: shape for name, (shape, _) in leaves.items()}
  template = None
  if like is not None:
    expected = leaf_records.shapes(like)
    _refuse(leaf_records.shape_difference(saved, expected), step, path)
    template = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like)
  with _naming(step, path, 'an undamaged checkpoint', _REMEDY):
    arrays = jax.tree.map(np.asarray, orbax_files.read(path, template))
  came = leaf_records.shapes(arrays)
  _refuse(leaf_records.shape_difference(came, saved), step, path, _REMEDY)
  _refuse(leaf_records.byte_difference(arrays, leaves), step, path, _REMEDY)
  _refuse(leaf_records.non_finite_leaf(arrays), step, path)
  return arrays


def delete(directory: PathLike, step: int) -> None:
  """Removes one checkpoint; killed halfway, it is no longer listed."""
  path = _path(directory, step)
  with _naming(step, path, 'a checkpoint that can be deleted'):
    orbax_files.delete(path)


def steps(directory: PathLike) -> tuple[int, ...]:
  """The training steps of the checkpoints in a directory, ascending.

  Raises:
    CheckpointError: if there is no such directory.
  """
  return _listed(directory)


def metadata(directory: PathLike, step: int | None = None) -> dict[str, Any]:
  """What was kept beside the weights of a step, by default of the last."""
  if step is None:
    if not (found := _listed(directory)):
      raise CheckpointError(
        f'A checkpoint was expected in {directory}, because the metadata of '
        'the last one is asked for; got none.'
      )
    step = found[-1]
  return _read_record(step, _path(directory, step))['metadata']


def trajectory(
  directory: PathLike, steps: Sequence[int] | None = None
) -> types.Trajectory:
  """The checkpoints of a directory, all or some, as a training trajectory.

  Args:
    directory: where checkpoints lie.
    steps: the training steps to keep; by default every one that is there.

  Returns:
    A trajectory whose `load(steps)` gives numpy leaves [len(steps), ...]. It
    holds the stack and one checkpoint more in memory, not the stack twice.
    Fingerprints are of the records that loads are verified by.

  Raises:
    CheckpointError: if the directory or one of the steps is missing, or they
      are of several runs, by the entry 'run' of their metadata.
  """
  found = _listed(directory)
  wanted = found if steps is None else tuple(sorted({int(s) for s in steps}))
  for step in wanted:
    if step not in found:
      came = f'only the steps {list(found)}'
      raise _error(step, _path(directory, step), 'a checkpoint', came)
  _check_one_run(directory, wanted)
  return types.Trajectory(
    wanted,
    functools.partial(_load_stack, directory),
    functools.partial(_fingerprint, directory),
  )


def save_resume(
  directory: PathLike,
  state: types.PyTree,
  step: int,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Replaces the state that training resumes from.

  The new one is complete before the old one goes, so at every moment a kill
  leaves a good one.

  Args:
    directory: holds this state alone.
    state: arrays: weights, optimizer state, losses so far.
    step: training step.
    metadata: as in `save`.
  """
  save(directory, step, state, metadata)
  together.first_does(lambda: _delete_others(directory, step))


def _delete_others(directory: PathLike, step: int) -> None:
  for other in _listed(directory):
    if other != step:
      delete(directory, other)


def load_resume(
  directory: PathLike, like: types.PyTree
) -> tuple[types.PyTree, int] | None:
  """Reads the newest state that training resumes from.

  Args:
    directory: what `save_resume` was given.
    like: the structure, shapes and dtypes of the state.

  Returns:
    The state and its step; None if nothing was ever saved.

  Raises:
    CheckpointError: if the newest state is damaged. An older one is never
      taken in its place, nor a fresh start made.
  """
  if not pathlib.Path(directory).exists() or not _listed(directory):
    return None
  step = _listed(directory)[-1]
  return load(directory, step, like), step


def log_spaced_steps(last: int, count: int) -> tuple[int, ...]:
  """Distinct training steps from 0 to `last`, evenly spaced in their logarithm.

  Where even spacing would ask for fractions of a step, every step is taken.

  Args:
    last: the last step, at least 1.
    count: how many, 0 and `last` included; all there are if there are fewer.

  Examples:
    >>> log_spaced_steps(1000, 8)
    (0, 1, 3, 10, 32, 100, 316, 1000)
    >>> log_spaced_steps(20, 8)
    (0, 1, 2, 3, 4, 7, 12, 20)
  """
  if last < 1 or count < 2:
    raise ValueError(
      'last must be at least 1 and count at least 2, because the steps 0 and '
      f'last are both included; got last={last}, count={count}.'
    )
  places = min(count, last + 1) - 1
  spaced = last ** (np.arange(places) / max(places - 1, 1))
  # Spacing below one step can only come first; there, count instead.
  whole = np.maximum(np.floor(spaced + 0.5).astype(int), np.arange(places) + 1)
  return (0, *whole[:-1].tolist(), last)


def _path(directory: PathLike, step: int) -> pathlib.Path:
  return pathlib.Path(directory).absolute() / str(int(step))


def _listed(directory: PathLike) -> tuple[int, ...]:
  directory = pathlib.Path(directory).absolute()
  if not directory.is_dir():
    raise CheckpointError(
      f'Checkpoints were expected in {directory}, because training writes one '
      'directory a step; got no such directory.'
    )
  names = (path.name for path in directory.iterdir() if path.is_dir())
  return tuple(sorted(int(name) for name in names if _STEP.fullmatch(name)))


def _check_one_run(directory: PathLike, steps: Sequence[int]) -> None:
  found = {step: metadata(directory, step).get('run') for step in steps}
  for step in steps:
    if found[step] != found[steps[0]]:
      expected = f'one of the same run as that of step {steps[0]}'
      path = _path(directory, step)
      raise _error(step, path, expected, 'one of another', _REMEDY)


def _fingerprint(directory: PathLike, step: int) -> str:
  """Of names, shapes, dtypes and checksums of a checkpoint, without reading it.

  No weights that are not finite are written, and none are read that differ.
  """
  leaves = _read_record(step, _path(directory, step))['leaves']
  text = json.dumps(leaves, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _load_stack(directory: PathLike, steps: Sequence[int]) -> types.Params:
  """Checkpoints of one shape, leaves [len(steps), ...]."""
  if not len(steps):
    raise ValueError(
      'steps must name at least one checkpoint, because a stack of none has no '
      'shape; got none.'
    )
  first = load(directory, steps[0])
  stack = jax.tree.map(
    lambda leaf: np.empty((len(steps), *leaf.shape), leaf.dtype), first
  )
  leaves = jax.tree.leaves(stack)
  for i, step in enumerate(steps):
    params = load(directory, step, first) if i else first
    for out, leaf in zip(leaves, jax.tree.leaves(params), strict=True):
      out[i] = leaf
  return stack


def _read_record(step: int, path: pathlib.Path) -> dict[str, Any]:
  if not path.is_dir():
    raise _error(step, path, 'a checkpoint', 'no such directory', _REMEDY)
  with _naming(step, path, 'an undamaged checkpoint', _REMEDY):
    record = orbax_files.read_record(path)
  if not isinstance(record, dict):
    expected = 'a record of its leaves, to verify them'
    raise _error(step, path, expected, 'none', _REMEDY)
  if record.pop('checksum', None) != checked_files.checksum(record):
    expected = 'the record of its leaves as it was written'
    raise _error(step, path, expected, 'another', _REMEDY)
  if record['step'] != step:
    came = f'step {record["step"]}'
    raise _error(step, path, 'weights of that step', came, _REMEDY)
  return record


def _refuse(
  difference: leaf_records.Difference | None,
  step: int,
  path: pathlib.Path,
  remedy: str = '',
) -> None:
  if difference:
    raise _error(step, path, *difference, remedy)


def _error(
  step: int, path: pathlib.Path, expected: str, came: str, remedy: str = ''
) -> CheckpointError:
  came = ' '.join(came.split()).rstrip('.')[:300]  # Orbax writes paragraphs.
  said = f'Checkpoint of step {step} at {path}: expected {expected}; got {came}'
  return CheckpointError(f'{said}. {remedy}'.rstrip())


@contextlib.contextmanager
def _naming(
  step: int, path: pathlib.Path, expected: str, remedy: str = ''
) -> Iterator[None]:
  """Turns whatever goes wrong inside into one line about this checkpoint."""
  try:
    yield
  except OSError as error:
    raise _error(step, path, expected, str(error), remedy) from None
  except (TypeError, ValueError) as error:
    came = f'{type(error).__name__}: {error}'
    raise _error(step, path, expected, came, remedy) from None
