"""Blocks: rows by columns, and the keys by which files name them."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import hashlib
import json
from typing import Any, NamedTuple

import numpy as np

from rllc_jax.results import files
from rllc_jax.results import store

BASELINE = 'baseline_loss'
_FIRST = 'first_draw'


class Block(NamedTuple):
  """Some rows by some columns.

  Attributes:
    rows: K of them.
    columns: N of them.
  """

  rows: tuple[store.Row, ...]
  columns: tuple[store.Column, ...]


class Part(NamedTuple):
  """Draws of a block, or its chains after some.

  Attributes:
    block: rows by columns.
    first: the first draw.
    stop: the draw after the last one.
    arrays: traces [K, N, draws, ...] by name, and perhaps `BASELINE`, losses at
      the checkpoints [K, M]; or leaves of chains [K, N, ...] by number.
    made_with: software and devices.
  """

  block: Block
  first: int
  stop: int
  arrays: Mapping[str, np.ndarray]
  made_with: str


class Kind(NamedTuple):
  """What all files of one key have in common.

  Attributes:
    block: rows by columns.
    shapes: dtype and axes behind those of the block by name of array, without
      that of draws.
    made_with: software and devices.
  """

  block: Block
  shapes: dict[str, tuple[np.dtype, tuple[int, ...]]]
  made_with: str


# Stands for what a block's numbers are; '' if the run has no such block.
IdentityOf = Callable[[Block], str]


def encoded(
  part: Part, writer: str, identity_of: IdentityOf
) -> tuple[files.Name, bytes]:
  """The name and the bytes of a part's file."""
  metadata = {
    'rows': _text(part.block.rows),
    'columns': _text(part.block.columns),
    'made_with': part.made_with,
    _FIRST: str(part.first),
  }
  data = files.content(part.arrays, metadata)
  count = part.stop - part.first
  kind = Kind(
    part.block,
    {
      name: (x.dtype, _own_axes(name, x.shape, count))
      for name, x in part.arrays.items()
    },
    part.made_with,
  )
  key = _key(kind, metadata, identity_of(part.block))
  name = files.Name(key, part.first, part.stop, writer, files.checksum(data))
  return name, data


def kind(path: Any, name: files.Name, identity_of: IdentityOf) -> Kind | None:
  """What a file's key stands for; None if the run has no such block.

  Raises:
    DamagedFileError: if it is not what the key stands for.
    FileNotFoundError: if there is no such file.
  """
  header = files.header(path)
  stated = _kind(header, name)
  identity = identity_of(stated.block)
  if identity and name.key != _key(stated, header.metadata, identity):
    raise files.DamagedFileError('a file of another run, or a damaged one')
  return stated if identity else None


def check(path: Any, name: files.Name, kind: Kind) -> files.Header:
  """Verifies all of a file, its name too, and returns its header.

  Args:
    path: of the file.
    name: its name.
    kind: what files of its key hold.

  Raises:
    DamagedFileError: if it is not what was written.
    FileNotFoundError: if there is no such file.
  """
  files.verify(path)
  header = files.header(path)
  # The checksum knows nothing of a name that was changed.
  if header.metadata.get(_FIRST) != str(name.first):
    raise files.DamagedFileError('another name than it was given')
  if _kind(header, name) != kind:
    raise files.DamagedFileError('other arrays than its name says')
  return header


def _kind(header: files.Header, name: files.Name) -> Kind:
  """What a file says that it holds, which may come from a stranger."""
  try:
    return _checked_kind(header, name.stop - name.first)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise files.DamagedFileError(f'{type(error).__name__}: {error}') from error


def _checked_kind(header: files.Header, count: int) -> Kind:
  rows = _pairs(header.metadata['rows'], (int, str))
  columns = _pairs(header.metadata['columns'], (str, int))
  cells = len(rows), len(columns)
  if min(cells) == 0 or count < 0:
    raise ValueError('no cells')
  for name, tensor in header.tensors.items():
    if not is_plain(name):
      raise ValueError(f'an array named {name!a:.40}')
    shared = cells[:1] if name == BASELINE else cells
    length = (count,) if count and name != BASELINE else ()
    if tensor.shape[: len(shared + length)] != shared + length:
      raise ValueError('arrays that are not of one block')
  shapes = {
    name: (tensor.dtype, _own_axes(name, tensor.shape, count))
    for name, tensor in header.tensors.items()
  }
  return Kind(Block(rows, columns), shapes, header.metadata['made_with'])


def is_plain(name: str) -> bool:
  """True for a name that can be that of a directory and leads nowhere else."""
  # An export makes directories of the names of arrays.
  return name.isprintable() and '/' not in name and name not in ('', '.', '..')


def _own_axes(name: str, shape: tuple[int, ...], count: int) -> tuple[int, ...]:
  """Axes besides those of rows, columns and draws; chains have no draws."""
  return shape[1 if name == BASELINE else 3 if count else 2 :]


def _key(kind: Kind, metadata: Mapping[str, str], identity: str) -> str:
  shapes = sorted((x, dtype.str, n) for x, (dtype, n) in kind.shapes.items())
  # Texts as they are in the file: to encode many columns again takes longer.
  texts = [metadata[name] for name in ('rows', 'columns', 'made_with')]
  text = repr((texts, shapes, identity))
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _text(pairs: Sequence[tuple[Any, Any]]) -> str:
  """Pairs as JSON: as a product if they are one, because they may be many."""
  a, b = (list(dict.fromkeys(x)) for x in zip(*pairs, strict=True))
  if tuple((x, y) for x in a for y in b) == tuple(pairs):
    return json.dumps([[a, b]])
  return json.dumps([[[x], [y]] for x, y in pairs])


@functools.lru_cache(maxsize=4096)  # Most files have the same columns.
def _pairs(text: str, types: tuple[type, type]) -> tuple[tuple[Any, Any], ...]:
  pairs = tuple((x, y) for a, b in json.loads(text) for x in a for y in b)
  for pair in pairs:
    if not all(map(isinstance, pair, types)):
      raise TypeError(f'{pair!a:.40} as a row or a column')
  return pairs
