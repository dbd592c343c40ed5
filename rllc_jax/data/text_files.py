"""Texts from plain text files, cut into passages."""

from collections.abc import Iterator
import pathlib

from rllc_jax.data import documents
from rllc_jax.data import encodings
from rllc_jax.data import unpacking

_PASSAGE = 10_000  # Characters of a document, to the end of the line.
_LONGEST = 5 * _PASSAGE  # Longer passages have a long line, which is cut.
_MARK = b'\xef\xbb\xbf'  # Byte order mark, which some editors write.


def read(
  path: pathlib.Path, field: str, skip_nulls: bool = False
) -> Iterator[str]:
  """Yields a text in passages of about 10,000 characters.

  Args:
    path: of the file, or of such a file as gzip.
    field: not used: a plain text has none, and no rows that could be null.
    skip_nulls: not used.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is not UTF-8.
  """
  del field, skip_nulls
  with unpacking.open_bytes(path) as file:
    content = file.read()
  encodings.check(content, path)
  # Decoded by line, so that an error names the line.
  lines = content.removeprefix(_MARK).splitlines(keepends=True)
  text = ''.join(
    encodings.decode(line, path, f'{path}:{number}')
    for number, line in enumerate(lines, start=1)
  )
  for passage in documents.passages(text, _PASSAGE):
    # One long line would make one document of a whole file.
    if len(passage) <= _LONGEST:
      yield passage
    else:
      yield from documents.cut(passage, _PASSAGE)
