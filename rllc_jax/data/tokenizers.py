"""Tokenizers: byte-level BPE, which is lossless, or whole words.

Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units",
ACL 2016, over bytes. The special token is the last id, as in the tokenizer of
Wang et al. (https://arxiv.org/abs/2410.02984). It begins a row and ends a
document.
"""

from collections.abc import Iterable
from collections.abc import Iterator
import itertools
import json
import pathlib
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers

from rllc_jax import checked_files
from rllc_jax import visible

END_OF_TEXT = '<|endoftext|>'
UNKNOWN = '<|unknown|>'
MIN_VOCABULARY = 257  # Every byte, and the special token.

# What parts documents in the tokenizers of most models.
_SPECIAL = (END_OF_TEXT, '<|begin_of_text|>', '<s>', '</s>', '<eos>')
_PARTS = (
  'truncation',
  'padding',
  'normalizer',
  'pre_tokenizer',
  'post_processor',
  'decoder',
  'model',
)
_BATCH = 1_024  # Documents encoded at once, on all cores.


def train(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
  """Trains a byte-level BPE tokenizer, deterministically.

  Args:
    texts: to learn merges from, in order; a few MB of each domain suffice.
    vocab_size: all ids, the special token included. A short text has fewer
      pairs to merge and gives a smaller vocabulary: read
      `tokenizer.get_vocab_size()`.

  Raises:
    ValueError: `vocab_size` cannot hold all bytes and the special token.

  Examples:
    >>> tokenizer = train(['to be or not to be'], 260)
    >>> tokenizer.get_vocab_size(), eos_id(tokenizer)
    (260, 259)
  """
  if vocab_size < MIN_VOCABULARY:
    raise ValueError(
      f'vocab_size must be at least {MIN_VOCABULARY}, because every byte and '
      f'{END_OF_TEXT} need an id; got {vocab_size}'
    )
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocab_size - 1,
    # All 256 bytes, so that every text has tokens.
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  # After training, so that it gets the last id.
  tokenizer.add_special_tokens([END_OF_TEXT])
  return _read_special_as_text(tokenizer)


def train_words(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
  """Trains a tokenizer whose tokens are the words between white space.

  For languages made of symbols. Words beyond the vocabulary, the rarer ones,
  and words of other texts all become one token, <|unknown|>.

  Args:
    texts: to count words in.
    vocab_size: all ids at most, the two special tokens included.

  Raises:
    ValueError: `vocab_size` leaves no room for a word.

  Examples:
    >>> tokenizer = train_words(['to be or not to be'], 100)
    >>> tokenizer.get_vocab_size(), eos_id(tokenizer)
    (6, 5)
    >>> decode(tokenizer, next(encode(tokenizer, ['be or be gone'])))
    'be or be <|unknown|>'
  """
  if vocab_size < 3:
    raise ValueError(
      f'vocab_size must be at least 3, because {UNKNOWN} and {END_OF_TEXT} '
      f'need an id beside the words; got {vocab_size}'
    )
  tokenizer = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  trainer = trainers.WordLevelTrainer(
    vocab_size=vocab_size - 1, special_tokens=[UNKNOWN], show_progress=False
  )
  # A word of this spelling would get the id that ends documents.
  words = (text.replace(END_OF_TEXT, ' ') for text in texts)
  tokenizer.train_from_iterator(words, trainer)
  tokenizer.add_special_tokens([END_OF_TEXT])
  return _read_special_as_text(tokenizer)


def save(tokenizer: tokenizers.Tokenizer, path: pathlib.Path) -> None:
  """Writes a tokenizer in the JSON format of Hugging Face."""
  checked_files.write_bytes(path, tokenizer.to_str().encode('utf-8'))


def load(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Reads a tokenizer of `save`, and no other.

  A foreign tokenizer may hold patterns that take for ever, padding without end,
  or rules that drop text.

  Raises:
    OSError: there is no such file.
    ValueError: it is no tokenizer, or not one that `train` or `train_words`
      could have made.
  """
  content = path.read_bytes()
  try:
    record = json.loads(content.decode('utf-8'))
    frame = _frame_like(record)
    _check_ids(record)
    # The checked record: the library may parse the file's text otherwise.
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(record))
    _check_frame(_frame(tokenizer), frame)
  except Exception as error:  # The library raises Exception itself.
    raise ValueError(
      f'{path}: expected a saved tokenizer; got {visible.short(error)}'
    ) from None
  return _read_special_as_text(tokenizer)


def load_foreign(path: pathlib.Path) -> tokenizers.Tokenizer:
  """Reads the `tokenizer.json` of a model from elsewhere.

  Whoever made it must be trusted: it may hold patterns that take for ever, or
  rules that drop text. Truncation and padding are turned off.

  Raises:
    ValueError: it is no tokenizer.
  """
  try:
    tokenizer = tokenizers.Tokenizer.from_str(path.read_text('utf-8'))
  except Exception as error:  # The library raises Exception itself.
    raise ValueError(
      f'{path}: expected the tokenizer.json of a model; got '
      f'{visible.short(error)}'
    ) from None
  tokenizer.no_truncation()
  tokenizer.no_padding()
  return _read_special_as_text(tokenizer)


def _frame(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
  """All of a tokenizer but its words, equal for tokenizers of a kind."""
  record = json.loads(tokenizer.to_str())
  for token in record['added_tokens']:
    del token['id']
  for words in ('vocab', 'merges'):
    record['model'].pop(words, None)
  return record


def _frame_like(record: Any) -> dict[str, Any]:
  """The frame of the kind of tokenizer that a record states.

  Raises:
    ValueError: it has parts of other kinds; building these could take for ever.
  """
  kinds = lambda x: [x[part] and x[part]['type'] for part in _PARTS]
  for tokenizer in (train([], MIN_VOCABULARY), train_words([], 3)):
    if kinds(record) == kinds(frame := _frame(tokenizer)):
      return frame
  raise ValueError(f'one with parts {kinds(record)}')


def _check_ids(record: dict[str, Any]) -> None:
  """Checks the vocabulary, because saving large ids could take for ever."""
  model = record['model']
  ids = {**model['vocab']}
  ids.update(
    (token['content'], token['id']) for token in record['added_tokens']
  )
  if sorted(ids.values()) != list(range(len(ids))):
    raise ValueError('one whose ids are not 0, 1, 2 and so on')
  is_word = END_OF_TEXT in model['vocab']
  if is_word or ids.get(END_OF_TEXT) != len(ids) - 1:
    raise ValueError(f'one whose last token is not a special {END_OF_TEXT}')
  bytes_of_text = pre_tokenizers.ByteLevel.alphabet()
  needed = bytes_of_text if model['type'] == 'BPE' else [UNKNOWN]
  if not model['vocab'].keys() >= {*needed}:
    raise ValueError('one that has no token for some texts')


def _check_frame(actual: dict[str, Any], expected: dict[str, Any]) -> None:
  """Refuses a tokenizer that differs from its kind in a part."""
  for part in expected:
    if actual[part] != expected[part]:
      raise ValueError(f'one with {part} {actual[part]!r}')


def eos_id(tokenizer: tokenizers.Tokenizer, name: str = '') -> int:
  """The id that ends a document and begins a row.

  Args:
    tokenizer: from here or elsewhere.
    name: of the special token; by default the first of the usual ones that
      there is.

  Raises:
    ValueError: there is none.
  """
  names = [name] if name else _SPECIAL
  ids = [tokenizer.token_to_id(x) for x in names]
  present = [x for x in ids if x is not None]
  if not present:
    raise ValueError(
      'A tokenizer must have a special token that parts documents, '
      f'corpus.special_token; got one without {", ".join(names)}.'
    )
  return present[0]


def ordinary_ids(tokenizer: tokenizers.Tokenizer) -> np.ndarray:
  """The ids of all tokens but special ones, ascending, [n].

  Examples:
    >>> ordinary_ids(train_words(['a b'], 5)).tolist()
    [1, 2]
  """
  added = tokenizer.get_added_tokens_decoder()
  special = [i for i, token in added.items() if token.special]
  return np.setdiff1d(sorted(tokenizer.get_vocab().values()), special)


def encode(
  tokenizer: tokenizers.Tokenizer, texts: Iterable[str]
) -> Iterator[np.ndarray]:
  """Yields the ids of each text, int32 [its tokens].

  No special token is added, and `<|endoftext|>` in a text is encoded letter by
  letter.
  """
  texts = iter(texts)  # islice would begin a list anew at every batch.
  while batch := list(itertools.islice(texts, _BATCH)):
    for encoding in tokenizer.encode_batch_fast(
      batch, add_special_tokens=False
    ):
      yield np.array(encoding.ids, np.int32)


def decode(tokenizer: tokenizers.Tokenizer, ids: Iterable[int]) -> str:
  """Decodes ids to text, special tokens spelled out.

  A character that the ids cut in two becomes U+FFFD.
  """
  return tokenizer.decode(list(map(int, ids)), skip_special_tokens=False)


def _read_special_as_text(tokenizer):
  """Makes a special token in a text plain letters, not a document boundary."""
  # Set after training and loading alike, because `to_str` does not save it.
  tokenizer.encode_special_tokens = True
  return tokenizer
