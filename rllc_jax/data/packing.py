"""Documents packed into rows of one length, and the files that hold them."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rllc_jax import checked_files
from rllc_jax import trees
from rllc_jax import types
from rllc_jax import visible

_REMEDY = (
  'Put back a copy, or remove the directory of the corpus and run '
  'experiments.build_corpus again.'
)


class Corpus(NamedTuple):
  """All tokens of an experiment, and the windows of its data sets.

  Attributes:
    tokens: [N, T], every data set one after the other; uint16 where the
      vocabulary fits. Column 0 is the special token in every row.
    windows: name -> its rows. 'train' and 'held_out' are the training mix,
      'train/DOMAIN' and 'held_out/DOMAIN' parts of it; a further domain has a
      'held_out/DOMAIN' outside 'held_out'. One without a row is left out.
    vocab_size: ids run from 0 to one less.
    eos_id: the special token, which begins a row and ends a document.
  """

  tokens: np.ndarray
  windows: dict[str, types.Window]
  vocab_size: int
  eos_id: int


def _is_count(value: Any) -> bool:
  # Not isinstance: JSON's true is an int to Python.
  return type(value) is int and 0 <= value < 2**31


def _are_counts(value: Any) -> bool:
  is_pair = isinstance(value, list) and len(value) == 2
  return is_pair and all(map(_is_count, value))


def _is_provenance(value: Any) -> bool:
  """True if a provenance has the types that the report reads."""
  if not isinstance(value, dict):
    return False
  parts = [value.get(name, {}) for name in ('settings', 'domains', 'skipped')]
  if not all(isinstance(part, dict) for part in parts):
    return False
  return all(map(_is_domain, parts[1].values()))


def _is_domain(value: Any) -> bool:
  counts = ('documents', 'bytes', 'train_tokens', 'held_out_tokens')
  return isinstance(value, dict) and all(
    type(value.get(name, 0)) is int for name in counts
  )


# Entry of corpus.json -> a check of its type and range.
_ENTRIES: Mapping[str, Callable[[Any], bool]] = {
  'shape': lambda x: _are_counts(x) and x[0] >= 1 and x[1] >= 2,
  'vocab_size': _is_count,
  'eos_id': _is_count,
  'windows': lambda x: (
    isinstance(x, dict) and all(map(_are_counts, x.values()))
  ),
  'tokens_hash': lambda x: isinstance(x, str),
  'files': lambda x: isinstance(x, dict),
  'provenance': _is_provenance,
}


def token_dtype(vocab_size: int) -> type[np.integer]:
  """The smaller of uint16 and int32 that holds all ids."""
  return np.uint16 if vocab_size <= 2**16 else np.int32


def pack(
  documents: Iterable[np.ndarray], context_length: int, eos_id: int
) -> np.ndarray:
  """Joins documents by `eos_id` and cuts them into rows that begin with it.

  Rows do not respect documents: one may hold the end of a document and the
  beginning of the next. There is no padding; what does not fill the last row is
  dropped.

  Args:
    documents: token ids, [any] each.
    context_length: T, tokens a row, the first one included.
    eos_id: the special token.

  Returns:
    Rows [N, T], int32.

  Raises:
    ValueError: `context_length` is below 2, so that a row predicts nothing.

  Examples:
    >>> pack([np.array([1, 2, 3]), np.array([4, 5])], 4, eos_id=9)
    array([[9, 1, 2, 3],
           [9, 9, 4, 5]], dtype=int32)
  """
  if context_length < 2:
    raise ValueError(
      'context_length must be at least 2, because the first token is given '
      f'and the second is predicted; got {context_length}'
    )
  stream = list(_joined(documents, eos_id))
  # The empty array makes no documents zero rows instead of an error.
  flat = np.concatenate([np.zeros(0, np.int32), *stream])
  # Column 0 is the special token, so a row takes one token fewer of the text.
  pieces = len(flat) // (context_length - 1)
  rows = np.full((pieces, context_length), eos_id, np.int32)
  rows[:, 1:] = flat[: rows[:, 1:].size].reshape(rows[:, 1:].shape)
  return rows


def _joined(
  documents: Iterable[np.ndarray], eos_id: int
) -> Iterator[np.ndarray]:
  """Yields documents with the special token between them."""
  end = np.array([eos_id], np.int32)
  for index, document in enumerate(documents):
    if index:
      yield end
    yield np.asarray(document, np.int32)


def arrange(
  train: Mapping[str, np.ndarray],
  held_out: Mapping[str, np.ndarray],
  further: Mapping[str, np.ndarray],
  *,
  vocab_size: int,
  eos_id: int,
) -> Corpus:
  """Concatenates packed domains and records the window of each.

  Args:
    train: domain -> rows [n, T] of the training mix.
    held_out: domain -> rows [n, T] of the same domains.
    further: domain -> rows [n, T] of domains outside the mix.
    vocab_size: ids run from 0 to one less.
    eos_id: the special token.

  Raises:
    ValueError: the mix has no row in one of its splits.
  """
  blocks, windows, stop = [], {}, 0
  groups = ('train', train), ('held_out', held_out), ('held_out', further)
  for split, domains in groups:
    start = stop
    for domain, rows in domains.items():
      if len(rows):
        windows[f'{split}/{domain}'] = types.Window(stop, len(rows))
        blocks.append(rows)
        stop += len(rows)
    if domains is not further:  # 'held_out' has no further domains.
      windows[split] = types.Window(start, stop - start)
      _check_rows(split, domains, stop - start)
  tokens = np.concatenate(blocks).astype(token_dtype(vocab_size))
  return Corpus(tokens, windows, vocab_size, eos_id)


_MOST_ROWS_TWICE = 4096


def with_rows_said_twice(corpus: Corpus, names: Sequence[str]) -> Corpus:
  """Adds data sets whose rows say their first half twice.

  What an induction head can predict is the second half of every row.

  Args:
    corpus: with these windows.
    names: of windows; the data set of NAME is NAME_twice, of at most 4,096 rows
      that are evenly spaced in it.

  Raises:
    ValueError: there is no such window.
  """
  blocks, windows = [corpus.tokens], dict(corpus.windows)
  for name in names:
    if name not in corpus.windows:
      raise ValueError(
        'said_twice must name windows of the corpus, '
        f'{", ".join(corpus.windows)}; got {name!r}'
      )
    rows = said_twice(_rows(corpus.tokens, corpus.windows[name]))
    rows = rows[:: -(-len(rows) // _MOST_ROWS_TWICE)]
    start = sum(map(len, blocks))
    windows[f'{name}_twice'] = types.Window(start, len(rows))
    blocks.append(rows)
  return corpus._replace(tokens=np.concatenate(blocks), windows=windows)


def said_twice(rows: np.ndarray) -> np.ndarray:
  """Rows that say the first half of each twice, after its first token.

  Args:
    rows: [N, T].

  Examples:
    >>> said_twice(np.array([[9, 1, 2, 3, 4], [9, 1, 2, 3, 9]]))
    array([[9, 1, 2, 1, 2],
           [9, 1, 2, 1, 2]])
  """
  half = rows.shape[1] // 2
  twice = [rows[:, :1], rows[:, 1 : 1 + half], rows[:, 1 : 1 + half]]
  return np.concatenate(twice, axis=1)[:, : rows.shape[1]]


def _check_rows(split, domains, count):
  if not count:
    length = max((rows.shape[1] for rows in domains.values()), default=0)
    raise ValueError(
      f'expected at least one row of {length} tokens in {split!r}; its '
      f'documents ({", ".join(domains) or "none"}) are shorter than that '
      'all together (take a shorter context_length, more text, or '
      f'{"a smaller" if split == "train" else "a larger"} held_out_fraction)'
    )


def save_corpus(
  directory: pathlib.Path,
  corpus: Corpus,
  provenance: Mapping[str, Any],
  files: Sequence[str] = (),
) -> None:
  """Writes `tokens.npy`, then `corpus.json`, which marks it complete.

  Args:
    directory: created where needed.
    corpus: as `load_corpus` returns it.
    provenance: where the text came from; values ready for JSON.
    files: names of further files of the corpus that are there already.

  Raises:
    OSError: a file cannot be written.
  """
  with checked_files.replacing(directory / 'tokens.npy') as beside:
    with beside.open('wb') as file:
      np.save(file, corpus.tokens)
  record = {
    'shape': list(corpus.tokens.shape),
    'vocab_size': corpus.vocab_size,
    'eos_id': corpus.eos_id,
    'windows': {
      name: [int(window.start), int(window.length)]
      for name, window in corpus.windows.items()
    },
    'tokens_hash': trees.content_hash(corpus.tokens),
    'files': {
      name: checked_files.file_checksum(directory / name)
      for name in ('tokens.npy', *files)
    },
    'provenance': dict(provenance),
  }
  # Last, because a killed run must not leave a record without its files.
  checked_files.write_json(directory / 'corpus.json', record)


def load_record(directory: pathlib.Path) -> dict[str, Any]:
  """Reads `corpus.json`: windows, sizes, the hash, and the provenance.

  Raises:
    ValueError: the record is absent, or not as `save_corpus` writes it.
  """
  path = directory / 'corpus.json'
  record = checked_files.read_json(path, list(_ENTRIES), _REMEDY)
  if fault := _fault_of_record(record):
    raise ValueError(
      f'{path}: expected the record of a corpus; got {fault}. {_REMEDY}'
    )
  return record


def _fault_of_record(record: Mapping[str, Any]) -> str:
  """Describes an entry that no corpus has; '' if all are valid.

  The checksum does not make this unnecessary, because anybody can write one.
  """
  for name, fits in _ENTRIES.items():
    if not fits(record[name]):
      return f'{name} {visible.short(record[name], 40)}'
  if not record['eos_id'] < record['vocab_size']:
    return f'eos_id {record["eos_id"]} of {record["vocab_size"]} ids'
  rows = record['shape'][0]
  for name, (start, length) in record['windows'].items():
    if not length or start + length > rows:
      return f'a window {visible.short(name, 40)} of none or not all its rows'
  return ''


def load_corpus(directory: pathlib.Path) -> Corpus:
  """Reads a corpus and checks every byte of it against its record.

  Raises:
    ValueError: the corpus is absent, incomplete, or not as it was written.
  """
  record = load_record(directory)
  checked_files.check_files(directory, record['files'], _REMEDY)
  path = directory / 'tokens.npy'
  try:
    windows, tokens = _windows(record), _load_tokens(path, record)
  except Exception as error:  # numpy's errors share no base class.
    raise ValueError(
      f'{path}: expected the tokens of corpus.json; got '
      f'{visible.short(error)}. {_REMEDY}'
    ) from None
  return Corpus(tokens, windows, record['vocab_size'], record['eos_id'])


def _windows(record: Mapping[str, Any]) -> dict[str, types.Window]:
  """The windows of a record.

  Raises:
    ValueError: a split has no window.
  """
  windows = {
    name: types.Window(*place) for name, place in record['windows'].items()
  }
  for split in ('train', 'held_out'):
    if split not in windows:
      raise ValueError(f'no window {split!r}')
  return windows


def _load_tokens(path: pathlib.Path, record: Mapping[str, Any]) -> np.ndarray:
  """Reads the tokens of a record without unpickling anything.

  Raises:
    ValueError: the tokens differ from the record; the text says how.
  """
  # Mapped first: reading allocates the size that the header claims.
  mapped = np.lib.format.open_memmap(path, mode='r')
  size, shape = record['vocab_size'], tuple(record['shape'])
  if mapped.dtype != token_dtype(size) or mapped.shape != shape:
    raise ValueError(f'{mapped.dtype} {list(mapped.shape)}')
  tokens = np.array(mapped)
  if not 0 <= tokens.min() <= tokens.max() < size:
    raise ValueError(f'ids from {tokens.min()} to {tokens.max()}')
  if (tokens[:, 0] != record['eos_id']).any():
    raise ValueError(f'rows that do not begin with {record["eos_id"]}')
  if trees.content_hash(tokens) != record['tokens_hash']:
    raise ValueError('tokens of another hash')
  return tokens


def unigram_entropy(tokens: np.ndarray, window: types.Window) -> float:
  r"""The loss of the best predictor that ignores its context.

  .. math:: H(t_{k+1}) = -\sum_a \hat p(a) \ln \hat p(a)

  over the predicted tokens, columns 1 and later. Frequencies are those of the
  window itself, so a short window gives too low a value.

  Args:
    tokens: [N, T] integers.
    window: the rows to count.

  Returns:
    Nats per predicted token.

  Examples:
    >>> rows = np.array([[9, 0, 1], [9, 1, 0]])
    >>> round(unigram_entropy(rows, types.Window(0, 2)), 4)
    0.6931
  """
  return _entropy(_rows(tokens, window)[:, 1:])


def bigram_entropy(tokens: np.ndarray, window: types.Window) -> float:
  r"""The loss of the best predictor that sees the current token alone.

  .. math:: H(t_{k+1} \mid t_k) = H(t_k, t_{k+1}) - H(t_k)

  over adjacent columns of a row. Counts are sorted, not tabled, so memory goes
  with the tokens of the window and not with the square of the vocabulary.

  Args:
    tokens: [N, T] integers.
    window: the rows to count.

  Returns:
    Nats per predicted token.

  Examples:
    >>> rows = np.array([[9, 0, 1], [9, 1, 0]])  # Only 9 leaves a choice.
    >>> round(bigram_entropy(rows, types.Window(0, 2)), 4)
    0.3466
  """
  rows = _rows(tokens, window)
  size = int(rows.max()) + 1
  # A pair of ids as one number, which must not overflow.
  wide = np.uint32 if size <= 2**16 else np.uint64
  current = rows[:, :-1].astype(wide)
  pairs = current * wide(size) + rows[:, 1:].astype(wide)
  return _entropy(pairs) - _entropy(current)


def _rows(tokens: np.ndarray, window: types.Window) -> np.ndarray:
  return tokens[int(window.start) : int(window.start) + int(window.length)]


def _entropy(symbols: np.ndarray) -> float:
  """The entropy of the empirical distribution, in nats."""
  # np.unique sorts, so memory grows with the tokens, not the vocabulary.
  _, counts = np.unique(symbols, return_counts=True)
  shares = counts / counts.sum()
  return float(-np.sum(shares * np.log(shares)))
