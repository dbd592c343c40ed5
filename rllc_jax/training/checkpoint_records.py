"""The record of a checkpoint's leaves, which carries a checksum itself.

A record is told apart from the metadata of other programs, and from a lost one:
weights of ours without a record are refused, not read as foreign weights.
"""

from collections.abc import Mapping
import functools
import pathlib
from typing import Any, TypeGuard

from rllc_jax import checked_files
from rllc_jax.training import checkpoint_errors
from rllc_jax.training import foreign
from rllc_jax.training import leaf_records
from rllc_jax.training import orbax_files

# Entries in the metadata of `loop`: of its weights, and of its resume states.
_OF_LOOP = frozenset(('run', 'initial_weights'))


def make(
  step: int, leaves: leaf_records.Description, metadata: Mapping[str, Any]
) -> dict[str, Any]:
  """Builds the record of a checkpoint, a JSON value."""
  record = {'step': step, 'leaves': leaves, 'metadata': metadata}
  return {**record, 'checksum': checked_files.checksum(record)}


def read(step: int, path: pathlib.Path) -> dict[str, Any] | None:
  """Reads the record of a checkpoint; None if another program wrote it.

  Raises:
    CheckpointError: if there is no checkpoint, or its record is lost or
      damaged.
  """
  if not path.is_dir() or not any(path.iterdir()):
    got = 'an empty directory' if path.is_dir() else 'no such directory'
    raise _damage(step, path, 'a checkpoint', got)
  content = _read_metadata(step, path)
  record = content.get('custom_metadata')
  if not _is_record(record):
    _check_foreign(step, path, content)
    return None
  # The checksum is of the record without its checksum.
  if record.pop('checksum', None) != checked_files.checksum(record):
    expected = 'the record of its leaves as it was written'
    raise _damage(step, path, expected, 'another')
  if record['step'] != step:
    got = f'step {record["step"]}'
    raise _damage(step, path, 'weights of that step', got)
  return record


def _read_metadata(step: int, path: pathlib.Path) -> dict[str, Any]:
  expected = f'a JSON object in {orbax_files.METADATA}'
  advice = functools.partial(remedy, path)
  with checkpoint_errors.naming(step, path, expected, advice):
    return orbax_files.read_metadata(path) or {}
  return {}


def _is_record(record: Any) -> TypeGuard[dict[str, Any]]:
  """True for a record of `make`, even if one of its keys is damaged."""
  if not isinstance(record, dict):
    return False
  # Either key marks it as ours, so that damage to the other is an error.
  return 'leaves' in record or {'step', 'checksum'} <= record.keys()


def _check_foreign(
  step: int, path: pathlib.Path, content: Mapping[str, Any]
) -> None:
  """Refuses a checkpoint that may be ours without its record.

  The v1 API, which writes our checkpoints, always writes two entries.
  """
  complete = {'custom_metadata', 'item_handlers'} <= content.keys()
  if complete or not orbax_files.may_be_ours(path):
    return
  advice = lambda: f'{remedy(path)} {foreign.remedy(step)}'
  expected = f'what Orbax writes to {orbax_files.METADATA}, to verify it by'
  got = 'another object' if content else 'nothing'
  raise checkpoint_errors.error(step, path, expected, got, advice)


def remedy(path: pathlib.Path) -> str:
  """The remedy for damage: train again if `loop` wrote it, else save again."""
  run = path.parent.parent
  # The damaged step may not be readable, so its neighbours are asked, too.
  beside = (path.parent, run / 'checkpoints', run / 'resume')
  if any(_was_trained_here(step) for x in beside for step in x.glob('*')):
    return (
      'Put back a copy, or remove the directory of the training run and train '
      'again: it gives the same.'
    )
  return 'Put back a copy, or save it again.'


def _was_trained_here(path: pathlib.Path) -> bool:
  try:
    record = (orbax_files.read_metadata(path) or {}).get('custom_metadata')
  except (OSError, ValueError):
    return False
  metadata = record.get('metadata') if _is_record(record) else None
  return isinstance(metadata, dict) and not _OF_LOOP.isdisjoint(metadata)


def _damage(
  step: int, path: pathlib.Path, expected: str, got: str
) -> checkpoint_errors.CheckpointError:
  advice = functools.partial(remedy, path)
  return checkpoint_errors.error(step, path, expected, got, advice)
