"""Documents of a corpus: sources, duplicates, caps and the held-out split."""

import collections
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import hashlib
import itertools
import re
from typing import Any, NamedTuple, TypeVar

from rllc_jax import whole_numbers

_Item = TypeVar('_Item')

MIN_CHARACTERS = 40  # A shorter document is a heading or an empty stub.
MAX_CHARACTERS = 250_000  # A longer one is a whole book, or a broken file.


# Entry of a source's record -> the word for it in a message.
DROPPED: Mapping[str, str] = {
  'short_dropped': 'too short',
  'duplicates_dropped': 'repeated',
  'nulls_dropped': 'null',
  'oversized_cut': 'cut',
}


class MissingSource(Exception):
  """A source's package is not installed, or is not the pinned version."""


class Source(NamedTuple):
  """Text of one domain.

  Attributes:
    name: the domain; letters, digits and `_.-`, as it becomes part of a path.
    license: what its text may be used under.
    requires: the pip requirement that brings it, or None.
    read: `read() -> iterator of documents`, in an order that depends on the
      text alone, with None for a row without text that is to be counted; may
      raise `MissingSource`.
    num_files: files that it reads; 0 if it is not made of files.
  """

  name: str
  license: str
  requires: str | None
  read: Callable[[], Iterator[str | None]]
  num_files: int = 0


class Document(NamedTuple):
  """One text of the corpus.

  Attributes:
    key: a 128-bit hash of the text, as hexadecimal digits.
    domain: the name of its source.
    split: 'train' or 'held_out'.
    text: its characters, without outer whitespace.
  """

  key: str
  domain: str
  split: str
  text: str


class Collection(NamedTuple):
  """All documents of a list of sources, and a record of each source.

  Attributes:
    documents: those in the corpus, source by source.
    domains: name -> its license, requirement, counts, bytes and hash, ready
      for JSON. A further domain has `further` True.
    skipped: name of a missing source -> why it is missing.
  """

  documents: list[Document]
  domains: dict[str, dict[str, Any]]
  skipped: dict[str, str]


def check_name(name: str, place: str) -> None:
  """Checks the name of a domain, which becomes part of a path.

  Args:
    name: of the domain.
    place: where it is from, for the message.

  Raises:
    ValueError: it has other characters than letters, digits and `_.-`.
  """
  if not re.fullmatch(r'[\w.-]+', name):
    raise ValueError(
      f'{place}: expected a domain name of letters, digits and _.-, because it '
      f'becomes part of a path; got {name!r:.80}'
    )


def clean(text: str) -> str:
  r"""Strips outer whitespace and makes the text encodable as UTF-8.

  JSON can encode half of a surrogate pair, which no encoder accepts.

  Examples:
    >>> clean(' caf\u00e9 \ud800 ')
    'café ?'
  """
  return text.strip().encode('utf-8', 'replace').decode('utf-8')


def content_key(text: str) -> str:
  """A 128-bit hash of a text, as hexadecimal digits."""
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def is_held_out(key: str, fraction: float) -> bool:
  """True if the text with this hash is held out.

  Nothing but the text decides, so its side survives any change to the corpus,
  and what is held out at one fraction is held out at every larger one.

  Args:
    key: from `content_key`.
    fraction: expected share of documents, not of bytes, between 0 and 1.

  Examples:
    >>> is_held_out('f' * 32, 0.5), is_held_out('0' * 32, 0.5)
    (False, True)
  """
  # The first 64 bits suffice, because a float64 fraction has 53.
  return int(key[:16], 16) < fraction * 2**64


def scatter(
  items: Iterable[_Item], name: Callable[[_Item], str]
) -> list[_Item]:
  """Orders items by a hash of their names.

  The order is as good as random and the same on every machine, so that the
  first megabytes of a dictionary are not all of the letter A.
  """
  return sorted(items, key=lambda item: content_key(name(item)))


def passages(text: str, size: int) -> Iterator[str]:
  r"""Cuts a long text into documents, at line ends and nowhere else.

  Args:
    text: all of it; the passages joined give it back.
    size: characters; a passage ends with the line that reaches it.

  Examples:
    >>> list(passages('one\ntwo\nthree', 5))
    ['one\ntwo\n', 'three']
  """
  lines: list[str] = []
  length = 0
  # Joined once a passage: adding to a string would copy it at every line.
  for line in text.splitlines(keepends=True):
    lines.append(line)
    length += len(line)
    if length >= size:
      yield ''.join(lines)
      lines, length = [], 0
  if lines:
    yield ''.join(lines)


def cut(text: str, most: int) -> Iterator[str]:
  r"""Cuts a text into parts of at most `most` characters.

  Each cut is after the last line end of the second half of a part, or else the
  last space there, or else in the middle of a word.

  Args:
    text: all of it; the parts joined give it back.
    most: characters, at least 1.

  Examples:
    >>> list(cut('one two three four', 10))
    ['one two ', 'three four']
    >>> list(cut('one two\nthree four', 10))
    ['one two\n', 'three four']
  """
  start = 0
  while len(text) - start > most:
    end = _cut_place(text, start, start + most)
    yield text[start:end]
    start = end
  if start < len(text) or not text:
    yield text[start:]


def _cut_place(text: str, start: int, end: int) -> int:
  """The best place to cut a part that begins at `start`, at most `end`."""
  middle = (start + end) // 2
  # Only the second half: a part of a few characters would be dropped.
  if (line_end := text.rfind('\n', middle, end)) >= 0:
    return line_end + 1
  for place in range(end, middle, -1):
    if text[place - 1].isspace():
      return place
  return end


def splitting_fraction(
  documents: Iterable[Document], fraction: float
) -> float | None:
  """The short fraction nearest to `fraction` that leaves no split empty.

  Args:
    documents: of the training mix.
    fraction: `held_out_fraction`, between 0 and 1.

  Returns:
    A fraction with as few digits as possible, at least two; None if there are
    fewer than two documents.
  """
  keys = [document.key for document in documents]
  if len(keys) < 2:
    return None
  first, last = min(keys), max(keys)  # As numbers: all have as many digits.
  for digits in range(2, 18):  # A float64 has no more than 17.
    unit = 10**digits
    low, high = (int(key[:16], 16) * unit // 2**64 for key in (first, last))
    candidates = [x / unit for x in (low + 1, high) if 0 < x < unit]
    splitting = [
      x for x in candidates if is_held_out(first, x) > is_held_out(last, x)
    ]
    if splitting:
      return min(splitting, key=lambda x: abs(x - fraction))
  return None


def collect(
  sources: Sequence[Source],
  further: Sequence[Source] = (),
  *,
  cap_bytes: float,
  held_out_fraction: float,
  min_characters: int = MIN_CHARACTERS,
  max_characters: int = MAX_CHARACTERS,
) -> Collection:
  """Reads sources, drops duplicates and splits the documents.

  A repeated text stays once, under the first source that has it, so no held-out
  document is also a training document. A source is read until its documents
  reach the cap, so it exceeds the cap by less than one document.

  Args:
    sources: the training mix.
    further: domains outside the mix; all their documents are held out.
    cap_bytes: of UTF-8 text, per source; `float('inf')` takes everything.
    held_out_fraction: share of the mix's documents that is held out.
    min_characters: of a document; shorter ones are dropped and counted.
    max_characters: of a document; longer ones are cut, see `cut`.

  Raises:
    ValueError: two sources have one name, the fraction is not strictly between
      0 and 1, the cap is not positive, `max_characters` is not at least twice
      `min_characters`, or one of the two splits of the mix is left without
      documents.
  """
  _check(sources, further, cap_bytes, held_out_fraction)
  lengths = _checked_lengths(min_characters, max_characters)
  seen: set[str] = set()  # Of all sources: duplicates may be in two of them.
  collection = Collection([], {}, {})
  for source in itertools.chain(sources, further):
    # A hash below 1.0 * 2**64 is any hash: further domains are held out whole.
    fraction = 1.0 if source in further else held_out_fraction
    try:
      documents, record = _take(source, seen, cap_bytes, fraction, lengths)
    except MissingSource as missing:
      collection.skipped[source.name] = str(missing)
      continue
    record['further'] = source in further
    collection.documents.extend(documents)
    collection.domains[source.name] = record
  _check_splits(collection, held_out_fraction, min_characters)
  return collection


def _checked_lengths(min_characters: int, max_characters: int) -> range:
  least = whole_numbers.whole_number('min_characters', min_characters)
  most = whole_numbers.whole_number('max_characters', max_characters)
  if least < 1:
    raise ValueError(
      'min_characters must be at least 1, because an empty text is no '
      f'document; got {least}'
    )
  if most < 2 * least:
    raise ValueError(
      'max_characters must be at least twice min_characters, because what is '
      'cut may be half as long and would be dropped; got '
      f'max_characters={most} and min_characters={least}'
    )
  return range(least, most + 1)


def _take(
  source: Source,
  seen: set[str],
  cap_bytes: float,
  fraction: float,
  lengths: range,
) -> tuple[list[Document], dict[str, Any]]:
  """Reads one source up to the cap; adds its keys to `seen`.

  Returns:
    The documents of the source, and its record.
  """
  documents: list[Document] = []
  counts: collections.Counter[str] = collections.Counter()
  size = 0
  for text in _pieces(source.read(), lengths[-1], counts):
    key = content_key(text)
    if len(text) < lengths[0]:
      counts['short_dropped'] += 1
    elif key in seen:
      counts['duplicates_dropped'] += 1
    else:
      seen.add(key)
      split = 'held_out' if is_held_out(key, fraction) else 'train'
      documents.append(Document(key, source.name, split, text))
      size += len(text.encode())  # Bytes, as the cap is in UTF-8.
      if size >= cap_bytes:
        break
  return documents, {
    'license': source.license,
    'requires': source.requires,
    'files': source.num_files,
    'documents': len(documents),
    'held_out_documents': sum(d.split == 'held_out' for d in documents),
    'bytes': size,
    'capped': size >= cap_bytes,
    **{name: counts[name] for name in DROPPED},
    'sha256': _set_hash(document.key for document in documents),
  }


def _pieces(
  texts: Iterable[str | None], most: int, counts: collections.Counter[str]
) -> Iterator[str]:
  """Yields cleaned texts, cut if too long; counts cuts and nulls."""
  for text in texts:
    if text is None:
      counts['nulls_dropped'] += 1
      continue
    text = clean(text)
    if len(text) <= most:
      yield text
    else:
      counts['oversized_cut'] += 1
      # Cleaned again, because a cut leaves whitespace at its ends.
      yield from map(clean, cut(text, most))


def _set_hash(keys: Iterable[str]) -> str:
  """Hashes a set of document keys, whatever their order."""
  return hashlib.sha256('\n'.join(sorted(keys)).encode()).hexdigest()


def _check(sources, further, cap_bytes, held_out_fraction):
  names = [source.name for source in itertools.chain(sources, further)]
  repeated = sorted({name for name in names if names.count(name) > 1})
  if repeated:
    raise ValueError(
      'expected one name a source, because windows are found by it; got '
      f'{", ".join(repeated)} more than once'
    )
  if not 0 < held_out_fraction < 1:
    raise ValueError(
      'held_out_fraction must lie strictly between 0 and 1, because both '
      f'splits are needed; got {held_out_fraction}'
    )
  if not cap_bytes > 0:
    raise ValueError(
      f'the cap must be positive, because 0 takes no text; got {cap_bytes}'
    )


def _check_splits(
  collection: Collection, held_out_fraction: float, min_characters: int
) -> None:
  """Refuses a training mix with an empty split, and proposes a fraction."""
  mix = [x for x in collection.domains.values() if not x['further']]
  names = {x for x, y in collection.domains.items() if not y['further']}
  documents = [d for d in collection.documents if d.domain in names]
  for split in 'train', 'held_out':
    if any(document.split == split for document in documents):
      continue
    dropped = ', '.join(
      f'{total} {reason}'
      for name, reason in DROPPED.items()
      if (total := sum(record[name] for record in mix))
    )
    skipped = ''.join(
      f'; {name} was skipped: {why}' for name, why in collection.skipped.items()
    )
    raise ValueError(
      f'expected documents in {split!r}, because a corpus needs both splits; '
      f'got {len(documents)} documents of {min_characters} or more '
      f'characters at held_out_fraction={held_out_fraction}'
      f'{f" ({dropped})" if dropped else ""}{skipped}. '
      f'{_splits_remedy(documents, held_out_fraction)}'
    )


def _splits_remedy(documents: Sequence[Document], fraction: float) -> str:
  splitting = splitting_fraction(documents, fraction)
  if splitting is None:
    return (
      'Add text, because a corpus needs two documents at least, or set '
      'min_characters or max_characters (of config.corpus) lower'
    )
  return (
    f'Set held_out_fraction (config.corpus.held_out_fraction) to {splitting}, '
    'which leaves documents in both'
  )
