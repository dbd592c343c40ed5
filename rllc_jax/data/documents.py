"""Documents: where they come from, which are kept, which are held out."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import hashlib
import itertools
import re
from typing import Any, NamedTuple, TypeVar

_Item = TypeVar('_Item')

MIN_CHARACTERS = 40  # A shorter document is a heading or an empty stub.


class MissingSource(Exception):
  """A source's package is not installed, or is not the pinned version."""


class Source(NamedTuple):
  """Text of one domain.

  Attributes:
    name: the domain; letters, digits and `_.-`, as it becomes part of a path.
    license: what its text may be used under.
    requires: the pip requirement that brings it, or None.
    read: `read() -> iterator of documents`, in an order that depends on the
      text alone; may raise `MissingSource`.
  """

  name: str
  license: str
  requires: str | None
  read: Callable[[], Iterator[str]]


class Document(NamedTuple):
  """One text that was kept.

  Attributes:
    key: a 128-bit hash of the text, as hexadecimal digits.
    domain: the name of its source.
    split: 'train' or 'held_out'.
    text: what it says, without outer whitespace.
  """

  key: str
  domain: str
  split: str
  text: str


class Collection(NamedTuple):
  """What was read from a list of sources.

  Attributes:
    documents: those kept, source by source.
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

  JSON can smuggle in half of a surrogate pair, which no encoder takes.

  Examples:
    >>> clean(' caf\u00e9 \ud800 ')
    'café ?'
  """
  return text.strip().encode('utf-8', 'replace').decode('utf-8')


def content_key(text: str) -> str:
  """A 128-bit hash of a text, as hexadecimal digits."""
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def is_held_out(key: str, fraction: float) -> bool:
  """Whether the text with this hash is held out.

  Nothing but the text decides, so its side survives any change to the corpus,
  and what is held out at one fraction is held out at every larger one.

  Args:
    key: from `content_key`.
    fraction: expected share of documents, not of bytes, between 0 and 1.

  Examples:
    >>> is_held_out('f' * 32, 0.5), is_held_out('0' * 32, 0.5)
    (False, True)
  """
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
  for line in text.splitlines(keepends=True):
    lines.append(line)
    length += len(line)
    if length >= size:
      yield ''.join(lines)
      lines, length = [], 0
  if lines:
    yield ''.join(lines)


def collect(
  sources: Sequence[Source],
  further: Sequence[Source] = (),
  *,
  cap_bytes: float,
  held_out_fraction: float,
) -> Collection:
  """Reads sources and decides which documents are kept and where they go.

  A text found twice is kept once, under the source that came first, so that no
  held-out document is also a training document. A source is read until its
  kept documents reach the cap; it exceeds the cap by less than one document.

  Args:
    sources: the training mix.
    further: domains that training never sees: all of theirs is held out.
    cap_bytes: of UTF-8 text, per source; `float('inf')` takes everything.
    held_out_fraction: share of the mix's documents that is held out.

  Raises:
    ValueError: two sources have one name, the fraction is not strictly between
      0 and 1, the cap is not positive, or one of the two splits of the mix is
      left without documents.
  """
  _check(sources, further, cap_bytes, held_out_fraction)
  seen: set[str] = set()
  collection = Collection([], {}, {})
  for source in itertools.chain(sources, further):
    fraction = 1.0 if source in further else held_out_fraction
    try:
      kept, record = _take(source, seen, cap_bytes, fraction)
    except MissingSource as missing:
      collection.skipped[source.name] = str(missing)
      continue
    record['further'] = source in further
    collection.documents.extend(kept)
    collection.domains[source.name] = record
  _check_splits(collection, held_out_fraction)
  return collection


def _take(
  source: Source, seen: set[str], cap_bytes: float, fraction: float
) -> tuple[list[Document], dict[str, Any]]:
  """Reads one source up to the cap; adds what it keeps to `seen`."""
  kept: list[Document] = []
  size = short = duplicates = 0
  for text in map(clean, source.read()):
    key = content_key(text)
    if len(text) < MIN_CHARACTERS:
      short += 1
    elif key in seen:
      duplicates += 1
    else:
      seen.add(key)
      split = 'held_out' if is_held_out(key, fraction) else 'train'
      kept.append(Document(key, source.name, split, text))
      size += len(text.encode())
      if size >= cap_bytes:
        break
  return kept, {
    'license': source.license,
    'requires': source.requires,
    'documents': len(kept),
    'held_out_documents': sum(d.split == 'held_out' for d in kept),
    'bytes': size,
    'capped': size >= cap_bytes,
    'short_dropped': short,
    'duplicates_dropped': duplicates,
    'sha256': _set_hash(document.key for document in kept),
  }


def _set_hash(keys: Iterable[str]) -> str:
  """Hashes a set of documents: their order does not matter."""
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


def _check_splits(collection, held_out_fraction):
  mix = {name for name, r in collection.domains.items() if not r['further']}
  documents = [d for d in collection.documents if d.domain in mix]
  for split in 'train', 'held_out':
    if not any(document.split == split for document in documents):
      skipped = ''.join(
        f'; {name} was skipped: {why}'
        for name, why in collection.skipped.items()
      )
      raise ValueError(
        f'expected documents in {split!r}, because a corpus needs both splits; '
        f'got {len(documents)} documents of {MIN_CHARACTERS} or more '
        f'characters at held_out_fraction={held_out_fraction}{skipped}'
      )
