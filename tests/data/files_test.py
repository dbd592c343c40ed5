"""A file is read as its suffix says, or the error says where it is not."""

import json

import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import files

TEXTS = ['first', 'zweite Zeile\nmit Umbruch', '三 \u2028 🙂', '']


def read(path, field='text'):
  return list(files.source(str(path), field).read())


def test_json_lines_give_back_the_texts(tmp_path):
  path = tmp_path / 'a.jsonl'
  lines = [json.dumps({'id': 1, 'text': text}) for text in TEXTS]
  path.write_text('\n'.join(lines) + '\n\n', encoding='utf-8')
  assert read(path) == TEXTS


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"text": "a"}')
  assert read(path) == ['a']


@pytest.mark.parametrize('kind', [pa.string(), pa.large_string()])
def test_parquet_gives_back_the_texts_of_many_blocks(tmp_path, kind):
  path, texts = tmp_path / 'a.parquet', TEXTS * 700  # More than one block.
  column = pa.array(texts, kind)
  parquet.write_table(pa.table({'body': column, 'n': range(2800)}), path)
  assert read(path, 'body') == texts


def test_a_plain_text_is_cut_into_passages_that_join_to_it(tmp_path):
  path = tmp_path / 'a.txt'
  text = ''.join(f'line {i}, café\n' for i in range(5_000))
  path.write_text(text, encoding='utf-8')
  found = read(path)
  assert ''.join(found) == text
  assert len(found) == -(-len(text) // 10_000)  # The ceiling.


@pytest.mark.parametrize(
  ('given', 'name'),
  [('x/web.jsonl', 'web'), ('my-1=x/web.jsonl', 'my-1'), ('a.b.txt', 'a.b')],
)
def test_the_name_of_the_domain(given, name):
  assert files.source(given).name == name


BAD_LINES = [
  (b'{"text": "a"}\nnot json', r'bad.jsonl:2: expected a JSON object'),
  (b'\x00\x01\x02\n', r'bad.jsonl:1: expected a JSON object.*x00'),
  (b'{"text": "a"}\n\n\xff\xfe', r'bad.jsonl:3: expected UTF-8.*0xff'),
  (b'{"body": "a"}', r"bad.jsonl:1: .*field 'text'.*the fields body"),
  (b'["text"]', r"bad.jsonl:1: .*field 'text'.*got list"),
  (b'{"text": 3}', r'bad.jsonl:1: expected a string.*got int 3'),
  (b'{"text": null}', r'bad.jsonl:1: expected a string.*got NoneType'),
  (b'[' * 100_000, r'bad.jsonl:1: expected a JSON object'),
]


@pytest.mark.parametrize(('content', 'message'), BAD_LINES)
def test_bad_json_lines(tmp_path, content, message):
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read(path)
  assert '\n' not in str(error.value)


def test_bad_plain_text(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'fine\nna\xefve\n')
  with pytest.raises(ValueError, match='a.txt:2: .*0xef at column 3'):
    read(tmp_path / 'a.txt')


@pytest.mark.parametrize(
  ('table', 'message'),
  [
    ({'body': ['a']}, "expected a column 'text'.*the columns body"),
    ({'text': [1]}, "expected strings in 'text'; got int64"),
    ({'text': ['a'] * 1500 + [None]}, 'a string in row 1500.*got null'),
  ],
)
def test_bad_tables(tmp_path, table, message):
  path = tmp_path / 'bad.parquet'
  parquet.write_table(pa.table(table), path)
  with pytest.raises(ValueError, match=message):
    read(path)


@pytest.mark.parametrize('content', [b'', b'PAR1 and then not', b'{"text": 1}'])
def test_what_is_no_table(tmp_path, content):
  path = tmp_path / 'bad.parquet'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='expected a Parquet file') as error:
    read(path)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', ['a.jsonl', 'a.parquet', 'a.txt'])
def test_an_absent_file(tmp_path, name):
  with pytest.raises(FileNotFoundError):
    read(tmp_path / name)


def test_an_unknown_suffix():
  with pytest.raises(ValueError, match=r"\.jsonl, \.parquet.*got '\.csv'"):
    files.source('a.csv')


@pytest.mark.parametrize('given', ['a/b=x.txt', '=x.txt', 'my file.txt'])
def test_a_name_that_is_no_part_of_a_path(given):
  with pytest.raises(ValueError, match='expected a domain name'):
    files.source(given)
