"""Sources that read the user's files: JSON, Parquet, Arrow, plain text."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import glob
import os
import pathlib
import re
from typing import NamedTuple

from rllc_jax import visible
from rllc_jax.data import arrow_texts
from rllc_jax.data import documents
from rllc_jax.data import json_texts
from rllc_jax.data import parquet_texts
from rllc_jax.data import text_files
from rllc_jax.data import unpacking

Reader = Callable[[pathlib.Path, str, bool], Iterator[str | None]]

READERS: Mapping[str, Reader] = {
  '.jsonl': json_texts.read_lines,
  '.ndjson': json_texts.read_lines,
  '.json': json_texts.read_document,
  '.txt': text_files.read,
  '.parquet': parquet_texts.read,
  '.arrow': arrow_texts.read,
}
_WILD = re.compile(r'[*?[]')
_NAME = re.compile(r'([\w.-]+)=(.+)')
_NULLS = ('refuse', 'skip')


class Entry(NamedTuple):
  """The parts of one string of `corpus.files`.

  Attributes:
    text: as it was given.
    name: the domain that it names, or None.
    place: the file, folder or glob, with `~` expanded.
    field: the field that it names, or None.
  """

  text: str
  name: str | None
  place: str
  field: str | None


def parse(text: str) -> Entry:
  """Parses '[NAME=]PLACE[#FIELD]', where PLACE may contain `=` and `#`.

  The whole string is the place if that exists. Otherwise NAME= is removed, then
  #FIELD, then both, until a place exists. If none does, both are removed.

  Args:
    text: PLACE is a file, a folder or a glob, and may begin with `~`.

  Examples:
    >>> parse('web=shards/*.jsonl#article.text')[1:]
    ('web', 'shards/*.jsonl', 'article.text')
    >>> parse('data/lang=de/part-0.parquet')[1:]
    (None, 'data/lang=de/part-0.parquet', None)
  """
  candidates = list(_readings(text))
  existing = (x for x in candidates if _exists(x.place))
  return next(existing, candidates[-1])


def _readings(text: str) -> Iterator[Entry]:
  """Yields the possible entries of a string, the most literal one first."""
  named = _NAME.fullmatch(text)
  for take_field in (False, True):
    place, mark, field = text.rpartition('#')
    if take_field and not (place and field):
      continue
    rest, field = (place, field) if take_field else (text, None)
    yield Entry(text, None, os.path.expanduser(rest), field)
    if named and len(named[1]) + 1 < len(rest):
      rest = os.path.expanduser(rest[len(named[1]) + 1 :])
      yield Entry(text, named[1], rest, field)


def _exists(place: str) -> bool:
  if os.path.exists(place) or not _WILD.search(place):
    return os.path.exists(place)
  # Matches are checked, because 'absent/**' matches 'absent/' in glob.
  return any(map(os.path.exists, glob.iglob(place, recursive=True)))


def source(
  path: str, text_field: str = 'text', nulls: str = 'refuse'
) -> documents.Source:
  """Builds a source of a file, of a folder's files, or of a glob's.

  Args:
    path: 'FILE', 'NAME=FILE', or either with '#FIELD' at its end; for FILE may
      stand a folder or a glob (see `parse` and `paths`). The suffix, in any
      case and before a '.gz', decides how a file is read: one JSON object a
      line (.jsonl, .ndjson), also an array of objects or a single one (.json),
      a table (.parquet, .arrow), or text (.txt) that is cut at line ends into
      documents of about 10,000 characters. Whether it is gzip is seen from its
      first bytes. The domain is called NAME, or else FILE without folder and
      suffix.
    text_field: the field or column that holds the text where FIELD is not
      given, 'article.text' for one inside another; .txt has none.
    nulls: 'refuse' or 'skip', of rows without text; what is skipped is counted.

  Raises:
    FileNotFoundError: a folder or a glob has no file that could be read.
    ValueError: the suffix is unknown, the name cannot be part of a path, or a
      glob has no name. While reading: the file is not what its suffix says.

  Examples:
    >>> source('web=shard_0.jsonl').name, source('notes.txt.gz').name
    ('web', 'notes')
  """
  entry = parse(path)
  return _source(_name(entry), [entry], text_field, nulls)


def sources(
  given: Sequence[str], text_field: str = 'text', nulls: str = 'refuse'
) -> list[documents.Source]:
  """Builds one source per domain; files with one NAME share a domain.

  Args:
    given: each as `source` takes it.
    text_field: as of `source`.
    nulls: as of `source`.

  Returns:
    Sources in the order in which their names first appear. Each reads its
    files in the order given, a folder's or a glob's sorted, none twice.

  Raises:
    FileNotFoundError: a file is absent.
    ValueError: as `source`, or two files without NAME= have one name.
  """
  if isinstance(given, str):  # Iterated, each character would be a file.
    raise ValueError(
      'files (config.corpus.files) must be a tuple of strings, because there '
      f'may be several; got {given!r:.200}. Write ({given!r:.200},)'
    )
  entries = [parse(path) for path in given]
  domains: dict[str, list[Entry]] = {}
  for entry in entries:
    _check_exists(entry)  # Before any is read, which may take long.
    name = _name(entry)
    namesakes = domains.setdefault(name, [])
    namesakes.append(entry)
    if len(namesakes) > 1 and not all(x.name for x in namesakes):
      both = ', '.join(x.text for x in namesakes[-2:])
      raise ValueError(
        f'expected one name a domain, because windows are found by it; got '
        f'{name} more than once, of {both}. Write {name}= before each to make '
        'them one domain, or give each a name of its own'
      )
  return [_source(x, y, text_field, nulls) for x, y in domains.items()]


def _source(
  name: str, entries: Iterable[Entry], text_field: str, nulls: str
) -> documents.Source:
  """Builds the source of one domain from all its entries."""
  if nulls not in _NULLS:
    raise ValueError(
      f'nulls (config.corpus.nulls) must be one of {", ".join(_NULLS)}, '
      f'because they say what becomes of rows without text; got {nulls!r}'
    )
  files: dict[str, tuple[pathlib.Path, Reader, str]] = {}
  for entry in entries:
    for path in paths(entry.place):
      field = entry.field or text_field
      # Globs may overlap; a file that is read twice would give duplicates.
      key = os.path.realpath(path)
      files.setdefault(key, (path, _reader(path), field))

  def read() -> Iterator[str | None]:
    for path, reader, field in files.values():
      for text in reader(path, field, nulls == 'skip'):
        # Up to 8 characters may be letters separated by NUL; longer ones are
        # UTF-16 that was read as UTF-8.
        if text and text.count('\0') > 0.25 * len(text) > 2:
          raise _half_nul(path, text)
        yield text

  return documents.Source(name, "the user's own", None, read, len(files))


def _half_nul(path: pathlib.Path, text: str) -> ValueError:
  return ValueError(
    f'{path}: expected text; got {text.count(chr(0))} NUL among '
    f'{len(text)} characters of a document, as when UTF-16 was read as UTF-8: '
    f'{visible.short(text, 40)}. Decode its source as UTF-16 and write the '
    'file again'
  )


def paths(place: str) -> list[pathlib.Path]:
  """Lists the files that a file, a folder or a glob stands for.

  Args:
    place: of a folder, all files below it count that end in a known suffix,
      and so do those that a glob matches ('**' is any number of folders);
      hidden ones do not. Anything else is a file.

  Returns:
    Sorted paths, so that the order does not depend on the disk.

  Raises:
    FileNotFoundError: there is no such file.
  """
  if os.path.isdir(place):
    matches = [
      os.path.join(folder, name)
      for folder, subfolders, names in _walk(place)
      for name in names
      if not name.startswith('.')
    ]
  elif os.path.exists(place) or not _WILD.search(place):
    return [pathlib.Path(place)]
  else:
    matches = [x for x in glob.glob(place, recursive=True) if os.path.isfile(x)]
  readable = sorted(
    pathlib.Path(x) for x in matches if unpacking.suffix(x) in READERS
  )
  if not readable:
    kinds = sorted({unpacking.suffix(x) or 'no suffix' for x in matches})[:9]
    raise FileNotFoundError(
      f'{place}: expected files that end in {", ".join(READERS)} (or that and '
      '.gz), because the suffix says how to read them; got '
      f'{len(matches)} files{" of " if kinds else ""}{", ".join(kinds)}. '
      f'Check the path, which begins at {os.getcwd()} if it is relative'
    )
  return readable


def _walk(folder: str) -> Iterator[tuple[str, list[str], list[str]]]:
  """os.walk without hidden folders."""
  for place, subfolders, names in os.walk(folder):
    # In place, because os.walk reads this list to descend.
    subfolders[:] = [x for x in subfolders if not x.startswith('.')]
    yield place, subfolders, names


def _check_exists(entry: Entry) -> None:
  """Refuses an absent file at once, because reading others takes long."""
  if _exists(entry.place):
    return
  prefix = f'; {entry.name}= was taken as its name' if entry.name else ''
  raise FileNotFoundError(
    f'{visible.text(entry.place)}: expected a file, a folder or a glob that '
    f'matches some, because corpus.files names it; got none{prefix}. Check the '
    f'path, which begins at {os.getcwd()} if it is relative'
  )


def _reader(path: pathlib.Path) -> Reader:
  suffix = unpacking.suffix(path)
  if suffix not in READERS:
    raise ValueError(
      f'{path}: expected a file ending in {", ".join(READERS)}, or one of them '
      f'and .gz, because the suffix says how to read it; got {suffix!r}. '
      'Rename it, or write its texts as JSON lines: {"text": "..."}'
    )
  return READERS[suffix]


def _name(entry: Entry) -> str:
  """The name of the domain of an entry.

  Raises:
    ValueError: it cannot be part of a path, or a glob has none.
  """
  # A file called 'a[1].txt' exists and is no glob.
  is_there = os.path.exists(entry.place)
  if entry.name is None and _WILD.search(entry.place) and not is_there:
    raise ValueError(
      f'{entry.text}: expected NAME={entry.text}, because the files of a '
      'glob are one domain, which needs a name; got no name. Write for '
      f'example mine={entry.text}'
    )
  path = unpacking.without_gz(os.path.abspath(entry.place))
  stem = path.stem if path.suffix.lower() in READERS else path.name
  name = stem if entry.name is None else entry.name
  usable = re.sub(r'[^\w.-]+', '_', name).strip('_') or 'mine'
  documents.check_name(
    name, f'{entry.text} (write for example {usable}={entry.text})'
  )
  return name
