"""Identity and settings of a training run, checked before it starts."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np

from rllc_jax import identities
from rllc_jax import types


class TrainingError(ValueError):
  """A training run cannot be started or continued as requested."""


def evenly_spaced(window: types.Window, count: int) -> np.ndarray:
  """Rows [min(count, length)] spread over a window, hence over its domains.

  Examples:
    >>> print(evenly_spaced(types.Window(10, 6), 3))
    [10 12 14]
  """
  start, length = int(window.start), int(window.length)
  count = min(count, length)
  return start + np.arange(count) * length // count


def check_same(
  old: dict[str, Any], new: dict[str, Any], directory: pathlib.Path
) -> None:
  """Refuses to continue a run with other settings; names the first one."""
  difference = identities.difference(old, new)
  if difference is not None:
    name = difference.name.split('.')[-1]
    raise TrainingError(
      f'{name} = {difference.old} was expected, because the run in {directory} '
      f'was begun with it; got {difference.new}. Use another directory.'
    )


def check(
  num_sequences: int,
  window: types.Window,
  batch_size: int,
  num_steps: int,
  checkpoint_steps: Sequence[int],
  resume_every: int,
  evaluation: Mapping[str, np.ndarray],
) -> None:
  """Refuses settings that would fail, or mislead, later."""
  start, length = int(window.start), int(window.length)
  if not 0 <= start < start + length <= num_sequences:
    raise ValueError(
      f'window must lie in the {num_sequences} sequences and hold at least '
      f'one, because batches are drawn from it; got {start} to '
      f'{start + length}.'
    )
  if batch_size > length:
    raise ValueError(
      f'batch_size must be at most {length}, because the window has no more '
      f'sequences; got {batch_size}.'
    )
  if num_steps < 1:
    raise ValueError(
      'num_steps must be at least 1, because training without a step has no '
      f'loss; got {num_steps}.'
    )
  if resume_every < 1:
    raise ValueError(
      'resume_every must be at least 1, because it counts the steps between '
      f'two states to resume from; got {resume_every}.'
    )
  for step in checkpoint_steps:
    if not 0 <= step <= num_steps:
      raise ValueError(
        f'checkpoint_steps must be from 0 to num_steps = {num_steps}, because '
        f'no other weights come up; got {step}.'
      )
  for name, rows in evaluation.items():
    rows = np.asarray(rows)
    if not rows.size or rows.min() < 0 or rows.max() >= num_sequences:
      raise ValueError(
        f'The rows of {name!r} must be some of the {num_sequences} sequences, '
        'because their mean loss is measured; got '
        f'{f"{rows.min()} to {rows.max()}" if rows.size else "none"}.'
      )
