"""Marks: how many draws of each chain are in the table, and their checksums.

A piece of the table is some checkpoints on one data set, all refinements, all
chains. Its mark is written after its draws, and replaced in one move: it never
counts draws that are missing, and its checksums reveal damage. Bytes outside
checksummed ranges are untrusted and may be overwritten.
"""

import pathlib
from typing import NamedTuple
import zlib

import numpy as np

from rllc_jax.results import files

BASELINE = 'baseline_loss'
_CHECK, _LAYOUT = 'check/', 'layout/'


class Mark(NamedTuple):
  """Draw counts and checksums of G checkpoints, R refinements, C chains.

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
  def max_recorded(self) -> int:
    """The number of draws of the longest chain."""
    return int(self.recorded.max(initial=0))

  def check(self, name: str) -> np.ndarray:
    """The checksums of an array, writable in place."""
    count = 2 if name == BASELINE else 3  # Baselines have no chain.
    zeros = np.zeros(self.recorded.shape[:count], np.uint32)
    return self.checks.setdefault(name, zeros)


def read(path: pathlib.Path, shape: tuple[int, int, int], owner: str) -> Mark:
  """Reads the mark of a piece, padded or cut to the shape (G, R, C).

  Args:
    path: of the file.
    shape: of the piece.
    owner: the identifier of the store, which all of its files hold.

  Raises:
    DamagedFileError: if it is not what was written.
  """
  saved = files.read_arrays(path, owner)
  for name, array in saved.items():
    if not _is_as_written(name, array):
      raise files.DamagedFileError(f'{name} of {array.dtype}{[*array.shape]}')
  recorded = _grown(saved.get('recorded', np.zeros((0, 0, 0), np.int32)), shape)
  devices = saved.get('made_with', np.zeros((0, 0), str))
  # Of objects: assigning a longer string must not cut it.
  made_with = _grown(devices, shape[:2]).astype(object)
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
    begun: [cells], checksums of the draws before; zeros by default.
  """
  begun = np.zeros(len(values), np.uint32) if begun is None else begun
  # Zarr notices no missing chunk, none of another run, and few flipped bits.
  checks = [
    zlib.crc32(np.ascontiguousarray(cell[:count]).tobytes(), int(start))
    for cell, count, start in zip(values, counts, begun, strict=True)
  ]
  return np.array(checks, np.uint32)


def _is_as_written(name: str, array: np.ndarray) -> bool:
  """True if name, dtype and number of axes are what `write` writes."""
  if name.startswith(_CHECK):
    axes = 2 if name == f'{_CHECK}{BASELINE}' else 3
    return array.dtype == np.uint32 and array.ndim == axes
  if name == 'recorded':
    signed = np.issubdtype(array.dtype, np.signedinteger) and array.ndim == 3
    return signed and bool((array >= 0).all())
  return array.dtype.kind == 'U' and array.ndim == 2 * (name == 'made_with')


def _grown(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
  """Pads an array with zeros, or cuts it, to a shape."""
  out = np.zeros(shape, array.dtype)
  overlap = array[tuple(map(slice, shape))]
  out[tuple(map(slice, overlap.shape))] = overlap
  return out
