"""Encoding is lossless for every text; the special token is the last id."""

import subprocess
import sys

import numpy as np
import pytest

from rllc_jax.data import tokenizers

TEXTS = [
  'In the beginning God created the heaven and the earth. ' * 3,
  'And the earth was without form, and void; and darkness was upon it. ' * 3,
]


@pytest.fixture(scope='module')
def tokenizer():
  return tokenizers.train(TEXTS, 300)


def encode(tokenizer, text):
  [ids] = tokenizers.encode(tokenizer, [text])
  return ids


def random_text(seed):
  points = np.random.default_rng(seed).integers(0, 0x110000, 500)
  return ''.join(chr(p) for p in points if not 0xD800 <= p < 0xE000)


@pytest.mark.parametrize(
  'text',
  [
    '',
    ' ',
    '  two  spaces \t\r\n\n and\x00 controls\x7f ',
    'naïve cafe\u0301 ﬁ \ufeff \u2028',
    '三国演义 🙂👩‍👩‍👧 עברית',
    'a<|endoftext|>b',
    *TEXTS,
    *map(random_text, range(3)),
  ],
)
def test_decoding_inverts_encoding(tokenizer, text):
  ids = encode(tokenizer, text)
  assert tokenizers.decode(tokenizer, ids) == text
  assert ids.dtype == np.int32
  assert tokenizers.eos_id(tokenizer) not in ids


def test_the_special_token_is_the_last_id(tokenizer):
  assert tokenizer.get_vocab_size() == 300
  assert tokenizers.eos_id(tokenizer) == 299
  assert tokenizers.decode(tokenizer, [299]) == '<|endoftext|>'


def test_a_short_text_gives_a_smaller_vocabulary():
  tokenizer = tokenizers.train(['abc'], 5_000)
  size = tokenizer.get_vocab_size()
  assert 257 <= size < 300
  assert tokenizers.eos_id(tokenizer) == size - 1


def test_the_first_merge_is_the_commonest_pair():
  tokenizer = tokenizers.train(['zqzqzqzqzq ab ab'], 258)
  assert tokenizer.id_to_token(256) == 'zq'
  assert len(encode(tokenizer, 'zqzq')) == 2


def test_training_and_saving_are_reproducible(tokenizer, tmp_path):
  retrained = tokenizers.train(iter(TEXTS), 300)
  assert retrained.to_str() == tokenizer.to_str()
  tokenizers.save(tokenizer, tmp_path / 'tokenizer.json')
  loaded = tokenizers.load(tmp_path / 'tokenizer.json')
  for text in [*TEXTS, 'a<|endoftext|>b']:
    np.testing.assert_array_equal(encode(loaded, text), encode(tokenizer, text))
  assert [path.name for path in tmp_path.iterdir()] == ['tokenizer.json']


def test_texts_of_many_batches_keep_their_order(tokenizer):
  texts = [str(i) for i in range(2_500)]  # More than two batches.
  decoded = [
    tokenizers.decode(tokenizer, ids)
    for ids in tokenizers.encode(tokenizer, iter(texts))
  ]
  assert decoded == texts


def test_a_vocabulary_below_257_is_refused():
  with pytest.raises(ValueError, match='at least 257.*got 256'):
    tokenizers.train(TEXTS, 256)


def test_files_that_are_no_tokenizer_are_refused(tmp_path):
  path = tmp_path / 'tokenizer.json'
  with pytest.raises(FileNotFoundError):
    tokenizers.load(path)
  path.write_text('{"model": 3}')
  with pytest.raises(ValueError, match='expected a saved tokenizer'):
    tokenizers.load(path)
  tokenizer = tokenizers.train(TEXTS, 257)
  path.write_text(tokenizer.to_str().replace('<|endoftext|>', '<|stop|>'))
  with pytest.raises(ValueError, match='expected the token <|endoftext|>'):
    tokenizers.load(path)


def test_a_fork_after_encoding_can_encode_without_warnings():
  program = """
import os
from rllc_jax.data import tokenizers
tokenizer = tokenizers.train(['some text'] * 100, 260)
list(tokenizers.encode(tokenizer, ['some text'] * 3000))
child = os.fork()
if not child:
  list(tokenizers.encode(tokenizer, ['some text'] * 3000))
  os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
  done = subprocess.run(
    [sys.executable, '-W', 'ignore', '-c', program],
    capture_output=True,
    text=True,
    check=True,
    timeout=60,  # With TOKENIZERS_PARALLELISM=true the child would hang.
  )
  assert (done.stdout, done.stderr) == ('', '')
