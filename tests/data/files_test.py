"""A file is read by its suffix, or the error names the faulty place."""

import gzip
import json
import os

import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import documents
from rllc_jax.data import files

TEXTS = ['first', 'zweite Zeile\nmit Umbruch', '三 \u2028 🙂', '']


def read(path, field='text'):
  return list(files.source(str(path), field).read())


def write_lines(path, texts, field='text'):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(json.dumps({field: text}) for text in texts))
  return path


def test_json_lines_are_read(tmp_path):
  path = tmp_path / 'a.jsonl'
  lines = [json.dumps({'id': 1, 'text': text}) for text in TEXTS]
  path.write_text('\n'.join(lines) + '\n\n', encoding='utf-8')
  assert read(path) == TEXTS


def test_a_byte_order_mark_is_removed(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'\xef\xbb\xbf{"text": "a"}')
  assert read(path) == ['a']


@pytest.mark.parametrize('kind', [pa.string(), pa.large_string()])
def test_parquet_texts_of_many_blocks_are_read_in_order(tmp_path, kind):
  path, texts = tmp_path / 'a.parquet', TEXTS * 700  # More than one block.
  column = pa.array(texts, kind)
  parquet.write_table(pa.table({'body': column, 'n': range(2800)}), path)
  assert read(path, 'body') == texts


def test_passages_of_a_plain_text_join_to_it(tmp_path):
  path = tmp_path / 'a.txt'
  text = ''.join(f'line {i}, café\n' for i in range(5_000))
  path.write_text(text, encoding='utf-8')
  passages = read(path)
  assert ''.join(passages) == text
  assert len(passages) == -(-len(text) // 10_000)  # The ceiling.


def test_a_plain_text_without_line_ends_is_cut_at_spaces(tmp_path):
  path = tmp_path / 'a.txt'
  text = ' '.join(f'word{i}' for i in range(30_000))
  path.write_text(text)
  passages = read(path)
  assert ''.join(passages) == text
  assert len(passages) > len(text) / 10_000
  assert max(map(len, passages)) <= 10_000
  assert all(passage.endswith(' ') for passage in passages[:-1])


@pytest.mark.parametrize(
  ('entry', 'name'),
  [
    ('x/web.jsonl', 'web'),
    ('my-1=x/web.jsonl', 'my-1'),
    ('a.b.txt', 'a.b'),
    ('a.b.TXT.gz', 'a.b'),
    ('x/lang=de/part-0.parquet', 'part-0'),
    ('x/web.jsonl#article.text', 'web'),
  ],
)
def test_the_domain_is_named_by_prefix_or_file_name(entry, name):
  assert files.source(entry).name == name


# Domains of several files.


def test_files_with_one_name_are_one_domain_in_the_given_order(tmp_path):
  first, second = (
    write_lines(tmp_path / f'{x}.jsonl', [x]) for x in ('b', 'a')
  )
  other = write_lines(tmp_path / 'c.jsonl', ['c'])
  entries = [f'web={first}', str(other), f'web={second}']
  domains = files.sources(entries)
  assert [x.name for x in domains] == ['web', 'c']
  assert list(domains[0].read()) == ['b', 'a']
  assert [x.num_files for x in domains] == [2, 1]


@pytest.mark.parametrize(
  ('place', 'texts'),
  [
    ('*.jsonl', ['0', '1']),
    ('**/*.jsonl', ['0', '1', '2']),
    ('**', ['0', '1', '2', '3']),
    ('?.jsonl', ['0', '1']),
    ('[0]*.jsonl', ['0']),
  ],
)
def test_a_glob_is_one_domain_of_sorted_files(tmp_path, place, texts):
  for name, text in (
    ('1.jsonl', '1'),
    ('0.jsonl', '0'),
    ('x/2.jsonl', '2'),
    ('x/y/3.JSONL', '3'),
    ('README.md', 'no text'),
  ):
    write_lines(tmp_path / name, [text])
  [web] = files.sources([f'web={tmp_path}/{place}'])
  assert (web.name, list(web.read())) == ('web', texts)


def test_a_folder_is_one_domain_of_its_readable_files(tmp_path):
  folder = tmp_path / 'prose'
  write_lines(folder / 'b' / '1.ndjson', ['1'])
  write_lines(folder / 'a.JSONL', ['0'])
  (folder / 'c.txt.gz').write_bytes(gzip.compress(b'2'))
  for hidden in ('.a.jsonl', '.cache/a.jsonl', 'LICENSE', 'notes.md'):
    write_lines(folder / hidden, ['hidden'])
  [prose] = files.sources([str(folder)])
  assert (prose.name, list(prose.read())) == ('prose', ['0', '1', '2'])
  [named] = files.sources([f'mine={folder}/'])
  assert named.name == 'mine'


def test_a_file_in_two_globs_is_read_once(tmp_path):
  path = write_lines(tmp_path / 'a.jsonl', ['a'])
  (tmp_path / 'link.jsonl').symlink_to(path)
  [web] = files.sources([f'web={tmp_path}/*.jsonl', f'web={path}'])
  assert (list(web.read()), web.num_files) == (['a'], 1)


def test_each_file_may_name_its_field(tmp_path):
  first = write_lines(tmp_path / 'a.jsonl', ['a'], 'body')
  second = tmp_path / 'b.jsonl'
  second.write_text('{"article": {"text": "b"}}')
  third = write_lines(tmp_path / 'c.jsonl', ['c'])
  entries = [f'x={first}#body', f'x={second}#article.text', f'x={third}']
  [x] = files.sources(entries)
  assert list(x.read()) == ['a', 'b', 'c']


@pytest.mark.parametrize(
  'place',
  ['lang=de/part-0.jsonl', 'a#b.jsonl', 'a[1].jsonl', 'web=a#b/c.jsonl'],
)
def test_an_existing_path_is_not_split_at_its_marks(
  tmp_path, monkeypatch, place
):
  monkeypatch.chdir(tmp_path)
  write_lines(tmp_path / place, ['a'], 'text')
  assert files.parse(place)[1:] == (None, place, None)
  assert files.source(f'x={place}').name == 'x'
  assert read(f'x={place}') == ['a']
  assert read(f'x={place}#text', 'no field') == ['a']


def test_a_name_is_removed_if_the_whole_is_no_path(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  write_lines(tmp_path / 'de' / 'part-0.jsonl', ['a'])
  assert files.source('lang=de/part-0.jsonl').name == 'lang'
  assert read('lang=de/part-0.jsonl') == ['a']
  write_lines(tmp_path / 'lang=de' / 'part-0.jsonl', ['b'])
  assert files.source('lang=de/part-0.jsonl').name == 'part-0'
  assert read('lang=de/part-0.jsonl') == ['b']
  assert read('web=lang=*/*.jsonl') == ['b']


@pytest.mark.parametrize('place', ['a.jsonl', '*.jsonl', '', 'a.jsonl#text'])
def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch, place):
  monkeypatch.setenv('HOME', str(tmp_path))
  write_lines(tmp_path / 'a.jsonl', ['a'])
  assert read(f'x=~/{place}') == ['a']


def test_a_tilde_is_the_home_without_a_name_too(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  write_lines(tmp_path / 'texts' / 'a.jsonl', ['a'])
  assert read('~/texts/a.jsonl') == read('~/texts') == ['a']
  assert files.source('~/texts').name == 'texts'


def test_the_name_proposed_for_a_glob_works(tmp_path):
  write_lines(tmp_path / 'a.jsonl', ['a'])
  with pytest.raises(
    ValueError, match='expected NAME=.*example mine='
  ) as error:
    files.sources([f'{tmp_path}/*.jsonl'])
  remedy = str(error.value).split('for example ')[1]
  assert read(remedy) == ['a']


def test_the_name_proposed_for_a_file_works(tmp_path):
  path = write_lines(tmp_path / 'my file.jsonl', ['a'])
  with pytest.raises(ValueError, match='write for example ') as error:
    files.source(str(path))
  remedy = str(error.value).split('for example ')[1].split('): ')[0]
  assert files.source(remedy).name == 'my_file'
  assert read(remedy) == ['a']


def test_files_of_one_stem_are_joined_only_by_a_name(tmp_path):
  paths = [write_lines(tmp_path / x / 'train.jsonl', [x]) for x in ('a', 'b')]
  with pytest.raises(ValueError, match='Write train= before each'):
    files.sources(list(map(str, paths)))
  [train] = files.sources([f'train={path}' for path in paths])
  assert list(train.read()) == ['a', 'b']


@pytest.mark.parametrize(
  ('entry', 'words'),
  [
    ('absent.jsonl', r'absent.jsonl: .*got none\. Check the path.*begins at /'),
    ('x=absent/*.jsonl', r'absent/\*.jsonl: .*got none; x= was taken as its'),
    ('x=empty', r'empty: expected files that end in .*got 1 files of .csv'),
  ],
)
def test_absent_files_are_refused_before_any_is_read(
  tmp_path, monkeypatch, entry, words
):
  monkeypatch.chdir(tmp_path)
  write_lines(tmp_path / 'empty' / 'a.csv', ['a'])
  with pytest.raises(FileNotFoundError, match=words):
    files.sources([entry])


# Bad files.

BAD_LINES = [
  (b'{"text": "a"}\nnot json', r'bad.jsonl:2: expected a JSON object'),
  (b'\x00\x01\x02\n', r'bad.jsonl:1: expected a JSON object.*x00'),
  (b'{"text": "a"}\n\n\xff\xfe', r'bad.jsonl:3: expected UTF-8.*0xff'),
  (b'{"body": "a"}', r"bad.jsonl:1: .*field 'text'.*the fields body"),
  (b'["text"]', r"bad.jsonl:1: .*field 'text'.*got list"),
  (b'{"text": 3}', r'bad.jsonl:1: expected a string.*got int 3'),
  (b'{"text": null}', r'bad.jsonl:1: expected a string.*got null'),
  (b'[' * 100_000, r'bad.jsonl:1: expected a JSON object'),
]


@pytest.mark.parametrize(('content', 'message'), BAD_LINES)
def test_an_invalid_json_line_is_refused_with_its_number(
  tmp_path, content, message
):
  path = tmp_path / 'bad.jsonl'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=message) as error:
    read(path)
  assert '\n' not in str(error.value)


def test_plain_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path):
  (tmp_path / 'a.txt').write_bytes(b'fine\nna\xefve\n')
  with pytest.raises(ValueError, match='a.txt:2: .*0xef at column 3'):
    read(tmp_path / 'a.txt')


@pytest.mark.parametrize(
  ('table', 'message'),
  [
    ({'body': ['a']}, "expected a column 'text'.*the columns body"),
    ({'text': [1]}, "expected strings in 'text'.*got int64"),
    ({'text': ['a'] * 1500 + [None]}, 'a string in row 1500.*got null'),
  ],
)
def test_a_table_without_a_full_text_column_is_refused(
  tmp_path, table, message
):
  path = tmp_path / 'bad.parquet'
  parquet.write_table(pa.table(table), path)
  with pytest.raises(ValueError, match=message):
    read(path)


@pytest.mark.parametrize('content', [b'', b'PAR1 and then not', b'{"text": 1}'])
def test_a_file_that_is_no_parquet_is_refused_on_one_line(tmp_path, content):
  path = tmp_path / 'bad.parquet'
  path.write_bytes(content)
  with pytest.raises(ValueError, match='expected a Parquet file') as error:
    read(path)
  assert '\n' not in str(error.value) and '..' not in str(error.value)


@pytest.mark.parametrize('name', ['a.jsonl', 'a.parquet', 'a.txt', 'a.arrow'])
def test_an_absent_file_raises_file_not_found(tmp_path, name):
  with pytest.raises(FileNotFoundError):
    read(tmp_path / name)


def table_bytes(write):
  sink = pa.BufferOutputStream()
  write(pa.table({'text': ['a']}), sink)
  return sink.getvalue().to_pybytes()


@pytest.mark.parametrize('suffix', ['.jsonl', '.json', '.txt', '.arrow'])
def test_the_suffix_proposed_for_a_parquet_table_works(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(table_bytes(parquet.write_table))
  with pytest.raises(
    ValueError, match='expected .*because.*got.*Rename it to end in .parquet'
  ):
    read(path)
  assert read(path.rename(tmp_path / 'a.parquet')) == ['a']


@pytest.mark.parametrize('suffix', ['.parquet', '.arrow'])
@pytest.mark.parametrize(
  ('content', 'words'),
  [
    (b'{"text": "a"}', 'Rename it to end in .jsonl'),
    (b'cut short', 'Put back a complete copy'),
    (b'PK\x03\x04', 'Unpack it with unzip'),
  ],
)
def test_another_format_with_a_table_suffix_is_refused(
  tmp_path, suffix, content, words
):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'because of its suffix; got .*{words}'):
    read(path)


def test_an_unknown_suffix_is_refused():
  with pytest.raises(
    ValueError, match=r"\.jsonl, \.ndjson.*got '\.csv'.*JSON lines"
  ):
    files.source('a.csv')


@pytest.mark.parametrize('entry', ['a/b=x.txt', '=x.txt', 'my file.txt'])
def test_a_name_unfit_for_a_path_is_refused(entry):
  with pytest.raises(ValueError, match='expected a domain name'):
    files.source(entry)


def test_an_unknown_nulls_setting_is_refused():
  with pytest.raises(ValueError, match="one of refuse, skip, .*got 'drop'"):
    files.source('a.txt', nulls='drop')


# Stability across versions.


def test_corpora_keep_the_hashes_of_commit_f35cd80(tmp_path):
  """From before globs and cuts existed."""
  texts = [
    f'{i}: ' + 'the sea is wide, ' * (i % 50 + 1) + '\nénd' for i in range(200)
  ]
  write_lines(tmp_path / 'lines.jsonl', texts)
  table = pa.table({'text': [f'{text} p' for text in texts]})
  parquet.write_table(table, tmp_path / 'table.parquet')
  long_line = 'x ' * 6000 + '\n'
  (tmp_path / 'prose.txt').write_text(
    '\n'.join(texts * 3) + long_line + '\n'.join(texts)
  )
  names = ['lines.jsonl', 'table.parquet', 'prose.txt']
  collection = documents.collect(
    files.sources([str(tmp_path / name) for name in names]),
    cap_bytes=1e9,
    held_out_fraction=0.2,
  )
  assert {
    name: (x['documents'], x['held_out_documents'], x['sha256'][:16])
    for name, x in collection.domains.items()
  } == {
    'lines': (196, 37, '68b17d02ea679dbd'),
    'table': (196, 45, '7412ad0119d68734'),
    'prose': (27, 6, '3a1153acbe83a724'),
  }


@pytest.mark.parametrize('name', ['a.jsonl.gz', 'a.jsonl', 'a.JSONL.GZ'])
def test_gzip_is_recognized_by_its_first_bytes(tmp_path, name):
  path = tmp_path / name
  lines = '\n'.join(json.dumps({'text': text}) for text in TEXTS)
  path.write_bytes(gzip.compress(lines.encode()))
  assert read(path) == TEXTS
  assert files.source(str(path)).name == 'a'


@pytest.mark.parametrize('name', ['a.txt.gz', 'a.ndjson.gz', 'a.json.gz'])
def test_a_gz_file_that_is_not_gzip_is_read_as_text(tmp_path, name):
  path = tmp_path / name
  path.write_text('"a"')
  assert read(path) == ['"a"' if '.txt' in name else 'a']
  assert os.path.exists(path)
