"""Text in another encoding is refused with a command that converts it."""

import gzip
import json
import subprocess

import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import encodings
from rllc_jax.data import files

ENGLISH = 'The sea is wide and deep, and nobody knows all of it.\n'
RUSSIAN = 'Море широко и глубоко, и никто не знает его всего.\n'
GREEK = 'Η θάλασσα είναι πλατιά και βαθιά.\n'
KINDS = ['UTF-16LE', 'UTF-16BE', 'UTF-32LE', 'UTF-32BE']


def read(path):
  return list(files.source(str(path)).read())


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('mark', ['', '\ufeff'], ids=['no mark', 'mark'])
@pytest.mark.parametrize('text', [ENGLISH, RUSSIAN * 30, GREEK])
def test_the_encoding_is_named_and_the_command_converts(
  tmp_path, kind, mark, text
):
  path = tmp_path / "a text's.txt"
  path.write_bytes((mark + text).encode(kind))
  path = path.rename(tmp_path / 'a.txt')
  with pytest.raises(ValueError, match=f'a.txt: expected UTF-8 .*{kind}') as e:
    read(path)
  command = str(e.value).split('Convert it: ')[1]
  subprocess.run(command, shell=True, check=True)
  assert read(tmp_path / 'utf8_a.txt') == [text]


@pytest.mark.parametrize('name', ['a.jsonl', 'a.ndjson', 'a.json', 'a.txt'])
@pytest.mark.parametrize('kind', KINDS)
def test_every_text_format_is_refused_in_another_encoding(tmp_path, name, kind):
  path = tmp_path / name
  path.write_bytes(json.dumps({'text': ENGLISH}).encode(kind))
  with pytest.raises(ValueError, match=f'{kind}. Convert it: iconv -f {kind}'):
    read(path)


def test_the_proposed_command_unpacks_gzip(tmp_path):
  path = tmp_path / 'a b.txt.gz'
  path.write_bytes(gzip.compress(ENGLISH.encode('utf-16-le')))
  with pytest.raises(ValueError, match='UTF-16LE') as error:
    encodings.check_head(path)
  command = str(error.value).split('Convert it: ')[1]
  subprocess.run(command, shell=True, check=True)
  assert (tmp_path / 'utf8_a b.txt.gz').read_text() == ENGLISH


def test_another_encoding_after_the_first_block_is_refused(tmp_path):
  """Two files of different encodings, concatenated."""
  path = tmp_path / 'a.txt'
  text = ENGLISH * 2_000
  assert len(text) > encodings.HEAD
  path.write_bytes(text.encode() + text.encode('utf-16-le'))
  with pytest.raises(ValueError, match='UTF-16LE'):
    read(path)


def test_windows_1252_is_refused_with_a_place_and_a_command(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes('naïve café\n'.encode('windows-1252'))
  with pytest.raises(ValueError, match='0xef at column 3.*WINDOWS-1252') as e:
    read(path)
  command = str(e.value).split('Convert it: ')[1].split(' (if')[0]
  subprocess.run(command, shell=True, check=True)
  assert read(tmp_path / 'utf8_a.txt') == ['naïve café\n']


@pytest.mark.parametrize('suffix', ['.jsonl', '.json', '.parquet', '.arrow'])
def test_utf_16_decoded_as_utf_8_is_refused_in_records(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  text = ENGLISH.encode('utf-16-le').decode('utf-8')
  table = pa.table({'text': [ENGLISH, text]})
  if suffix == '.parquet':
    parquet.write_table(table, path)
  elif suffix == '.arrow':
    with pa.ipc.new_file(str(path), table.schema) as writer:
      writer.write_table(table)
  else:
    path.write_text('\n'.join(map(json.dumps, table.to_pylist())))
  with pytest.raises(ValueError, match=f'a{suffix}: .*54 NUL among 108') as e:
    read(path)
  assert str(e.value).isprintable() and 'Decode its source as' in str(e.value)


def test_a_file_of_zeros_is_refused_as_binary(tmp_path):
  path = tmp_path / 'a.txt'
  path.write_bytes(bytes(4_096))
  with pytest.raises(ValueError, match='looks like binary data'):
    read(path)


@pytest.mark.parametrize(
  'text',
  [
    ENGLISH,
    RUSSIAN,
    '三' * 999,
    'a\0b\0' * 3 + ENGLISH * 9,  # Some programs separate records by NUL.
    'one file\0another file\0' * 99,
    '\x1b[31mred\x1b[0m\n' * 9,
    '\t\n\r\f' * 99,
    '',
    '\0',
  ],
)
def test_valid_utf_8_is_read_unchanged(tmp_path, text):
  path = tmp_path / 'a.txt'
  path.write_bytes(text.encode())
  assert ''.join(read(path)) == text
