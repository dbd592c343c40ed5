"""Untrusted Parquet tables."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import files
from tests.untrusted import strangers

LONG = 'a' * 1_000_000
NOISE = [np.random.default_rng(0).bytes(40).hex() for _ in range(1000)]


def write(path, texts, **options):
  table = pa.table({'text': texts, 'noise': NOISE[: len(texts)]})
  parquet.write_table(table, path, **options)
  return path


def allocated_by(path):
  """Arrow's bytes at the first text, and the number of texts."""
  before, allocated = pa.total_allocated_bytes(), []
  for text in files.source(str(path)).read():
    assert text.startswith(LONG[:99])
    allocated.append(pa.total_allocated_bytes() - before)
  return allocated[0], len(allocated)


def test_a_text_that_many_rows_share_is_in_memory_once(tmp_path):
  """As one string per row these would take a gigabyte."""
  shared = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), [LONG])
  path = write(tmp_path / 'a.parquet', shared, store_schema=False)
  allocated = []
  with pytest.raises(ValueError, match='at most 1000 characters a byte'):
    for _ in files.source(str(path)).read():
      allocated.append(pa.total_allocated_bytes())
  assert 1 < len(allocated) < 1000 and max(allocated) - min(allocated) < 1e7
  assert allocated[0] < 1e8


def test_texts_that_share_their_beginning_come_one_by_one(tmp_path):
  path = write(
    tmp_path / 'a.parquet',
    [f'{LONG}{i}' for i in range(100)],
    compression='none',
    use_dictionary=False,
    column_encoding={'text': 'DELTA_BYTE_ARRAY'},
  )
  allocated, count = allocated_by(path)
  assert allocated < 3e7 and count == 100  # All of them are 1e8 bytes.


@pytest.mark.parametrize('texts_', [[LONG * 100], [''] * 100_000])
def test_texts_that_expand_over_a_thousandfold_are_refused(tmp_path, texts_):
  path = tmp_path / 'a.parquet'
  table = pa.table({'text': texts_})
  parquet.write_table(table, path, compression='zstd', use_dictionary=False)
  assert strangers.is_refused(
    lambda: strangers.texts(path), path, 'at most 1000 characters a byte'
  )


def test_a_dictionary_that_overflows_changes_no_text(tmp_path):
  """Writers stop using a dictionary when it reaches a megabyte."""
  expected = [f'{i} {NOISE[i % 1000]}' * 5 for i in range(5_000)]
  parquet.write_table(pa.table({'text': expected}), tmp_path / 'a.parquet')
  assert strangers.texts(tmp_path / 'a.parquet') == expected


def test_a_damaged_page_is_refused(tmp_path):
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
  assert strangers.is_refused(
    lambda: strangers.texts(path), path, 'expected a Parquet file.*CRC'
  )


def test_a_text_that_is_not_utf_8_is_refused(tmp_path):
  buffers = pa.array([b'\xff\xfe'], pa.binary()).buffers()
  column = pa.Array.from_buffers(pa.string(), 1, buffers)
  path = tmp_path / 'a.parquet'
  parquet.write_table(pa.table({'text': column}), path)
  assert strangers.is_refused(
    lambda: strangers.texts(path), path, "'utf-8' codec"
  )


@pytest.mark.parametrize(
  ('names', 'words'),
  [
    (['text', 'text'], 'the columns text, text'),
    (['a\n\x1b[2J', 'b'], r'the columns a \\x1b\[2J, b'),
    (['b' * 9_000, 'a'], 'the columns b'),
  ],
)
def test_ambiguous_columns_are_refused(tmp_path, names, words):
  path = tmp_path / 'a.parquet'
  parquet.write_table(pa.table([['x']] * 2, names=names), path)
  assert strangers.is_refused(lambda: strangers.texts(path), path, words)


def test_a_damaged_footer_is_refused(tmp_path):
  path = write(tmp_path / 'a.parquet', ['a'])
  content = bytearray(path.read_bytes())
  content[-60:-8] = bytes(52)
  path.write_bytes(content)
  assert strangers.is_refused(
    lambda: strangers.texts(path), path, 'expected a Parquet file'
  )


def test_flipped_bits_in_the_footer_give_results_or_errors(tmp_path):
  """Some flips make Arrow's summary of a column end the process."""
  path = write(tmp_path / 'a.parquet', ['a', 'b'])
  content = path.read_bytes()
  size = int.from_bytes(content[-8:-4], 'little')
  for place in range(len(content) - 8 - size, len(content)):
    damaged = bytearray(content)
    damaged[place] ^= 0x20
    path.write_bytes(damaged)
    try:
      strangers.texts(path)
    except ValueError as error:
      assert str(path) in str(error)
