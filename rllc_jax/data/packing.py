"""Documents packed into rows of one length: the array that stays resident."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rllc_jax import trees
from rllc_jax import types


class Corpus(NamedTuple):
  """All tokens of an experiment, and the data sets among them.

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


def token_dtype(vocab_size: int) -> type[np.integer]:
  """The smaller of two integer types that holds all ids."""
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
  flat = np.concatenate([np.zeros(0, np.int32), *stream])
  pieces = len(flat) // (context_length - 1)
  rows = np.full((pieces, context_length), eos_id, np.int32)
  rows[:, 1:] = flat[: rows[:, 1:].size].reshape(rows[:, 1:].shape)
  return rows


def _joined(
  documents: Iterable[np.ndarray], eos_id: int
) -> Iterator[np.ndarray]:
  """Puts the special token between documents, not after the last."""
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
  """Lays packed domains one after the other and says where each lies.

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
    if domains is not further:
      windows[split] = types.Window(start, stop - start)
      _check_rows(split, domains, stop - start)
  tokens = np.concatenate(blocks).astype(token_dtype(vocab_size))
  return Corpus(tokens, windows, vocab_size, eos_id)


def _check_rows(split, domains, count):
  if not count:
    length = max((rows.shape[1] for rows in domains.values()), default=0)
    raise ValueError(
      f'expected at least one row of {length} tokens in {split!r}; its '
      f'documents ({", ".join(domains) or "none"}) are shorter than that '
      'all together (take a shorter context_length or more text)'
    )


def save_corpus(
  directory: pathlib.Path, corpus: Corpus, provenance: Mapping[str, Any]
) -> None:
  """Writes `tokens.npy`, then `corpus.json`, whose presence means complete.

  Args:
    directory: created where needed.
    corpus: what `load_corpus` gives back.
    provenance: where the text came from; values ready for JSON.
  """
  directory.mkdir(parents=True, exist_ok=True)
  beside = directory / f'tokens.{os.getpid()}.npy'
  np.save(beside, corpus.tokens)
  beside.replace(directory / 'tokens.npy')
  record = {
    'shape': list(corpus.tokens.shape),
    'vocab_size': corpus.vocab_size,
    'eos_id': corpus.eos_id,
    'windows': {
      name: [int(window.start), int(window.length)]
      for name, window in corpus.windows.items()
    },
    'tokens_hash': trees.content_hash(corpus.tokens),
    'provenance': dict(provenance),
  }
  beside = directory / f'corpus.{os.getpid()}.json'
  beside.write_text(json.dumps(record, indent=2), encoding='utf-8')
  beside.replace(directory / 'corpus.json')


def load_record(directory: pathlib.Path) -> dict[str, Any]:
  """Reads `corpus.json`: windows, sizes, the hash, and the provenance.

  Raises:
    ValueError: it is not there, or not what `save_corpus` wrote.
  """
  path = directory / 'corpus.json'
  needed = {'vocab_size', 'eos_id', 'windows', 'tokens_hash', 'provenance'}
  try:
    record = json.loads(path.read_text(encoding='utf-8'))
    missing = needed.difference(record)
  except FileNotFoundError:
    raise ValueError(
      f'{path}: expected the record of a complete corpus; got no such file '
      '(experiments.build_corpus writes it)'
    ) from None
  except (ValueError, TypeError) as error:
    raise ValueError(f'{path}: expected a JSON object; got {error}') from None
  if missing:
    raise ValueError(
      f'{path}: expected the record of a corpus; '
      f'got one without {", ".join(sorted(missing))}'
    )
  return record


def load_corpus(directory: pathlib.Path) -> Corpus:
  """Reads a corpus and checks every byte of it against its record.

  Raises:
    ValueError: the corpus is absent, incomplete, or not as it was written.
  """
  record = load_record(directory)
  path = directory / 'tokens.npy'
  try:
    tokens = np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f'{path}: expected the tokens of a corpus; got {error}'
    ) from None
  found = trees.content_hash(tokens)
  if found != record['tokens_hash']:
    raise ValueError(
      f'{path}: expected the hash {record["tokens_hash"]}, because results '
      f'are tied to these tokens; got {found}'
    )
  windows = {
    name: types.Window(*place) for name, place in record['windows'].items()
  }
  return Corpus(tokens, windows, record['vocab_size'], record['eos_id'])


def unigram_entropy(tokens: np.ndarray, window: types.Window) -> float:
  r"""The loss of the best predictor that ignores its context.

  .. math:: H(t_{k+1}) = -\sum_a \hat p(a) \ln \hat p(a)

  over the predicted tokens, columns 1 and later. Frequencies are those of the
  window itself, so a short window gives too low a value.

  Args:
    tokens: [N, T] integers.
    window: which rows.

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
    window: which rows.

  Returns:
    Nats per predicted token.

  Examples:
    >>> rows = np.array([[9, 0, 1], [9, 1, 0]])  # After 9 either, then sure.
    >>> round(bigram_entropy(rows, types.Window(0, 2)), 4)
    0.3466
  """
  rows = _rows(tokens, window)
  size = int(rows.max()) + 1
  wide = np.uint32 if size <= 2**16 else np.uint64
  current = rows[:, :-1].astype(wide)
  pairs = current * wide(size) + rows[:, 1:].astype(wide)
  return _entropy(pairs) - _entropy(current)


def _rows(tokens: np.ndarray, window: types.Window) -> np.ndarray:
  return tokens[int(window.start) : int(window.start) + int(window.length)]


def _entropy(symbols: np.ndarray) -> float:
  """Of the empirical distribution, in nats."""
  _, counts = np.unique(symbols, return_counts=True)
  shares = counts / counts.sum()
  return float(-np.sum(shares * np.log(shares)))
