"""Immutable files of a store: arrays in safetensors, with their checksum.

A name says what a file holds: KEY.FIRST-STOP.WRITER.CHECKSUM.safetensors. The
key stands for rows, columns, identity and kinds of arrays; the span is one of
draws; the writer counts runs and then is random, so no two write one file; the
checksum is a CRC-32 of all bytes. A file is written beside and renamed; in an
object store, which shows whole objects alone, it is put.
"""

from collections.abc import Mapping
import json
import math
import os
import pathlib
import re
from typing import Any, NamedTuple
import zlib

import numpy as np
from safetensors import numpy as safetensors

from rllc_jax import checked_files

SUFFIX = '.safetensors'
DAMAGED = '.damaged'  # The end of names of files that a run put aside.
_NAME = re.compile(
  r'([0-9a-f]{32})\.(\d{1,9})-(\d{1,9})\.(\d{6}[0-9a-f]{8})\.([0-9a-f]{8})'
  rf'\{SUFFIX}'
)
_BLOCK = 2**22  # Bytes read at a time.
_MAX_HEADER = 2**26  # Bytes: a store may be hostile.
_DTYPES = {
  'BOOL': 'bool',
  **{
    f'{kind}{bits}': f'{name}{bits}'
    for kind, name in (('I', 'int'), ('U', 'uint'))
    for bits in (8, 16, 32, 64)
  },
  **{f'F{bits}': f'float{bits}' for bits in (16, 32, 64)},
  'BF16': 'bfloat16',  # Of chains alone: JAX has told NumPy of it by then.
}


class DamagedFileError(ValueError):
  """A file is not what was written; the text is the reason."""


class Name(NamedTuple):
  """The parts of a file's name.

  Attributes:
    key: stands for rows, columns, identity and kinds of arrays.
    first: the first draw.
    stop: the draw after the last one.
    writer: a number of six digits that grows from run to run, and a random one.
    checksum: of all bytes.
  """

  key: str
  first: int
  stop: int
  writer: str
  checksum: str

  def __str__(self) -> str:
    span = f'{self.first}-{self.stop}'
    return f'{self.key}.{span}.{self.writer}.{self.checksum}{SUFFIX}'


class Tensor(NamedTuple):
  """Where an array lies in a file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int


class Header(NamedTuple):
  """What a file says of itself."""

  metadata: dict[str, str]
  tensors: dict[str, Tensor]


def parse_name(name: str) -> Name:
  """The parts of a name.

  Raises:
    DamagedFileError: if it is none.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise DamagedFileError('a name that no run gives')
  key, first, stop, writer, checksum = match.groups()
  return Name(key, int(first), int(stop), writer, checksum)


def content(
  arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> bytes:
  """The bytes of a file."""
  # The library takes the memory of an array as it is, whatever its strides.
  plain = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
  return safetensors.save(plain, dict(metadata))


def checksum(data: bytes) -> str:
  """The CRC-32 of bytes, as eight hexadecimal digits."""
  return f'{zlib.crc32(data):08x}'


def place(path: Any) -> Any:
  """A directory, or an address of an object store such as s3://BUCKET/RUN.

  Raises:
    ValueError: if nothing here can read such addresses.
  """
  text = os.fspath(path).removeprefix('file://')
  if '://' not in text:
    return pathlib.Path(text)
  import upath  # Here: most runs have a directory.

  try:
    address = upath.UPath(text.rstrip('/'))
    address.exists()  # Connects, or raises.
    return address
  except (ImportError, ValueError) as error:
    raise ValueError(
      'A store must be in a directory, or at an address that fsspec can read '
      f'with what is installed; got {text}: {error}.'
    ) from None


def is_local(path: Any) -> bool:
  """True for a directory, which has locks and renames."""
  return isinstance(path, pathlib.Path)


def put(path: Any, data: bytes) -> None:
  """Writes a new file: whole, or not at all.

  Raises:
    checked_files.DiskError: if the place does not take it.
  """
  if not is_local(path):
    with checked_files.with_path_in_errors(path):
      path.write_bytes(data)
    return
  with checked_files.replacing(path) as beside, beside.open('wb') as file:
    file.write(data)
    file.flush()
    # A machine may stop: older files are removed once this one has its name.
    os.fsync(file.fileno())


def put_aside(path: Any) -> None:
  """Renames a damaged file, so that none takes it for one of the store."""
  try:
    path.rename(path.with_name(path.name + DAMAGED))
  except FileNotFoundError:  # Another process was first.
    pass


def verify(path: Any) -> None:
  """Compares all bytes of a file with the checksum in its name.

  Raises:
    DamagedFileError: if they are others.
    FileNotFoundError: if there is no such file.
  """
  expected, crc = parse_name(path.name).checksum, 0
  with _opened(path) as file:
    while block := file.read(_BLOCK):
      crc = zlib.crc32(block, crc)
  if f'{crc:08x}' != expected:
    raise DamagedFileError(f'bytes with the checksum {crc:08x}')


def header(path: Any) -> Header:
  """Reads what a file says of itself, without its arrays.

  Raises:
    DamagedFileError: if it is not what was written.
    FileNotFoundError: if there is no such file.
  """
  with _opened(path) as file:
    size = int.from_bytes(file.read(8), 'little')
    if size > _MAX_HEADER:
      raise DamagedFileError(f'a header of {size} bytes')
    text = file.read(size)
  try:
    entries = json.loads(text)
    metadata = entries.pop('__metadata__')
    if not all(isinstance(x, str) for x in metadata.values()):
      raise TypeError('metadata that are no texts')
    tensors = {
      str(name): _tensor(entry, 8 + size) for name, entry in entries.items()
    }
  except Exception as error:  # A stranger's JSON may hold anything.
    raise DamagedFileError(f'{type(error).__name__}: {error}') from error
  return Header(metadata, tensors)


def read(path: Any, tensor: Tensor, row: int) -> np.ndarray:
  """Reads one row of an array, [...] of [K, ...], and no more."""
  shape = tensor.shape[1:]
  size = math.prod(shape) * tensor.dtype.itemsize
  with _opened(path) as file:
    file.seek(tensor.start + row * size)
    data = file.read(size)
  if len(data) != size:
    raise DamagedFileError(f'{len(data)} of {size} bytes')
  return np.frombuffer(data, tensor.dtype).reshape(shape)


def read_all(path: Any, arrays: Header) -> dict[str, np.ndarray]:
  """Reads all arrays of a file."""
  with _opened(path) as file:
    data = file.read()
  return {
    name: np.frombuffer(data, x.dtype, math.prod(x.shape), x.start).reshape(
      x.shape
    )
    for name, x in arrays.tensors.items()
  }


def _tensor(entry: Any, offset: int) -> Tensor:
  dtype, shape = np.dtype(_DTYPES[entry['dtype']]), tuple(entry['shape'])
  start, stop = entry['data_offsets']
  numbers = (*shape, start, stop)
  if {*map(type, numbers)} != {int} or min(numbers) < 0:
    raise TypeError('sizes that are no numbers')
  if stop - start != math.prod(shape) * dtype.itemsize:
    raise ValueError(f'{stop - start} bytes for {dtype}{[*shape]}')
  return Tensor(dtype, shape, offset + start)


def _opened(path: Any) -> Any:
  """A file that is read; anything but a file is a damaged one."""
  try:
    return path.open('rb')
  except IsADirectoryError:
    raise DamagedFileError('a directory') from None
