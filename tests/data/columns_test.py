"""Columns of Parquet and Arrow: all kinds of strings, nested ones, nulls."""

import numpy as np
import pyarrow as pa
from pyarrow import parquet
import pytest

from rllc_jax.data import files

TEXTS = ['first', 'zweite Zeile\nmit Umbruch', '三 \u2028 🙂', '', 'first']


def read(path, field='text', nulls='refuse'):
  return list(files.source(str(path), field, nulls).read())


def write_parquet(path, table):
  path = path.with_suffix('.parquet')
  parquet.write_table(table, path)
  return path


def write_arrow(path, table, make=pa.ipc.new_file, compression=None):
  path = path.with_suffix('.arrow')
  options = pa.ipc.IpcWriteOptions(compression=compression)
  with make(str(path), table.schema, options=options) as writer:
    writer.write_table(table)
  return path


def write_stream(path, table):
  return write_arrow(path, table, pa.ipc.new_stream)


def write_lz4(path, table):
  return write_arrow(path, table, compression='lz4')


def write_zstd_stream(path, table):
  return write_arrow(path, table, pa.ipc.new_stream, 'zstd')


WRITERS = [write_parquet, write_arrow, write_stream]
COMPRESSED = [write_lz4, write_zstd_stream]
KINDS = {
  'string': lambda x: pa.array(x),
  'large_string': lambda x: pa.array(x, pa.large_string()),
  'string_view': lambda x: pa.array(x, pa.string_view()),
  'dictionary': lambda x: pa.array(x).dictionary_encode(),
  'dictionary of large': lambda x: pa.array(
    x, pa.large_string()
  ).dictionary_encode(),
  'small indices': lambda x: (
    pa.array(x).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
  ),
  'dictionary of views': lambda x: pa.array(
    x, pa.string_view()
  ).dictionary_encode(),
}


@pytest.mark.parametrize('write', WRITERS + COMPRESSED)
@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_strings_of_every_type_are_read(tmp_path, write, kind):
  column, n = kind(TEXTS), range(len(TEXTS))
  if write is write_parquet and 'view' in str(column.type):
    column = pa.array(TEXTS, pa.string_view())  # Parquet has no dictionary.
  path = write(tmp_path / 'a', pa.table({'n': n, 'text': column}))
  assert read(path) == TEXTS


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('kind', KINDS.values(), ids=KINDS)
def test_nulls_of_every_string_type_are_skipped_or_refused(
  tmp_path, write, kind
):
  if write is write_parquet and kind is KINDS['dictionary of views']:
    kind = KINDS['string_view']
  path = write(tmp_path / 'a', pa.table({'text': kind(['a', None, 'b'])}))
  assert read(path, nulls='skip') == ['a', None, 'b']
  with pytest.raises(ValueError, match="row 1 of 'text'.*Set nulls='skip'"):
    read(path)


def nested(kind=lambda x: pa.array(x)):
  text = kind(['a', 'b', 'c'])
  article = pa.StructArray.from_arrays(
    [text, pa.array([1, 2, 3])], ['text', 'n']
  )
  return pa.table({'id': ['x', 'y', 'z'], 'article': article})


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize('kind', [KINDS['string'], KINDS['large_string']])
def test_dots_in_a_name_select_struct_fields(tmp_path, write, kind):
  path = write(tmp_path / 'a', nested(kind))
  assert read(path, 'article.text') == ['a', 'b', 'c']
  assert read(f'{path}#article.text') == ['a', 'b', 'c']


@pytest.mark.parametrize('write', WRITERS)
def test_a_column_with_a_dotted_name_precedes_struct_fields(tmp_path, write):
  deep = pa.array([{'b': {'c': 'deep'}}])
  table = pa.table({'a.b.c': ['flat'], 'a': deep, 'a.b': [{'c': 'half'}]})
  assert read(write(tmp_path / 'a', table), 'a.b.c') == ['flat']
  table = table.drop_columns(['a.b.c'])
  assert read(write(tmp_path / 'b', table), 'a.b.c') == ['half']
  table = table.drop_columns(['a.b'])
  assert read(write(tmp_path / 'c', table), 'a.b.c') == ['deep']


@pytest.mark.parametrize('write', WRITERS)
def test_text_inside_a_null_struct_is_null(tmp_path, write):
  kind = pa.struct({'text': pa.string()})
  column = pa.array([{'text': 'a'}, None, {'text': None}], kind)
  path = write(tmp_path / 'a', pa.table({'article': column}))
  assert read(path, 'article.text', 'skip') == ['a', None, None]
  with pytest.raises(ValueError, match=r"row 1 of 'article\.text'.*got null"):
    read(path, 'article.text')


@pytest.mark.parametrize('write', WRITERS)
@pytest.mark.parametrize(
  ('table', 'words', 'field'),
  [
    (nested(), 'columns id, article.text, article.n', 'article.text'),
    (pa.table({'id': ['x'], 'content': ['a']}), 'id, content', 'content'),
    (pa.table({'n': [1], 'speech': ['a']}), 'columns n, speech', 'speech'),
    (pa.table({'text': [1], 'body': ['a']}), 'got int64', 'body'),
    (pa.table({'text': [{'raw': 'a'}]}), 'got struct<raw: string>', 'text.raw'),
  ],
)
def test_the_proposed_text_field_reads_the_file(
  tmp_path, write, table, words, field
):
  path = write(tmp_path / 'a', table)
  with pytest.raises(ValueError, match=words) as error:
    read(path)
  message = str(error.value)
  assert f'(config.corpus.text_field) to {field}, or' in message
  remedy = message.split('or write ')[1].split(' for this')[0]
  assert read(remedy)[0] == 'a'


@pytest.mark.parametrize('write', WRITERS)
def test_dots_do_not_select_inside_lists(tmp_path, write):
  table = pa.table({'article': [[{'text': 'a'}]]})
  path = write(tmp_path / 'a', table)
  with pytest.raises(ValueError, match=r"a column 'article\.text'"):
    read(path, 'article.text')


# Arrow files, which other programs may have written.


def test_arrow_texts_of_many_batches_are_read_in_order(tmp_path):
  path, texts = tmp_path / 'a.arrow', TEXTS * 700
  table = pa.table({'n': range(3_500), 'text': texts})
  for make in (pa.ipc.new_file, pa.ipc.new_stream):
    with make(str(path), table.schema) as writer:
      writer.write_table(table, max_chunksize=100)
    assert read(path) == texts


def test_replaced_and_delta_dictionaries_are_read(tmp_path):
  path = tmp_path / 'a.arrow'
  batches = [
    pa.record_batch({'text': pa.array(x).dictionary_encode()})
    for x in (['a', 'b'], ['a', 'b', 'c'], ['d'])
  ]
  options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
  schema = batches[0].schema
  with pa.ipc.new_stream(str(path), schema, options=options) as writer:
    for batch in batches:
      writer.write_batch(batch)
  assert read(path) == ['a', 'b', 'a', 'b', 'c', 'd']


@pytest.mark.parametrize('write', COMPRESSED)
def test_a_compressed_bomb_is_refused_before_it_is_unpacked(tmp_path, write):
  path = write(tmp_path / 'a', pa.table({'text': ['a' * 10**7]}))
  assert path.stat().st_size < 10**5
  with pytest.raises(ValueError, match='unfold to far more than a text'):
    read(path)


@pytest.mark.parametrize('write', COMPRESSED)
def test_a_compressed_bomb_in_a_dictionary_is_refused(tmp_path, write):
  column = pa.array(['a' * 10**7]).dictionary_encode()
  path = write(tmp_path / 'a', pa.table({'text': column}))
  with pytest.raises(ValueError, match='unfold to far more than a text'):
    read(path)


@pytest.mark.parametrize('write', [write_arrow, write_stream])
def test_a_long_text_shared_by_many_rows_is_refused(tmp_path, write):
  indices = np.zeros(10_000, np.int32)
  column = pa.DictionaryArray.from_arrays(indices, ['a' * 10_000])
  path = write(tmp_path / 'a', pa.table({'text': column}))
  with pytest.raises(ValueError, match='at most 1000 characters a byte'):
    read(path)


def test_a_truncated_arrow_file_is_refused(tmp_path):
  path = write_arrow(tmp_path / 'a', pa.table({'text': TEXTS * 99}))
  content = path.read_bytes()
  for length in range(0, len(content), 97):
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match='a.arrow: expected an Arrow IPC file'):
      read(path)


@pytest.mark.parametrize('write', [write_arrow, write_stream, *COMPRESSED])
def test_a_flipped_bit_gives_valid_text_or_a_short_error(tmp_path, write):
  column = pa.array(['some', 'text']).dictionary_encode()
  table = pa.table({'a': ['b', 'c'], 'text': column})
  path = write(tmp_path / 'a', table)
  content = path.read_bytes()
  for place in range(len(content)):
    damaged = bytearray(content)
    damaged[place] ^= 0x20 if place % 2 else 0x80
    path.write_bytes(damaged)
    try:
      for text in read(path):
        text.encode()
    except ValueError as error:
      assert str(path) in str(error) and len(str(error)) < 1_000


@pytest.mark.parametrize('write', [write_arrow, write_stream])
def test_offsets_beyond_the_text_buffer_are_refused(tmp_path, write):
  """Otherwise memory beyond the buffer would be read as text."""
  path = write(tmp_path / 'a', pa.table({'text': ['some', 'text']}))
  offsets = np.array([0, 4, 8], np.int32).tobytes()
  content = path.read_bytes()
  assert content.count(offsets) == 1
  beyond = np.array([0, 4, 10], np.int32).tobytes()
  path.write_bytes(content.replace(offsets, beyond))
  with pytest.raises(ValueError, match='expected an Arrow IPC.*offset'):
    read(path)


@pytest.mark.parametrize('write', WRITERS)
def test_a_column_name_that_is_not_utf_8_is_refused_with_the_path(
  tmp_path, write
):
  path = write(tmp_path / 'a', pa.table({'body': ['a'], 'text': ['b']}))
  path.write_bytes(path.read_bytes().replace(b'body', b'\xf4ody'))
  with pytest.raises(ValueError, match=r"/a\.\w+: expected .*'utf-8' codec"):
    read(path)
