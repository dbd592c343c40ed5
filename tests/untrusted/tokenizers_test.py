"""Untrusted tokenizers."""

import json

import pytest

from rllc_jax.data import tokenizers
from tests.untrusted import strangers


def changed(tokenizer, change):
  record = json.loads(tokenizer.to_str())
  change(record)
  return json.dumps(record)


PATTERN = {
  'type': 'Split',
  'pattern': {'Regex': '(a*)*b'},
  'behavior': 'Isolated',
  'invert': False,
}
PADDING = {
  'strategy': {'Fixed': 10**12},
  'direction': 'Right',
  'pad_to_multiple_of': None,
  'pad_id': 0,
  'pad_type_id': 0,
  'pad_token': 'a',
}
TRUNCATION = {
  'direction': 'Right',
  'max_length': 1,
  'strategy': 'LongestFirst',
  'stride': 0,
}


@pytest.mark.parametrize(
  'change',
  [
    strangers.put(
      'normalizer', {'type': 'Precompiled', 'precompiled_charsmap': 'AAAA'}
    ),
    strangers.put('normalizer', {'type': 'Lowercase'}),
    strangers.put('pre_tokenizer', PATTERN),
    strangers.put('pre_tokenizer', 'use_regex', False),
    strangers.put('pre_tokenizer', None),
    strangers.put('padding', PADDING),
    strangers.put('truncation', TRUNCATION),
    strangers.put('decoder', None),
    strangers.put('model', 'dropout', 0.5),
    strangers.put('model', 'unk_token', 'a'),
    strangers.put('model', 'vocab', 'a', 2**31),
    strangers.put('model', 'vocab', 'zz', 2**31),
    strangers.put('model', 'vocab', 'zz', -1),
    strangers.put('model', 'merges', [['a', 'no such']]),
    strangers.put('added_tokens', 0, 'id', 2**31),
    strangers.put('added_tokens', 0, 'content', 'the'),
    strangers.put('added_tokens', 0, 'special', False),
    strangers.put('added_tokens', []),
    lambda record: record['model']['vocab'].pop('a'),
    lambda record: record.pop('pre_tokenizer'),
  ],
)
def test_changed_tokenizers_are_refused(tmp_path, change, capfd):
  path = tmp_path / 'tokenizer.json'
  path.write_text(changed(tokenizers.train(['to be'], 260), change))
  assert strangers.is_refused(
    lambda: tokenizers.load(path), path, 'expected a saved tokenizer'
  )
  assert 'panicked' not in capfd.readouterr().err


def test_a_repeated_key_hides_no_setting(tmp_path):
  path = tmp_path / 'tokenizer.json'
  text = tokenizers.train([], 257).to_str()
  hidden = '{"normalizer": {"type": "Lowercase"},'
  path.write_text(text.replace('{', hidden, 1))
  [ids] = tokenizers.encode(tokenizers.load(path), ['ABC'])
  assert tokenizers.decode(tokenizers.load(path), ids) == 'ABC'


@pytest.mark.parametrize('content', [b'\xff', b'[' * 100_000, b'3', b''])
def test_files_that_are_no_tokenizers_are_refused(tmp_path, content):
  path = tmp_path / 'tokenizer.json'
  path.write_bytes(content)
  assert strangers.is_refused(
    lambda: tokenizers.load(path), path, 'expected a saved tokenizer'
  )


@pytest.mark.parametrize('train', [tokenizers.train, tokenizers.train_words])
def test_no_text_forges_the_end_token(train, tmp_path):
  text = 'a <|endoftext|> b <|endoftext|>'
  tokenizer = train([text] * 9, 400)
  path = tmp_path / 'tokenizer.json'
  tokenizers.save(tokenizer, path)
  for saved in (tokenizer, tokenizers.load(path)):
    [ids] = tokenizers.encode(saved, [text])
    assert tokenizers.eos_id(saved) not in ids


def test_an_end_token_that_is_a_word_is_refused(tmp_path):
  path = tmp_path / 'tokenizer.json'
  tokenizer = tokenizers.train_words(['a b'], 9)
  word = strangers.put('model', 'vocab', '<|endoftext|>', 3)
  path.write_text(changed(tokenizer, word))
  assert strangers.is_refused(
    lambda: tokenizers.load(path), path, 'not a special'
  )
