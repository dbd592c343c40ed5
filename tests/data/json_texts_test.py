"""JSON records in lines or in one document, with fields inside fields."""

import json
import tracemalloc

import pytest

from rllc_jax.data import fields
from rllc_jax.data import files


def read(path, field='text', nulls='refuse'):
  return list(files.source(str(path), field, nulls).read())


def write(path, content):
  path.write_text(content, encoding='utf-8')
  return path


RECORDS = [
  {'text': 'first', 'id': 1},
  {'text': 'zweite\nZeile'},
  {'text': '三'},
]
DOCUMENTS = {
  'array': json.dumps(RECORDS),
  'pretty array': json.dumps(RECORDS, indent=2),
  'array of strings': json.dumps([x['text'] for x in RECORDS]),
  'lines': '\n'.join(map(json.dumps, RECORDS)),
  'lines of strings': '\n'.join(json.dumps(x['text']) for x in RECORDS),
  'mark': '\ufeff' + json.dumps(RECORDS),
  'mark and lines': '\ufeff\n' + '\n'.join(map(json.dumps, RECORDS)),
  'blank lines': '\n \n' + json.dumps(RECORDS, indent=1),
}


@pytest.mark.parametrize('content', DOCUMENTS.values(), ids=DOCUMENTS)
def test_json_lines_and_arrays_are_recognized_by_content(tmp_path, content):
  path = write(tmp_path / 'a.json', content)
  assert read(path) == ['first', 'zweite\nZeile', '三']


@pytest.mark.parametrize('indent', [None, 2])
def test_one_object_is_one_document(tmp_path, indent):
  content = json.dumps({'text': 'only', 'n': [1, 2]}, indent=indent)
  assert read(write(tmp_path / 'a.json', content)) == ['only']


@pytest.mark.parametrize('content', ['', '\n', '[]', '\ufeff'])
def test_json_without_records_has_no_texts(tmp_path, content):
  assert read(write(tmp_path / 'a.json', content)) == []


def test_json_lines_are_read_one_at_a_time(tmp_path):
  line = json.dumps({'text': 'a' * 10_000})
  path = write(tmp_path / 'a.json', '\n'.join([line] * 2_000))
  tracemalloc.start()
  try:
    for _ in files.source(str(path)).read():
      pass
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 2e6  # The file has 2e7 bytes.


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('[{"text": "a"},', 'a.json: expected a JSON array .*line 1 column'),
    ('[{"text": "a"}]\n[]', 'a.json: expected a JSON array .*Extra data'),
    ('[{"text": "a"}, 3]', 'a.json: record 2: expected an object .*got int 3'),
    ('{"text": "a"}\nno', 'a.json:2: expected a JSON object.*Mend or remove'),
    ('{"text": \n3}', 'a.json: expected a string .*got int 3'),
    ('three', 'a.json: expected a JSON array of objects, one object, or one'),
    ('[' * 100_000, 'a.json: expected a JSON array .*nested too deeply'),
    ('{"a":\n' * 100_000, 'a.json: expected a JSON array .*nested too deeply'),
  ],
)
def test_invalid_json_documents_are_refused(tmp_path, content, words):
  path = write(tmp_path / 'a.json', content)
  with pytest.raises(ValueError, match=words) as error:
    read(path)
  message = str(error.value)
  assert message.isprintable() and len(message) < 1000


def test_the_suffix_proposed_for_one_document_works(tmp_path):
  path = write(tmp_path / 'a.jsonl', json.dumps(RECORDS, indent=2))
  with pytest.raises(ValueError, match='a.jsonl:1: .*to end in .json$'):
    read(path)
  assert len(read(path.rename(tmp_path / 'a.json'))) == 3


# Fields.


@pytest.mark.parametrize(
  ('record', 'field', 'text'),
  [
    ({'article': {'text': 'a'}}, 'article.text', 'a'),
    ({'article.text': 'a', 'article': {'text': 'b'}}, 'article.text', 'a'),
    ({'x': {'article.text': 'a'}}, 'x.article.text', 'a'),
    ({'x.article': {'text': 'a'}}, 'x.article.text', 'a'),
    ({'a': {'b': {'c': 'd'}}, 'a.b': {}}, 'a.b.c', 'd'),
    ({'.': 'a'}, '.', 'a'),
  ],
)
def test_dots_in_a_name_select_inner_fields(tmp_path, record, field, text):
  path = write(tmp_path / 'a.jsonl', json.dumps(record))
  assert read(path, field) == read(f'{path}#{field}') == [text]


@pytest.mark.parametrize('record', [{'a': 'x'}, {'a': ['x']}, {'a': {'c': 1}}])
def test_dots_do_not_select_inside_other_values(record):
  assert fields.get(record, 'a.b') is fields.MISSING


@pytest.mark.parametrize(
  ('record', 'field'),
  [
    ({'id': 'x', 'content': 'here'}, 'content'),
    ({'id': 'x', 'article': {'title': 'y', 'Body': 'here'}}, 'article.Body'),
    ({'id': 3, 'speech': 'here'}, 'speech'),
    ({'text': {'title': 'y', 'content': 'here'}}, 'text.content'),
    ({'abstract': 'x', 'content': 'here'}, 'content'),
    ({'text': 3, 'body': 'here'}, 'body'),
  ],
)
def test_the_proposed_text_field_reads_the_file(tmp_path, record, field):
  path = write(tmp_path / 'a.jsonl', json.dumps(record))
  with pytest.raises(ValueError, match=r'config\.corpus\.text_field') as error:
    read(path)
  message = str(error.value)
  assert f'(config.corpus.text_field) to {field}, or' in message
  remedy = message.split('or write ')[1].split(' for this')[0]
  assert read(remedy) == ['here']


def test_a_missing_field_error_lists_the_fields(tmp_path):
  record = {'id': 'x', 'meta': {'by': 'y', 'at': {'page': 3}}, 'n': []}
  path = write(tmp_path / 'a.jsonl', json.dumps(record))
  with pytest.raises(
    ValueError, match='fields id, meta.by, meta.at.page, n. Set text_field'
  ):
    read(path)


def test_at_most_100_field_names_are_listed(tmp_path):
  record = {}
  for depth in range(300):
    record = {f'{depth}{i}': record for i in range(2)}
  assert len(fields.names(record)) <= 100


# Nulls.

NULLS = [{'text': 'a'}, {'text': None}, {'other': 'x'}, {'text': 'b'}, {}]


@pytest.mark.parametrize('name', ['a.jsonl', 'a.json'])
def test_nulls_and_missing_fields_are_skipped_or_refused(tmp_path, name):
  lines = '\n'.join(map(json.dumps, NULLS))
  path = write(tmp_path / name, lines)
  assert read(path, nulls='skip') == ['a', None, None, 'b', None]
  with pytest.raises(ValueError, match=r":2: .*got null\. Set nulls='skip'"):
    read(path)


def test_a_null_outer_value_gives_null_text(tmp_path):
  path = write(tmp_path / 'a.jsonl', '{"a": null}\n{"a": {"b": null}}\nnull')
  assert read(path, 'a.b', 'skip') == [None] * 3


def test_no_other_field_is_proposed_if_some_records_have_it(tmp_path):
  path = write(tmp_path / 'a.jsonl', '{"text": "a"}\n{"body": "b"}')
  with pytest.raises(ValueError, match=r":2: .*fields body\. Set nulls='skip'"):
    read(path)


def test_skip_refuses_a_field_that_no_record_has(tmp_path):
  path = write(tmp_path / 'a.jsonl', '{"body": "a"}\n' * 3)
  with pytest.raises(ValueError, match=r':1: .*fields body.*to body, or write'):
    read(path, nulls='skip')


@pytest.mark.parametrize('value', [3, ['a'], {'a': 'b'}, True])
def test_skip_refuses_values_other_than_null(tmp_path, value):
  path = write(tmp_path / 'a.jsonl', json.dumps({'text': value}))
  with pytest.raises(ValueError, match='expected a string in the field'):
    read(path, nulls='skip')
