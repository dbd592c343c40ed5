"""Marks: how many draws of each chain are stored, and the chains after them.

A file holds the chains of one (checkpoint, data set, refinement). It is written
after the draws that it speaks of, and replaced in one move: it never promises
more than is there, whenever a run is killed.
"""

from collections.abc import Sequence
import io
import os
import pathlib

import numpy as np

from rllc_jax.results import traces


def read_counts(path: pathlib.Path, num_chains: int) -> np.ndarray:
  """Draws stored of each chain, [C]; 0 for chains that the mark lacks."""
  counts = np.zeros(num_chains, np.int32)
  for saved in _read(path, ['recorded']):
    counts[: len(saved)] = saved[:num_chains]
  return counts


def read_states(path: pathlib.Path) -> list[np.ndarray]:
  """Leaves of the chains' states, [C, ...] each; none without a mark."""
  return _read(path)


def read_made_with(path: pathlib.Path) -> str:
  """The software and devices that the last draws were made with."""
  return ''.join(str(saved) for saved in _read(path, ['made_with']))


def write(
  path: pathlib.Path,
  num_chains: int,
  chains: Sequence[int],
  count: int,
  states: Sequence[np.ndarray],
  made_with: str,
) -> None:
  """Marks that some chains have `count` draws now; the others stay.

  Args:
    path: the mark.
    num_chains: C, of all chains there are.
    chains: which of them.
    count: draws.
    states: leaves [len(chains), ...].
    made_with: software and devices, for people.
  """
  counts = read_counts(path, num_chains)
  counts[list(chains)] = count
  known = read_states(path) or [leaf[:0] for leaf in states]
  leaves = []
  for old, new in zip(known, states, strict=True):
    leaf = np.zeros((num_chains, *new.shape[1:]), new.dtype)
    leaf[: len(old)] = old
    leaf[list(chains)] = new
    leaves.append(leaf)
  content = io.BytesIO()
  named = {f'leaf_{i:04d}': leaf for i, leaf in enumerate(leaves)}
  named |= {'recorded': counts, 'made_with': np.array(made_with)}
  np.savez(content, allow_pickle=False, **named)
  replace_file(path, content.getvalue())


def replace_file(path: pathlib.Path, content: bytes) -> None:
  """Writes a file in one move: whole, or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  beside = path.with_name(path.name + '.new')
  beside.write_bytes(content)
  os.replace(beside, path)


def _read(path, names=None) -> list[np.ndarray]:
  """The named arrays, or all leaves in the order they were written."""
  if not path.exists():
    return []
  try:
    with open(path, 'rb') as file, np.load(file) as mark:
      if names is None:
        names = sorted(name for name in mark.files if name[:4] == 'leaf')
      return [mark[name] for name in names]
  except Exception as error:
    raise traces.StoreError(
      f'{path} must be a mark of this store, so that a run can go on; got '
      f'{type(error).__name__}: {error}. Remove the file to do its draws again.'
    ) from error
