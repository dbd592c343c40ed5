"""The record that a checkpoint carries of its leaves, with its own checksum.

It is told apart from what other programs keep beside their weights, and from
nothing: weights whose record is lost are not taken for those of others.
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

# Entries of the metadata that `loop` keeps with weights, and with its state.
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
    CheckpointError: if there is no checkpoint, or its record is lost or not as
      it was written.
  """
  if not path.is_dir() or not any(path.iterdir()):
    got = 'an empty directory' if path.is_dir() else 'no such directory'
    raise _damage(step, path, 'a checkpoint', got)
  content = _read_metadata(step, path)
  record = content.get('custom_metadata')
  if not _is_record(record):
    _check_foreign(step, path, content)
    return None
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
  """True if `make` made it, even if one of its names has been damaged."""
  if not isinstance(record, dict):
    return False
  return 'leaves' in record or {'step', 'checksum'} <= record.keys()


def _check_foreign(
  step: int, path: pathlib.Path, content: Mapping[str, Any]
) -> None:
  """Refuses what may be a checkpoint of ours that has lost its record.

  The v1 API, which writes ours, always writes these two entries.
  """
  complete = {'custom_metadata', 'item_handlers'} <= content.keys()
  if complete or not orbax_files.may_be_ours(path):
    return
  advice = lambda: f'{remedy(path)} {foreign.way_out(step)}'
  expected = f'what Orbax writes to {orbax_files.METADATA}, to verify it by'
  got = 'another object' if content else 'nothing'
  raise checkpoint_errors.error(step, path, expected, got, advice)


def remedy(path: pathlib.Path) -> str:
  """Remedy for damage; to train again only where `loop` trained."""
  run = path.parent.parent
  beside = (path.parent, run / 'checkpoints', run / 'resume')
  if any(_was_trained_here(other) for x in beside for other in x.glob('*')):
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
