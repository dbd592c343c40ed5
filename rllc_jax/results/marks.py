"""Marks: how many draws of each chain are in the table, and their checksums.

A piece of the table is some checkpoints on one data set, all refinements, all
chains. Its mark is written after the draws that it speaks of, and replaced in
one move: it never promises more than is there, and tells when that is damaged.
"""

import pathlib
from typing import NamedTuple
import zlib

import numpy as np

from rllc_jax.results import files

BASELINE = 'baseline_loss'
_CHECK, _LAYOUT = 'check/', 'layout/'


class Mark(NamedTuple):
  """What is known of a piece of G checkpoints, R refinements, C chains.

  Attributes:
    recorded: [G, R, C], draws in the table.
    made_with: [G, R], software and devices of the last of them.
    checks: CRC-32 of those draws by array, [G, R, C], and of the losses at the
      checkpoint, [G, R].
    layouts: how each array of the table is cut and coded.
  """

  recorded: np.ndarray
  made_with: np.ndarray
  checks: dict[str, np.ndarray]
  layouts: dict[str, str]

  @property
  def longest(self) -> int:
    """Draws of the longest chain."""
    return int(self.recorded.max(initial=0))

  def check(self, name: str) -> np.ndarray:
    """The checksums of an array, to be changed."""
    count = 2 if name == BASELINE else 3
    nothing = np.zeros(self.recorded.shape[:count], np.uint32)
    return self.checks.setdefault(name, nothing)


def read(path: pathlib.Path, shape: tuple[int, int, int], owner: str) -> Mark:
  """The mark of a piece of the given shape (G, R, C), grown to it if need be.

  Args:
    path: of the file.
    shape: of the piece.
    owner: what the store is known by.

  Raises:
    DamagedFileError: if it is not what was written.
  """
  saved = files.read_arrays(path, owner)
  for name, array in saved.items():
    if not _is_as_written(name, array):
      raise files.DamagedFileError(f'{name} of {array.dtype}{[*array.shape]}')
  recorded = _grown(saved.get('recorded', np.zeros((0, 0, 0), np.int32)), shape)
  known = saved.get('made_with', np.zeros((0, 0), str))
  made_with = _grown(known, shape[:2]).astype(object)
  checks = {
    name.removeprefix(_CHECK): _grown(array, shape[: array.ndim])
    for name, array in saved.items()
    if name.startswith(_CHECK)
  }
  layouts = {
    name.removeprefix(_LAYOUT): str(array)
    for name, array in saved.items()
    if name.startswith(_LAYOUT)
  }
  return Mark(recorded, made_with, checks, layouts)


def write(path: pathlib.Path, mark: Mark, owner: str) -> None:
  """Replaces a mark."""
  checks = {f'{_CHECK}{name}': array for name, array in mark.checks.items()}
  layouts = {
    f'{_LAYOUT}{name}': np.array(x) for name, x in mark.layouts.items()
  }
  made_with = mark.made_with.astype(str)
  arrays = {'recorded': mark.recorded, 'made_with': made_with}
  arrays |= {**checks, **layouts}
  files.write_arrays(path, arrays, owner)


def checksums(
  values: np.ndarray, counts: np.ndarray, begun: np.ndarray | None = None
) -> np.ndarray:
  """CRC-32 of the first draws of cells.

  Args:
    values: [cells, draws, ...].
    counts: [cells], how many draws count.
    begun: [cells], checksums of what came before; nothing by default.
  """
  begun = np.zeros(len(values), np.uint32) if begun is None else begun
  own = [
    zlib.crc32(np.ascontiguousarray(cell[:count]).tobytes(), int(start))
    for cell, count, start in zip(values, counts, begun, strict=True)
  ]
  return np.array(own, np.uint32)


def _is_as_written(name: str, array: np.ndarray) -> bool:
  """Whether it is of the kind that `write` writes."""
  if name.startswith(_CHECK):
    axes = 2 if name == f'{_CHECK}{BASELINE}' else 3
    return array.dtype == np.uint32 and array.ndim == axes
  if name == 'recorded':
    signed = np.issubdtype(array.dtype, np.signedinteger) and array.ndim == 3
    return signed and bool((array >= 0).all())
  return array.dtype.kind == 'U' and array.ndim == 2 * (name == 'made_with')


def _grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """In another shape: the rest is 0, and what is beyond is left out."""
  out = np.zeros(shape, array.dtype)
  part = array[tuple(map(slice, shape))]
  out[tuple(map(slice, part.shape))] = part
  return out
