"""Files of a store merged: consecutive draws of a block, chains of cells."""

from collections.abc import Sequence
import itertools

import numpy as np

from rllc_jax.results import blocks
from rllc_jax.results import files
from rllc_jax.results import index
from rllc_jax.results import store

_FILE_BYTES = 2**26  # Of a merged file: to read a cell is to verify its file.
_MOST_FILES = 40_000  # Of a kind: chains can be far larger than traces.


def rows_per_file(num_rows: int, row_bytes: int) -> int:
  """Rows that a merged file holds, out of so many of a store.

  Examples:
    >>> rows_per_file(200_000, 11_200_000), rows_per_file(200_000, 2**30)
    (5, 5)
  """
  return max(_FILE_BYTES // row_bytes, -(-num_rows // _MOST_FILES), 1)


def merge_spans(
  directory: index.Index, block: blocks.Block, writer: str
) -> None:
  """Merges files within a block whose draws follow one another.

  A merged file is written before those that it replaces are removed.
  """
  of_kind = lambda entry: (entry.kind.block, _traces(entry))
  within = [
    entry
    for entry in directory.entries(block.rows, block.columns)
    # Others may be those of a process that works on the same rows.
    if {*entry.kind.block.columns} <= {*block.columns}
  ]
  entries = sorted(within, key=lambda x: (repr(of_kind(x)), x.name.first))
  for _, group in itertools.groupby(entries, of_kind):
    run: list[index.Entry] = []
    for entry in group:
      if run and entry.name.first != run[-1].name.stop:
        _merge(directory, run, writer)
        run = []
      run.append(entry)
    _merge(directory, run, writer)


def _traces(entry: index.Entry) -> list:
  """Names and kinds of the traces of a file."""
  shapes = entry.kind.shapes.items()
  return sorted(
    (name, str(dtype), axes)
    for name, (dtype, axes) in shapes
    if name != blocks.BASELINE
  )


def _merge(directory, entries: list[index.Entry], writer: str) -> None:
  if len(entries) > 1:
    directory.write(concatenated(directory, entries), writer)
    for entry in entries:
      directory.remove(entry)


def concatenated(
  directory: index.Index, entries: Sequence[index.Entry]
) -> blocks.Part:
  """Files of one block whose draws follow one another, as one part."""
  spans = [
    files.read_all(directory.path(x), directory.checked(x)) for x in entries
  ]
  arrays = {
    name: np.concatenate([span[name] for span in spans], axis=2)
    for name in spans[0]
    if name != blocks.BASELINE
  }
  if blocks.BASELINE in spans[0]:
    arrays[blocks.BASELINE] = spans[0][blocks.BASELINE]
  first, last = entries[0], entries[-1]
  return blocks.Part(
    first.kind.block,
    first.name.first,
    last.name.stop,
    arrays,
    last.kind.made_with,
  )


def states(
  directory: index.Index,
  rows: Sequence[store.Row],
  columns: Sequence[store.Column],
  stop: int,
) -> list[np.ndarray]:
  """Chains of rows by columns after some draws, leaves [K, N, ...].

  Args:
    directory: files of chains.
    rows: K of them.
    columns: N of them.
    stop: the number of draws.
  """
  places = index.Places(columns)
  leaves: list[np.ndarray] = []
  for entry in directory.entries(rows):
    source, target = places.of(entry.kind.block.columns)
    if entry.name.stop != stop or not len(source):
      continue
    arrays = files.read_all(directory.path(entry), directory.checked(entry))
    saved = [arrays[name] for name in sorted(arrays)]
    if not leaves:
      shape = len(rows), len(columns)
      leaves = [np.zeros((*shape, *x.shape[2:]), x.dtype) for x in saved]
    for k, row in enumerate(entry.kind.block.rows):
      if row in rows:
        for leaf, x in zip(leaves, saved, strict=True):
          leaf[rows.index(row), target] = x[k, source]
  return leaves
