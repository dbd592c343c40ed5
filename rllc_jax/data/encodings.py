"""Decodes UTF-8, or raises an error that names the likely encoding."""

from collections.abc import Iterator
import contextlib
import pathlib
import shlex

from rllc_jax import visible
from rllc_jax.data import unpacking

HEAD = 2**16  # Bytes examined together; a multiple of 4, for UTF-32.
_FEW = 2**10  # Shorter ends of files are not judged: chance makes patterns.

# UTF-8 text has none of these bytes. UTF-16 text does: half of its bytes are
# NUL in most alphabets, and 0x03 to 0x06 in Greek, Cyrillic, Hebrew and Arabic.
_CONTROLS = bytes([*range(9), *range(14, 27), 28, 29, 30, 31])
_MARKS = (  # Longer ones first: UTF-16LE's begins UTF-32LE's.
  (b'\xff\xfe\0\0', 'UTF-32LE'),
  (b'\0\0\xfe\xff', 'UTF-32BE'),
  (b'\xff\xfe', 'UTF-16LE'),
  (b'\xfe\xff', 'UTF-16BE'),
)
_BINARY = 'binary data'
_SIGNATURES = (  # First bytes, the kind of file, the remedy.
  (b'PAR1', 'a Parquet table', 'Rename it to end in .parquet'),
  (b'ARROW1', 'an Arrow table', 'Rename it to end in .arrow'),
  (b'\x28\xb5\x2f\xfd', 'zstd', 'Unpack it with zstd -d'),
  (b'\xfd7zXZ\0', 'xz', 'Unpack it with xz -d'),
  (b'BZh', 'bzip2', 'Unpack it with bzip2 -d'),
  (b'PK\3\4', 'a zip archive', 'Unpack it with unzip'),
  (b'%PDF', 'a PDF', 'Extract its text, for example with pdftotext'),
  (b'{', 'JSON', 'Rename it to end in .jsonl, or in .json'),
  (b'[', 'JSON', 'Rename it to end in .json'),
)


def signature(path: pathlib.Path) -> tuple[str, str]:
  """Guesses kind and remedy of a file from its first bytes; '' if unknown."""
  with unpacking.open_bytes(path) as file:
    head = file.read(64)
  for start, kind, remedy in _SIGNATURES:
    if head.startswith(start):
      return kind, remedy
  return '', ''


def other_encoding(part: bytes) -> str:
  """Names the encoding that bytes seem to have; '' if it may be UTF-8.

  Args:
    part: of a file, from a byte whose number is a multiple of 4.

  Examples:
    >>> other_encoding('Some text'.encode('utf-16-le'))
    'UTF-16LE'
    >>> other_encoding(b'Some text')
    ''
  """
  for mark, name in _MARKS:
    if part.startswith(mark):
      return name
  if len(part) < 8:  # Chance gives a few bytes any pattern.
    return ''
  first, second, third, fourth = (
    _share_of_controls(part[i::4]) for i in range(4)
  )
  # UTF-32 first: its two or three zero bytes in four look like UTF-16, too.
  if min(third, fourth) > 0.9 and first < 0.3:
    return 'UTF-32LE'
  if min(first, second) > 0.9 and fourth < 0.3:
    return 'UTF-32BE'
  even, odd = (first + third) / 2, (second + fourth) / 2
  if odd > 0.4 and even < 0.3:
    return 'UTF-16LE'
  if even > 0.4 and odd < 0.3:
    return 'UTF-16BE'
  return _BINARY if part.count(0) > len(part) / 2 else ''


def _share_of_controls(part: bytes) -> float:
  """The share of bytes that UTF-8 text does not have."""
  return 1 - len(part.translate(None, _CONTROLS)) / max(len(part), 1)


def check(content: bytes, path: pathlib.Path) -> None:
  """Refuses bytes that seem to have another encoding than UTF-8.

  UTF-16 of English text is valid UTF-8, with a NUL after each letter.

  Args:
    content: of the file, from its beginning.
    path: of the file, for the message.

  Raises:
    ValueError: another encoding is likelier; the text names it.
  """
  for start in range(0, len(content), HEAD):
    part = content[start : start + HEAD]
    if start and len(part) < _FEW:
      return
    if name := other_encoding(part):
      place = f' from about byte {start} on' if start else ''
      raise ValueError(
        f'{path}: expected UTF-8 text, because no other is read; got what '
        f'looks like {name}{place}. {_remedy(path, name, start)}'
      )


def _remedy(path: pathlib.Path, name: str, start: int) -> str:
  if name == _BINARY:
    return 'Give the file of text that it was made from'
  if start:  # Converting all of it would spoil the beginning.
    return f'Convert that part with iconv -f {name} -t UTF-8, then join them'
  return conversion(path, name)


def check_head(path: pathlib.Path) -> None:
  """Refuses a file whose first bytes `check` refuses.

  Raises:
    OSError: it cannot be read.
    ValueError: as `check`.
  """
  with unpacking.open_bytes(path) as file:
    check(file.read(HEAD), path)


def conversion(path: pathlib.Path, encoding: str) -> str:
  """A shell command that converts a file to UTF-8."""
  file = shlex.quote(str(path))
  new = shlex.quote(str(path.with_name(f'utf8_{path.name}')))
  iconv = f'iconv -f {encoding} -t UTF-8'
  if unpacking.is_gzip(path):
    return f'Convert it: gzip -cd < {file} | {iconv} > {new}'
  return f'Convert it: {iconv} {file} > {new}'


def decode(line: bytes, path: pathlib.Path, place: str) -> str:
  """Decodes a line.

  Args:
    line: its bytes.
    path: of the file.
    place: the file and the number of the line, for the message.

  Raises:
    ValueError: it is not UTF-8.
  """
  try:
    return line.decode('utf-8')
  except UnicodeDecodeError as error:
    kind, remedy = signature(path)
    if kind == 'JSON':  # Another encoding of JSON, not a wrong suffix.
      kind, remedy = '', ''
    raise ValueError(
      f'{place}: expected UTF-8 text, because no other is read; got '
      f'{f"the first bytes of {kind} and " if kind else ""}'
      f'the byte 0x{line[error.start]:02x} at column {error.start + 1}. '
      f'{remedy or conversion(path, "WINDOWS-1252") + " (if it is that)"}'
    ) from None


def shown(line: bytes) -> str:
  """The first 40 bytes of a line, safe to print."""
  return repr(line[:40].decode('utf-8', 'replace'))


@contextlib.contextmanager
def as_value_error(
  path: pathlib.Path, expected: str, kind: str
) -> Iterator[None]:
  """Turns every exception inside into a ValueError that names the file.

  Args:
    path: of the file that is read.
    expected: what its suffix says, for the message.
    kind: what `signature` calls a file of that suffix.
  """
  try:
    yield
  except Exception as error:  # The library's errors share no base class.
    actual, remedy = signature(path)
    if actual == kind:
      actual, remedy = '', ''
    raise ValueError(
      f'{path}: expected {expected}, because of its suffix; got '
      f'{f"the first bytes of {actual}: " if actual else ""}'
      f'{visible.short(error).rstrip(".")}. '
      f'{remedy or "Put back a complete copy, or write it again"}'
    ) from None
