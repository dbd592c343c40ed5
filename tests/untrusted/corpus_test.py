"""An untrusted corpus: its record and its tokens."""

import json
import pickle
import sys

import pytest

from experiments.checks import fuzz_parsers
from rllc_jax.data import packing
from tests.untrusted import strangers


@pytest.fixture
def corpus(tmp_path):
  """A function that writes a changed corpus with right checksums."""
  path = tmp_path / 'run' / 'corpus'
  path.mkdir(parents=True)
  (tmp_path / 'outside').write_text('secret')

  def written(change=lambda record: None, tokens=None):
    contents = dict(fuzz_parsers.corpus_examples()[0])
    record = json.loads(contents['corpus.json'])
    change(record)
    contents['corpus.json'] = json.dumps(record).encode()
    contents['tokens.npy'] = (
      contents['tokens.npy'] if tokens is None else tokens
    )
    for name, content in fuzz_parsers.seal_corpus(contents).items():
      (path / name).write_bytes(content)
    return path

  return written


def test_the_unchanged_corpus_is_read(corpus):
  assert packing.load_corpus(corpus()).tokens.shape == (10, 6)


@pytest.mark.parametrize(
  'name',
  ['../../outside', 'a/../../../outside', 'link', '/etc/hostname', 'a\0', '\n'],
)
def test_no_name_in_a_record_leads_outside(corpus, tmp_path, name):
  path = corpus(strangers.put('files', name, '00000000'))
  (path / 'link').symlink_to(tmp_path / 'outside')
  read = lambda: packing.load_corpus(path)
  assert strangers.is_refused(read, path, 'expected names of files in it')


class Harmful:
  """Runs code when it is unpickled."""

  def __reduce__(self):
    return sys.exit, ('was unpickled',)


def head(shape, kind='<u2'):
  """The header of an array, without its numbers."""
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
def test_files_that_are_no_tokens_are_refused(corpus, tokens):
  path = corpus(tokens=tokens)
  read = lambda: packing.load_corpus(path)
  assert strangers.is_refused(read, path / 'tokens.npy', 'expected')


@pytest.mark.parametrize(
  ('change', 'words'),
  [
    (strangers.put('shape', [11, 6]), r'got uint16 \[10, 6\]'),
    (strangers.put('shape', [0, 6]), r'got shape \[0, 6\]'),
    (strangers.put('shape', 'x\n'), r'got shape x'),
    (strangers.put('vocab_size', 30.5), 'got vocab_size 30.5'),
    (strangers.put('vocab_size', 10**9), r'got uint16 \[10, 6\]'),
    (strangers.put('vocab_size', True), 'got vocab_size True'),
    (strangers.put('eos_id', 31), 'got eos_id 31 of 31 ids'),
    (strangers.put('eos_id', 3), 'do not begin with 3'),
    (strangers.put('eos_id', -1), 'got eos_id -1'),
    (strangers.put('windows', {}), "no window 'train'"),
    (strangers.put('windows', []), 'got windows'),
    (strangers.put('windows', 'train', [9, 5]), 'a window train'),
    (strangers.put('windows', 'train', [-1, 5]), 'got windows'),
    (strangers.put('windows', 'train', [0, 0]), 'a window train'),
    (strangers.put('windows', 'train', [0]), 'got windows'),
    (strangers.put('windows', 'x\n', [0, 99]), r'a window x'),
    (strangers.put('tokens_hash', 'abc'), 'tokens of another hash'),
    (strangers.put('tokens_hash', None), 'got tokens_hash None'),
    (strangers.put('files', None), 'got files None'),
    (strangers.put('files', 'x', ['\n'] * 999), 'expected the CRC-32'),
    (strangers.put('provenance', []), 'got provenance'),
    (strangers.put('provenance', 'domains', {'a': 3}), 'got provenance'),
    (
      strangers.put('provenance', 'domains', 'a', 'documents', 'x'),
      'got provenance',
    ),
    (strangers.put('provenance', 'settings', []), 'got provenance'),
  ],
)
def test_impossible_records_are_refused(corpus, change, words):
  path = corpus(change)
  assert strangers.is_refused(lambda: packing.load_corpus(path), path, words)


def test_ids_beyond_the_vocabulary_are_refused(corpus):
  """Looking them up would give the last row of an embedding, and no error."""
  path = corpus()
  change = strangers.put('vocab_size', 31)
  tokens = (path / 'tokens.npy').read_bytes()[:-2] + b'\xff\x00'
  read = lambda: packing.load_corpus(corpus(change, tokens))
  assert strangers.is_refused(read, path, 'ids from 0 to 255')
