"""Folders of checkpoints, under the names that various programs use.

A folder belongs to the step at the end of its name: `10`, `0000010`, `step_10`.
"""

import os
import pathlib
import re

from rllc_jax import whole_numbers
from rllc_jax.training import checkpoint_errors

PathLike = str | os.PathLike[str]

_NAME = re.compile(r'(.*?)([0-9]+)', re.DOTALL)
# Part of the names of Orbax's unfinished folders; a time may follow it.
_UNFINISHED = '.orbax-checkpoint-tmp'
_MARKS = frozenset(('_CHECKPOINT_METADATA', '_METADATA', 'orbax.checkpoint'))


def absolute(directory: PathLike) -> pathlib.Path:
  """The absolute path of a directory; a leading `~` is the user's home."""
  return pathlib.Path(os.path.expanduser(directory)).absolute()


def listed(directory: PathLike) -> dict[int, pathlib.Path]:
  """Returns step -> folder of every checkpoint in a directory, ascending.

  A name of digits alone is always a step. Another name is one if that folder,
  or one with the same prefix, has files of Orbax: `tensorboard_2` is no step.

  Raises:
    CheckpointError: if there is no such directory, or two folders of one step.
  """
  directory = absolute(directory)
  if not directory.is_dir():
    raise checkpoint_errors.CheckpointError(
      f'Checkpoints were expected in {directory}, because training writes one '
      'directory a step; got no such directory.'
    )
  folders: dict[int, pathlib.Path] = {}
  for prefix, names in _by_prefix(directory).items():
    if prefix and not any(is_orbax(directory / name) for name in names):
      continue
    for name in names:
      step = int(name.removeprefix(prefix))
      if step in folders:
        raise _two_folders(directory, step, [folders[step].name, name])
      folders[step] = directory / name
  return dict(sorted(folders.items()))


def _by_prefix(directory: pathlib.Path) -> dict[str, list[str]]:
  """Groups the folders whose names end in a number by the prefix before it."""
  with os.scandir(directory) as entries:
    names = sorted(entry.name for entry in entries if entry.is_dir())
  folders: dict[str, list[str]] = {}
  for match in map(_NAME.fullmatch, names):
    if match and _UNFINISHED not in match[0]:
      folders.setdefault(match[1], []).append(match[0])
  return folders


def _two_folders(directory, step, names):
  return checkpoint_errors.CheckpointError(
    f'{directory}: expected one folder of step {step}, because a step has one '
    f'set of weights; got {checkpoint_errors.quoted(names)}. Move one of them '
    'to a directory of its own.'
  )


def checked_step(step: int) -> int:
  """Returns a step as a Python int.

  Raises:
    ValueError: if it is not a whole number, or negative.
  """
  number = whole_numbers.whole_number('step', step, 'it counts batches')
  if number < 0:
    raise ValueError(
      f'step must be at least 0, because it counts batches; got {number}.'
    )
  return number


def folder(directory: PathLike, step: int) -> pathlib.Path:
  """The folder of a step; if there is none, the one that `save` makes."""
  new, directory = new_folder(directory, step), absolute(directory)
  return (listed(directory) if directory.is_dir() else {}).get(int(step), new)


def new_folder(directory: PathLike, step: int) -> pathlib.Path:
  """The folder that `save` makes for a step."""
  return absolute(directory) / str(checked_step(step))


def is_orbax(path: pathlib.Path) -> bool:
  """True if a folder has files of an Orbax checkpoint."""
  inside = [child.name for child in path.iterdir()] if path.is_dir() else []
  return not _MARKS.isdisjoint(inside) or any(
    _is_item(path / name) for name in inside
  )


def _is_item(path: pathlib.Path) -> bool:
  """True if a folder holds one tree of a checkpoint."""
  # A checkpoint has the second file, too; a folder of these is a run.
  names = ('_METADATA', '_CHECKPOINT_METADATA')
  return [(path / name).exists() for name in names] == [True, False]


def contents(directory: pathlib.Path) -> str:
  """Lists a directory for a message; folders end in a slash."""
  names = sorted(
    path.name + '/' * path.is_dir() for path in directory.iterdir()
  )
  return checkpoint_errors.quoted(names) if names else 'an empty directory'


def check_some(directory: PathLike) -> None:
  """Refuses a directory without a checkpoint.

  Raises:
    CheckpointError: if there is none; the text lists what is there.
  """
  if listed(directory):
    return
  directory = absolute(directory)
  remedy = 'Give the directory whose folders end in the numbers of steps.'
  if is_orbax(directory):  # A folder of one step, instead of its parent.
    remedy = f'Give {directory.parent}: this seems to be one checkpoint.'
  raise checkpoint_errors.CheckpointError(
    f'Checkpoints were expected in {directory}, in folders whose names end in '
    f'their steps, such as 10 or step_10; got {contents(directory)}. {remedy}'
  )
