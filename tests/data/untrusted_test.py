"""Files that others wrote: no harm is done, and every error names its file."""

import json
import pickle
import shutil
import sys

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from experiments import fuzz_parsers
from rllc_jax.data import corpora
from rllc_jax.data import documents
from rllc_jax.data import files
from rllc_jax.data import packing
from rllc_jax.data import tokenizers

LONG = 'a' * 1_000_000
NOISE = [np.random.default_rng(0).bytes(40).hex() for _ in range(1000)]


def told(read, path, words):
  """Whether `read` raises a good error: one line, seen, not long, of a file."""
  with pytest.raises((ValueError, OSError), match=words) as error:
    read()
  message = str(error.value)
  assert str(path) in message
  assert message.isprintable() and len(message) < 1000
  return True


def texts(path):
  return list(files.source(str(path)).read())


# Lines and plain text.


@pytest.mark.parametrize(
  'line',
  [
    '{"id": %s, "text": "a"}' % ('9' * 5000),
    '{"\\n\\u001b[2J\\u202e": 1}',
    json.dumps({str(i): i for i in range(9_000)}),
    '{"text": "\\n\\u001b"' + 'x' * 9_000,
    '{"text": {"\\n": 1}}',
    '{"a": ' * 100_000,
  ],
)
def test_bad_lines(tmp_path, line):
  path = tmp_path / 'a.jsonl'
  path.write_text(line)
  assert told(lambda: texts(path), path, ':1: expected')


def test_a_mark_within_a_plain_text_is_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_text('\ufeffone\n\ufefftwo', encoding='utf-8')
  assert texts(path) == ['one\n\ufefftwo']


# Parquet.


def write(path, texts, **options):
  table = pa.table({'text': texts, 'noise': NOISE[: len(texts)]})
  parquet.write_table(table, path, **options)
  return path


def allocated_by(path):
  """Bytes of Arrow's at the first text, and how many texts there are."""
  before, held = pa.total_allocated_bytes(), []
  for text in files.source(str(path)).read():
    assert text.startswith(LONG[:99])
    held.append(pa.total_allocated_bytes() - before)
  return held[0], len(held)


def test_a_text_that_many_rows_share_is_in_memory_once(tmp_path):
  """As one string a row these are a gigabyte."""
  shared = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), [LONG])
  path = write(tmp_path / 'a.parquet', shared, store_schema=False)
  held = []
  with pytest.raises(ValueError, match='at most 1000 characters a byte'):
    for _ in files.source(str(path)).read():
      held.append(pa.total_allocated_bytes())
  assert 1 < len(held) < 1000 and max(held) - min(held) < 1e7
  assert held[0] < 1e8


def test_texts_that_share_their_beginning_come_one_by_one(tmp_path):
  path = write(
    tmp_path / 'a.parquet',
    [f'{LONG}{i}' for i in range(100)],
    compression='none',
    use_dictionary=False,
    column_encoding={'text': 'DELTA_BYTE_ARRAY'},
  )
  held, count = allocated_by(path)
  assert held < 3e7 and count == 100  # All of them are 1e8 bytes.


@pytest.mark.parametrize('texts_', [[LONG * 100], [''] * 100_000])
def test_what_unfolds_beyond_measure(tmp_path, texts_):
  path = tmp_path / 'a.parquet'
  table = pa.table({'text': texts_})
  parquet.write_table(table, path, compression='zstd', use_dictionary=False)
  assert told(lambda: texts(path), path, 'at most 1000 characters a byte')


def test_a_dictionary_that_overflows_changes_no_text(tmp_path):
  """Writers give a dictionary up when it grows to a megabyte."""
  expected = [f'{i} {NOISE[i % 1000]}' * 5 for i in range(5_000)]
  parquet.write_table(pa.table({'text': expected}), tmp_path / 'a.parquet')
  assert texts(tmp_path / 'a.parquet') == expected


def test_a_page_that_is_not_as_it_was_written(tmp_path):
  path = write(
    tmp_path / 'a.parquet',
    ['some text that is found'],
    write_page_checksum=True,
    compression='none',
    use_dictionary=False,
  )
  content = path.read_bytes()
  path.write_bytes(content.replace(b'some text that', b'some text what'))
  assert path.read_bytes() != content
  assert told(lambda: texts(path), path, 'expected a Parquet file.*CRC')


def test_a_text_that_is_not_utf_8(tmp_path):
  buffers = pa.array([b'\xff\xfe'], pa.binary()).buffers()
  column = pa.Array.from_buffers(pa.string(), 1, buffers)
  path = tmp_path / 'a.parquet'
  parquet.write_table(pa.table({'text': column}), path)
  assert told(lambda: texts(path), path, "'utf-8' codec")


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    (['text', 'text'], 'the columns text, text'),
    (['a\n\x1b[2J', 'b'], r'the columns a \\x1b\[2J, b'),
    (['b' * 9_000, 'a'], 'the columns b'),
  ],
)
def test_bad_columns(tmp_path, names, words):
  path = tmp_path / 'a.parquet'
  parquet.write_table(pa.table([['x']] * 2, names=names), path)
  assert told(lambda: texts(path), path, words)


def test_a_damaged_end_of_a_table(tmp_path):
  path = write(tmp_path / 'a.parquet', ['a'])
  content = bytearray(path.read_bytes())
  content[-60:-8] = bytes(52)
  path.write_bytes(content)
  assert told(lambda: texts(path), path, 'expected a Parquet file')


def test_one_bit_of_what_a_table_says_of_itself(tmp_path):
  """Arrow's summary of a column ends the process where some of them differ."""
  path = write(tmp_path / 'a.parquet', ['a', 'b'])
  content = path.read_bytes()
  size = int.from_bytes(content[-8:-4], 'little')
  for place in range(len(content) - 8 - size, len(content)):
    damaged = bytearray(content)
    damaged[place] ^= 0x20
    path.write_bytes(damaged)
    try:
      texts(path)
    except ValueError as error:
      assert str(path) in str(error)


# Tokenizers.


def changed(tokenizer, change):
  record = json.loads(tokenizer.to_str())
  change(record)
  return json.dumps(record)


def put(*keys_and_value):
  *keys, last, value = keys_and_value

  def change(record):
    for key in keys:
      record = record[key]
    record[last] = value

  return change


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
    put('normalizer', {'type': 'Precompiled', 'precompiled_charsmap': 'AAAA'}),
    put('normalizer', {'type': 'Lowercase'}),
    put('pre_tokenizer', PATTERN),
    put('pre_tokenizer', 'use_regex', False),
    put('pre_tokenizer', None),
    put('padding', PADDING),
    put('truncation', TRUNCATION),
    put('decoder', None),
    put('model', 'dropout', 0.5),
    put('model', 'unk_token', 'a'),
    put('model', 'vocab', 'a', 2**31),
    put('model', 'vocab', 'zz', 2**31),
    put('model', 'vocab', 'zz', -1),
    put('model', 'merges', [['a', 'no such']]),
    put('added_tokens', 0, 'id', 2**31),
    put('added_tokens', 0, 'content', 'the'),
    put('added_tokens', 0, 'special', False),
    put('added_tokens', []),
    lambda record: record['model']['vocab'].pop('a'),
    lambda record: record.pop('pre_tokenizer'),
  ],
)
def test_a_tokenizer_that_nobody_trained_here(tmp_path, change, capfd):
  path = tmp_path / 'tokenizer.json'
  path.write_text(changed(tokenizers.train(['to be'], 260), change))
  assert told(lambda: tokenizers.load(path), path, 'expected a saved tokenizer')
  assert 'panicked' not in capfd.readouterr().err


def test_of_a_part_that_is_there_twice_neither_is_hidden(tmp_path):
  path = tmp_path / 'tokenizer.json'
  text = tokenizers.train([], 257).to_str()
  hidden = '{"normalizer": {"type": "Lowercase"},'
  path.write_text(text.replace('{', hidden, 1))
  [ids] = tokenizers.encode(tokenizers.load(path), ['ABC'])
  assert tokenizers.decode(tokenizers.load(path), ids) == 'ABC'


@pytest.mark.parametrize('content', [b'\xff', b'[' * 100_000, b'3', b''])
def test_what_is_no_tokenizer(tmp_path, content):
  path = tmp_path / 'tokenizer.json'
  path.write_bytes(content)
  assert told(lambda: tokenizers.load(path), path, 'expected a saved tokenizer')


@pytest.mark.parametrize('train', [tokenizers.train, tokenizers.train_words])
def test_no_text_forges_the_end_of_one(train, tmp_path):
  text = 'a <|endoftext|> b <|endoftext|>'
  tokenizer = train([text] * 9, 400)
  path = tmp_path / 'tokenizer.json'
  tokenizers.save(tokenizer, path)
  for saved in (tokenizer, tokenizers.load(path)):
    [ids] = tokenizers.encode(saved, [text])
    assert tokenizers.eos_id(saved) not in ids


def test_a_tokenizer_that_takes_a_word_for_the_end(tmp_path):
  path = tmp_path / 'tokenizer.json'
  tokenizer = tokenizers.train_words(['a b'], 9)
  word = put('model', 'vocab', '<|endoftext|>', 3)
  path.write_text(changed(tokenizer, word))
  assert told(lambda: tokenizers.load(path), path, 'not a special')


# The record of a corpus and its tokens.


@pytest.fixture
def corpus(tmp_path):
  """A function that writes a changed corpus with checksums that are right."""
  path = tmp_path / 'run' / 'corpus'
  path.mkdir(parents=True)
  (tmp_path / 'outside').write_text('secret')

  def written(change=lambda record: None, tokens=None):
    given = dict(fuzz_parsers.corpus_examples()[0])
    record = json.loads(given['corpus.json'])
    change(record)
    given['corpus.json'] = json.dumps(record).encode()
    given['tokens.npy'] = given['tokens.npy'] if tokens is None else tokens
    for name, content in fuzz_parsers.seal_corpus(given).items():
      (path / name).write_bytes(content)
    return path

  return written


def test_the_corpus_itself_is_read(corpus):
  assert packing.load_corpus(corpus()).tokens.shape == (10, 6)


@pytest.mark.parametrize(
  'name',
  ['../../outside', 'a/../../../outside', 'link', '/etc/hostname', 'a\0', '\n'],
)
def test_no_name_in_a_record_leads_outside(corpus, tmp_path, name):
  path = corpus(put('files', name, '00000000'))
  (path / 'link').symlink_to(tmp_path / 'outside')
  read = lambda: packing.load_corpus(path)
  assert told(read, path, 'expected names of files in it')


class Harmful:
  """Calls what it likes when it is unpickled."""

  def __reduce__(self):
    return sys.exit, ('was unpickled',)


def head(shape, kind='<u2'):
  """An array without its numbers."""
  words = {'descr': kind, 'fortran_order': False, 'shape': shape}
  return b'\x93NUMPY\x01\x00\x76\x00' + f'{words!r:<117}\n'.encode()


@pytest.mark.parametrize(
  'tokens',
  [
    pickle.dumps(Harmful()),
    head((1,), '|O') + pickle.dumps(Harmful()),
    head((10**12, 6)),
    head((10**12, 6), '|V0'),
    head((10, 6), '|V0'),
    head((-1, 6)),
    head((10, 6)),
    b'\x93NUMPY\x01\x00\x76\x00' + b'(' * 118,
    b'\x93NUMPY\x01\x00\xff\xff' + b'-' * 65_535,
    b'PK\x03\x04 no archive',
    b'',
  ],
)
@pytest.mark.filterwarnings('ignore:Reading `.npy`')  # As of Python 2.
def test_tokens_that_are_none(corpus, tokens):
  path = corpus(tokens=tokens)
  read = lambda: packing.load_corpus(path)
  assert told(read, path / 'tokens.npy', 'expected')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (put('shape', [11, 6]), r'got uint16 \[10, 6\]'),
    (put('shape', [0, 6]), r'got shape \[0, 6\]'),
    (put('shape', 'x\n'), r'got shape x'),
    (put('vocab_size', 30.5), 'got vocab_size 30.5'),
    (put('vocab_size', 10**9), r'got uint16 \[10, 6\]'),
    (put('vocab_size', True), 'got vocab_size True'),
    (put('eos_id', 31), 'got eos_id 31 of 31 ids'),
    (put('eos_id', 3), 'do not begin with 3'),
    (put('eos_id', -1), 'got eos_id -1'),
    (put('windows', {}), "no window 'train'"),
    (put('windows', []), 'got windows'),
    (put('windows', 'train', [9, 5]), 'a window train'),
    (put('windows', 'train', [-1, 5]), 'got windows'),
    (put('windows', 'train', [0, 0]), 'a window train'),
    (put('windows', 'train', [0]), 'got windows'),
    (put('windows', 'x\n', [0, 99]), r'a window x'),
    (put('tokens_hash', 'abc'), 'tokens of another hash'),
    (put('tokens_hash', None), 'got tokens_hash None'),
    (put('files', None), 'got files None'),
    (put('files', 'x', ['\n'] * 999), 'expected the CRC-32'),
    (put('provenance', []), 'got provenance'),
    (put('provenance', 'domains', {'a': 3}), 'got provenance'),
    (put('provenance', 'domains', 'a', 'documents', 'x'), 'got provenance'),
    (put('provenance', 'settings', []), 'got provenance'),
  ],
)
def test_a_record_that_no_corpus_has(corpus, change, words):
  path = corpus(change)
  assert told(lambda: packing.load_corpus(path), path, words)


def test_ids_beyond_the_vocabulary(corpus):
  """Looking them up would give the last row of an embedding, and no error."""
  path = corpus()
  change = put('vocab_size', 31)
  tokens = (path / 'tokens.npy').read_bytes()[:-2] + b'\xff\x00'
  read = lambda: packing.load_corpus(corpus(change, tokens))
  assert told(read, path, 'ids from 0 to 255')


# A data set of TFDS.


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  kept = [
    documents.Document(f'{i:032x}', 'a', ('train', 'held_out')[i % 2], f'{i}')
    for i in range(8)
  ]
  return corpora.prepare(tmp_path_factory.mktemp('c'), kept, {})


@pytest.fixture
def data_set(prepared, tmp_path):
  return shutil.copytree(prepared, tmp_path / 'corpus' / '1.0.0')


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def read_data_set(directory):
  return list(corpora.tfds_source(str(directory), 'text', 'train').read())


@pytest.mark.parametrize('key', ['pythonClassName', 'python_class_name'])
def test_a_data_set_imports_nothing(data_set, tmp_path, monkeypatch, key):
  (tmp_path / 'harmful.py').write_text('raise SystemExit("was imported")')
  monkeypatch.syspath_prepend(tmp_path)

  def change(content):
    feature = content['featuresDict']['features']['domain']
    del feature['pythonClassName']
    feature[key] = 'harmful.Feature'

  edit(data_set / 'features.json', change)
  read = lambda: read_data_set(data_set)
  assert told(read, data_set, 'a feature of another package')


def test_a_data_set_of_an_old_form_imports_nothing(data_set):
  content = {'type': 'harmful.Feature', 'content': {}}
  (data_set / 'features.json').write_text(json.dumps(content))
  read = lambda: read_data_set(data_set)
  assert told(read, data_set, 'a feature of another package')


@pytest.mark.parametrize(
  'change',
  [
    put('splits', 0, 'filepathTemplate', '../elsewhere/{SHARD_X_OF_Y}'),
    put('splits', 0, 'filepathTemplate', '/elsewhere/{SHARD_X_OF_Y}'),
    put('name', '../../elsewhere'),
  ],
)
def test_a_data_set_opens_no_file_elsewhere(data_set, change):
  edit(data_set / 'dataset_info.json', change)
  read = lambda: read_data_set(data_set)
  assert told(read, data_set, 'a file elsewhere')


def test_a_data_set_with_a_name_that_is_no_domain(data_set):
  edit(data_set / 'dataset_info.json', put('name', 'a b'))
  for shard in data_set.glob('corpus-*'):
    shard.rename(data_set / shard.name.replace('corpus', 'a b'))
  read = lambda: read_data_set(data_set)
  assert told(read, data_set, 'expected a domain name')
