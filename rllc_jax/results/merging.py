"""Files of a store merged: consecutive draws of a block, chains of cells."""

from collections.abc import Sequence
import itertools
import math

import numpy as np

from rllc_jax.results import blocks
from rllc_jax.results import damages
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
        _merge(directory, run, writer, concatenated)
        run = []
      run.append(entry)
    _merge(directory, run, writer, concatenated)


def merge_rows(directory: index.Index, num_rows: int, writer: str) -> None:
  """Merges files of the same columns and draws, so that there are fewer.

  Args:
    directory: files of traces, or of chains.
    num_rows: of the store.
    writer: of the merged files.
  """
  span = lambda entry: (entry.name.first, entry.name.stop)
  of_kind = lambda entry: repr((entry.kind._replace(block=None), span(entry)))
  groups: dict[tuple, dict[blocks.Block, index.Entry]] = {}
  for entry in sorted(directory.all(), key=lambda entry: entry.name.writer):
    columns = entry.kind.block.columns
    group = groups.setdefault((columns, of_kind(entry)), {})
    if entry.kind.block in group:  # The same draws twice.
      directory.remove(group[entry.kind.block])
    group[entry.kind.block] = entry
  for group in groups.values():
    taken: set[store.Row] = set()
    batch: list[index.Entry] = []
    for entry in sorted(group.values(), key=lambda x: x.kind.block.rows):
      rows = {*entry.kind.block.rows}
      if rows & taken:  # Rows that were cut in two ways stay as they are.
        continue
      taken |= rows
      most = rows_per_file(num_rows, _row_bytes(entry))
      if sum(len(x.kind.block.rows) for x in batch) + len(rows) > most:
        _merge(directory, batch, writer, stacked)
        batch = []
      batch.append(entry)
    _merge(directory, batch, writer, stacked)


def _row_bytes(entry: index.Entry) -> int:
  """Bytes of a row of a file, without the losses at the checkpoint."""
  draws = max(1, entry.name.stop - entry.name.first)
  return sum(
    dtype.itemsize * math.prod(axes) * draws * len(entry.kind.block.columns)
    for dtype, axes in entry.kind.shapes.values()
  )


def stacked(
  directory: index.Index, entries: Sequence[index.Entry]
) -> blocks.Part:
  """Files of the same columns and draws, as one part."""
  parts = [_arrays(directory, entry) for entry in entries]
  arrays = {x: np.concatenate([part[x] for part in parts]) for x in parts[0]}
  first = entries[0]
  rows = tuple(row for entry in entries for row in entry.kind.block.rows)
  block = first.kind.block._replace(rows=rows)
  made_with = first.kind.made_with
  return blocks.Part(
    block, first.name.first, first.name.stop, arrays, made_with
  )


def _traces(entry: index.Entry) -> list:
  """Names and kinds of the traces of a file."""
  shapes = entry.kind.shapes.items()
  return sorted(
    (name, str(dtype), axes)
    for name, (dtype, axes) in shapes
    if name != blocks.BASELINE
  )


def _merge(directory, entries: list[index.Entry], writer, join) -> None:
  if len(entries) > 1:
    try:
      part = join(directory, entries)
    except FileNotFoundError:  # Another process merges them.
      return
    directory.write(part, writer)
    for entry in entries:
      directory.remove(entry)


def concatenated(
  directory: index.Index, entries: Sequence[index.Entry]
) -> blocks.Part:
  """Files of one block whose draws follow one another, as one part."""
  spans = [_arrays(directory, entry) for entry in entries]
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


def _arrays(
  directory: index.Index, entry: index.Entry
) -> dict[str, np.ndarray]:
  """All arrays of a file; one that is damaged is an error of the store."""
  path = directory.path(entry)
  try:
    return files.read_all(path, directory.checked(entry))
  except files.DamagedFileError as error:
    raise damages.error(path, str(error)) from error


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
    arrays = _arrays(directory, entry)
    saved = [arrays[name] for name in sorted(arrays)]
    if not leaves:
      shape = len(rows), len(columns)
      leaves = [np.zeros((*shape, *x.shape[2:]), x.dtype) for x in saved]
    for k, row in enumerate(entry.kind.block.rows):
      if row in rows:
        for leaf, x in zip(leaves, saved, strict=True):
          leaf[rows.index(row), target] = x[k, source]
  return leaves
