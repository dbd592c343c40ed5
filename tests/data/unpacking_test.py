"""Gzip is unpacked up to a bound, and damaged gzip is refused."""

import gzip
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import files

NAMES = ['a.jsonl', 'a.json.gz', 'a.txt.gz', 'a.parquet', 'a.arrow.gz']


def read(path):
  return list(files.source(str(path)).read())


@pytest.mark.parametrize('name', NAMES)
def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, name):
  path = tmp_path / name
  with gzip.open(path, 'wb') as file:
    for _ in range(100):
      file.write(b' ' * 1_000_000)
  assert path.stat().st_size < 200_000
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match='at most 100 bytes a byte.*gunzip'):
      read(path)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 5e7  # Of 1e8 bytes.


def test_a_small_file_of_one_repeated_word_is_read(tmp_path):
  path = tmp_path / 'a.txt.gz'
  path.write_bytes(gzip.compress(b'word ' * 2_000))
  assert ''.join(read(path)) == 'word ' * 2_000


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'another after it'])
@pytest.mark.parametrize('name', NAMES)
def test_damaged_gzip_is_refused_with_the_path(tmp_path, name, damage):
  path = tmp_path / name
  noise = np.random.default_rng(0).bytes(3_000).hex()
  content = bytearray(gzip.compress(json.dumps({'text': noise}).encode()))
  if damage == 'cut':
    content = content[:-20]
  elif damage == 'flipped':
    content[len(content) // 2] ^= 1
  else:
    content += b'more'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='expected gzip.*Put back') as error:
    read(path)
  assert str(path) in str(error.value)


def test_gzip_of_several_members_is_one_text(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(gzip.compress(b'one\n') + gzip.compress(b'two\n'))
  assert read(path) == ['one\ntwo\n']


@pytest.mark.parametrize('suffix', ['.parquet', '.arrow'])
def test_tables_inside_gzip_leave_no_temporary_file(
  tmp_path, monkeypatch, suffix
):
  monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
  (tmp_path / 'temporary').mkdir()
  sink, table = pa.BufferOutputStream(), pa.table({'text': ['a', 'b']})
  if suffix == '.parquet':
    parquet.write_table(table, sink)
  else:
    with pa.ipc.new_stream(sink, table.schema) as writer:
      writer.write_table(table)
  path = tmp_path / f'a{suffix}'
  path.write_bytes(gzip.compress(sink.getvalue().to_pybytes()))
  assert read(path) == ['a', 'b']
  assert not os.listdir(tmp_path / 'temporary')
