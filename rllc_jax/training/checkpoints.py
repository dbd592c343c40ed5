"""Checkpoints of a training run: written whole, read back verified.

A checkpoint is a directory named after its training step. It is written beside
its place and renamed, so a save that was killed is never listed. Every
checkpoint carries a record of its leaves (dtype, shape, CRC-32 of the bytes),
which has a checksum itself. A load that does not reproduce the record fails.

Checkpoints that other programs wrote with Orbax are read, too: those of
`CheckpointManager`, `StandardCheckpointer`, `PyTreeCheckpointer`, flax and the
v1 API, in folders whose names end in the step. They have no record, so damage
that Orbax overlooks is overlooked here, too.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import hashlib
import json
import pathlib
from typing import Any

import jax
import numpy as np

from rllc_jax import types
from rllc_jax.training import checkpoint_errors
from rllc_jax.training import checkpoint_records
from rllc_jax.training import foreign
from rllc_jax.training import leaf_records
from rllc_jax.training import orbax_files
from rllc_jax.training import saved_trees
from rllc_jax.training import step_folders
from rllc_jax.training import together

PathLike = step_folders.PathLike
CheckpointError = checkpoint_errors.CheckpointError

_MAKE_ROOM = (
  'Make room, or see that it can be written to, and run the same command again.'
)


def save(
  directory: PathLike,
  step: int,
  params: types.Params,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes one checkpoint atomically.

  Remains of killed or failed saves in `directory` are removed first, so two
  processes must not save into one directory.

  Args:
    directory: of the checkpoints; created if needed. As in every function
      here, a leading `~` is the home of the user.
    step: training step, that is, batches seen.
    params: numbers or arrays of numbers, of numpy, JAX or what numpy converts,
      in any nodes that JAX knows: dicts with keys that are all texts or all
      whole numbers, lists, tuples, dataclasses of flax, states of optax and
      `nnx.State`. See `load` for how they are read.
    metadata: JSON values stored beside the weights.

  Raises:
    CheckpointError: if the step exists, a leaf is not finite or cannot be
      restored as it is, or the disk fails.
  """
  step = step_folders.checked_step(step)
  path = step_folders.new_folder(directory, step)
  with _naming(step, path, 'a tree of arrays, and metadata of JSON values'):
    arrays = saved_trees.to_arrays(params)
    # Through JSON, so that the checksum is of what will be read.
    metadata_values = json.loads(json.dumps(dict(metadata or {})))
  named = leaf_records.named(arrays)
  _refuse(leaf_records.non_finite_leaf(named), step, path)
  # Under any name that ends in the step, not `path` alone.
  existing = step_folders.folder(directory, step)
  if existing.exists():
    raise _error(
      step, existing, 'no checkpoint yet, as none is overwritten', 'one'
    )
  leaves = leaf_records.describe(named)
  record = checkpoint_records.make(step, leaves, metadata_values)
  with _naming(step, path, 'a directory with room to write to', _MAKE_ROOM):
    orbax_files.write(path, arrays, record)


def load(
  directory: PathLike,
  step: int,
  like: types.Params | None = None,
  part: str | None = None,
) -> types.Params:
  """Reads one checkpoint and verifies every byte of it.

  A checkpoint that another program wrote with Orbax has no record to verify, so
  only errors of Orbax are noticed; its keys that were numbers become texts.

  Args:
    directory: of the checkpoints.
    step: training step.
    like: the expected structure, shapes and dtypes; arrays or
      `jax.ShapeDtypeStruct`. By default those of the file, as dicts and lists:
      tuples are lists then, fields of named tuples and of dataclasses are keys
      of dicts, and an `nnx.State` is as `nnx.to_pure_dict` returns it.
    part: the part of the tree to return, keys joined by slashes, such as
      'params/dense'. By default the whole tree; of a foreign training state
      with 'params' and 'opt_state' the former, unless `like` has both. Of
      several items of Orbax, the first key must name one ('state/params').

  Returns:
    The weights, as numpy arrays.

  Raises:
    CheckpointError: if the checkpoint is missing, damaged, not finite, or not
      like `like`.
  """
  step = step_folders.checked_step(step)
  path = step_folders.folder(directory, step)
  record = checkpoint_records.read(step, path)
  with _naming(step, path, 'a part of it'):
    if record is None:
      tree = _read_foreign(step, path, part, like)
    else:
      tree = saved_trees.part_of(_read_verified(step, path, record), part)
    return tree if like is None else saved_trees.placed(tree, like)


def _read_verified(
  step: int, path: pathlib.Path, record: Mapping[str, Any]
) -> types.Params:
  """Reads a checkpoint of `save` and compares every leaf with its record."""
  leaves = record['leaves']
  remedy = functools.partial(checkpoint_records.remedy, path)
  with _naming(step, path, 'an undamaged checkpoint', remedy):
    read = jax.tree.map(np.asarray, orbax_files.read(path))
  arrays = saved_trees.by_name(read, leaves)
  actual = {name: leaf_records.shape(leaf) for name, leaf in arrays.items()}
  saved = {name: shape for name, (shape, _) in leaves.items()}
  # Orbax casts dtypes and reads zeroed data without an error.
  _refuse(leaf_records.shape_difference(actual, saved), step, path, remedy)
  _refuse(leaf_records.byte_difference(arrays, leaves), step, path, remedy)
  _refuse(leaf_records.non_finite_leaf(arrays), step, path)
  return saved_trees.plain(read, leaves)


def _read_foreign(
  step: int, path: pathlib.Path, part: str | None, like: types.Params | None
) -> types.Params:
  """Reads a checkpoint of another program; only finiteness is checked."""
  remedy = foreign.remedy(step)
  with _naming(step, path, 'a checkpoint that Orbax can read', remedy):
    tree = foreign.read(path, part, like)
  _refuse(leaf_records.non_finite_leaf(leaf_records.named(tree)), step, path)
  return tree


def delete(directory: PathLike, step: int) -> None:
  """Removes one checkpoint of `save`; a half-removed one is not listed."""
  path = step_folders.new_folder(directory, step)
  with _naming(step, path, 'a checkpoint that can be deleted'):
    orbax_files.delete(path)


def steps(directory: PathLike) -> tuple[int, ...]:
  """Lists the training steps of the checkpoints in a directory, ascending.

  A step is the number at the end of a folder's name.

  Raises:
    CheckpointError: if there is no such directory, or two folders of one step.
  """
  return tuple(step_folders.listed(directory))


def metadata(directory: PathLike, step: int | None = None) -> dict[str, Any]:
  """Reads the metadata of a step, by default the last.

  Of other programs' checkpoints it is the `custom_metadata` of Orbax.
  """
  if step is None:
    if not (available := steps(directory)):
      raise CheckpointError(
        f'A checkpoint was expected in {step_folders.absolute(directory)}, '
        'because the metadata of the last one is asked for; got none.'
      )
    step = available[-1]
  path = step_folders.folder(directory, step)
  record = checkpoint_records.read(step, path)
  if record is not None:
    return record['metadata']
  # Other programs may have stored any JSON value.
  custom = (orbax_files.read_metadata(path) or {}).get('custom_metadata')
  return custom if isinstance(custom, dict) else {}


def trajectory(
  directory: PathLike,
  steps: Sequence[int] | None = None,
  *,
  like: types.Params | None = None,
  part: str | None = None,
) -> types.Trajectory:
  """Builds a training trajectory from the checkpoints of a directory.

  Args:
    directory: of the checkpoints.
    steps: the training steps to include; by default all.
    like: as in `load`: the structure, shapes and dtypes of each checkpoint.
    part: as in `load`: the part of each checkpoint with the weights.

  Returns:
    A trajectory whose `load(steps)` gives numpy leaves [len(steps), ...]. It
    holds the stack and one checkpoint more in memory, not the stack twice.
    Fingerprints hash the records by which loads are verified. For parts, and
    for other programs' checkpoints, they hash the weights, which are read.

  Raises:
    CheckpointError: if the directory has no checkpoint, one of the steps is
      missing, or they are of several runs, by the entry 'run' of their
      metadata.
  """
  step_folders.check_some(directory)
  available = tuple(step_folders.listed(directory))
  chosen = available if steps is None else _ascending(steps)
  if not chosen:
    raise CheckpointError(
      'steps must name at least one step, because a trajectory of none has no '
      f'weights; got none. Those in {step_folders.absolute(directory)} are '
      f'{list(available)}.'
    )
  for step in chosen:
    if step not in available:
      actual = f'only the steps {list(available)}'
      raise _error(
        step, step_folders.folder(directory, step), 'a checkpoint', actual
      )
  _check_one_run(directory, chosen)
  return types.Trajectory(
    chosen,
    functools.partial(_load_stack, directory, like, part),
    functools.partial(_fingerprint, directory, part),
  )


def save_resume(
  directory: PathLike,
  state: types.PyTree,
  step: int,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Replaces the state that training resumes from.

  The new state is complete before the old one is deleted, so a kill at any
  moment leaves a complete one.

  Args:
    directory: of this state and no other.
    state: arrays: weights, optimizer state, losses so far.
    step: training step.
    metadata: as in `save`.
  """
  save(directory, step, state, metadata)
  # Every process saves, but a folder can be deleted only once.
  together.first_does(lambda: _delete_others(directory, step))


def _delete_others(directory: PathLike, step: int) -> None:
  for old, path in step_folders.listed(directory).items():
    # Folders of other programs have other names, and stay.
    if old != step and path == step_folders.new_folder(directory, old):
      delete(directory, old)


def load_resume(
  directory: PathLike, like: types.PyTree
) -> tuple[types.PyTree, int] | None:
  """Reads the newest state that training resumes from.

  Args:
    directory: as given to `save_resume`.
    like: the structure, shapes and dtypes of the state.

  Returns:
    The state and its step; None if there is none.

  Raises:
    CheckpointError: if the newest state is damaged. Neither an older state
      nor a fresh start replaces it.
  """
  if not step_folders.absolute(directory).exists() or not steps(directory):
    return None
  step = steps(directory)[-1]
  return load(directory, step, like), step


def log_spaced_steps(last: int, count: int) -> tuple[int, ...]:
  """Distinct training steps from 0 to `last`, evenly spaced in logarithm.

  Every step is included where the spacing would be below one step.

  Args:
    last: the last step, at least 1.
    count: number of steps, with 0 and `last`; fewer if `last` is too small.

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
  # Spacing below one step occurs only at the beginning; count up there.
  whole = np.maximum(np.floor(spaced + 0.5).astype(int), np.arange(places) + 1)
  return (0, *whole[:-1].tolist(), last)


def _ascending(steps: Sequence[int]) -> tuple[int, ...]:
  return tuple(sorted({step_folders.checked_step(step) for step in steps}))


def _check_one_run(directory: PathLike, steps: Sequence[int]) -> None:
  """Refuses checkpoints whose metadata name different runs."""
  runs = {step: metadata(directory, step).get('run') for step in steps}
  for step in steps:
    if runs[step] != runs[steps[0]]:
      expected = f'one of the same run as that of step {steps[0]}'
      path = step_folders.folder(directory, step)
      remedy = 'Put back a copy, or name the steps of one run.'
      raise _error(step, path, expected, 'one of another', remedy)


def _fingerprint(directory: PathLike, part: str | None, step: int) -> str:
  """Hash of names, shapes, dtypes and checksums of a checkpoint.

  With a record the weights are not read. `save` has checked that they are
  finite, and `load` will refuse weights that differ from the record.
  """
  record = checkpoint_records.read(step, step_folders.folder(directory, step))
  if record is None or part:
    arrays = leaf_records.named(load(directory, step, part=part))
    leaves = leaf_records.describe(arrays)
  else:
    leaves = record['leaves']
  text = json.dumps(leaves, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _load_stack(
  directory: PathLike,
  like: types.Params | None,
  part: str | None,
  steps: Sequence[int],
) -> types.Params:
  """Loads checkpoints of one shape into leaves [len(steps), ...]."""
  if not len(steps):
    raise ValueError(
      'steps must name at least one checkpoint, because a stack of none has no '
      'shape; got none.'
    )
  # Later checkpoints must be like the first, whose shapes the stack has.
  first = load(directory, steps[0], like, part)
  stack = jax.tree.map(
    lambda leaf: np.empty((len(steps), *leaf.shape), leaf.dtype), first
  )
  # Filled in place: np.stack would hold the stack twice.
  leaves = jax.tree.leaves(stack)
  for i, step in enumerate(steps):
    params = load(directory, step, first, part) if i else first
    for out, leaf in zip(leaves, jax.tree.leaves(params), strict=True):
      out[i] = leaf
  return stack


def _refuse(
  difference: leaf_records.Difference | None,
  step: int,
  path: pathlib.Path,
  remedy: checkpoint_errors.Remedy = '',
) -> None:
  """Raises the error of a difference, if there is one."""
  if difference:
    raise _error(step, path, *difference, remedy)


_error = checkpoint_errors.error
_naming = checkpoint_errors.naming
