"""Documents are written and read back unchanged, without TensorFlow."""

import pathlib
import shutil

import pytest

from rllc_jax.data import corpora
from rllc_jax.data import documents
from tests import binaries

PROVENANCE = {'domains': {'a': {'documents': 3000}}, 'python': '3'}


def document(domain, split, number):
  text = f'{domain} {number}: naïve 三🙂\nand a second line\x00'
  return documents.Document(documents.content_key(text), domain, split, text)


KEPT = [
  document(domain, split, number)
  for split, count in (('train', 2100), ('held_out', 30))  # Over two blocks.
  for domain in ('a', 'b')
  for number in range(10_000 if split == 'held_out' else 0, 20_000)[:count]
]


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  return corpora.prepare(tmp_path_factory.mktemp('c'), KEPT, PROVENANCE)


@pytest.fixture
def copied(prepared, tmp_path):
  return pathlib.Path(shutil.copytree(prepared, tmp_path / 'corpus' / '1.0.0'))


@pytest.mark.parametrize('split', ['train', 'held_out'])
def test_every_document_is_read_back_under_its_domain(prepared, split):
  texts = corpora.load_documents(prepared, split)
  for domain in 'a', 'b':
    expected = [d.text for d in KEPT if (d.domain, d.split) == (domain, split)]
    assert sorted(texts.pop(domain)) == sorted(expected)
  assert not texts


def test_the_order_on_disk_does_not_depend_on_the_given_order(
  prepared, tmp_path
):
  path = corpora.prepare(tmp_path, KEPT[::-1], PROVENANCE)
  assert corpora.load_documents(path, 'train') == corpora.load_documents(
    prepared, 'train'
  )


def test_preparing_again_rewrites_no_file(copied):
  before = {path: path.stat().st_mtime_ns for path in copied.iterdir()}
  root = copied.parent.parent
  assert corpora.prepare(root, KEPT, PROVENANCE) == copied
  assert {p: p.stat().st_mtime_ns for p in copied.iterdir()} == before


def test_a_corpus_of_other_documents_is_refused(copied):
  with pytest.raises(ValueError, match='expected the documents of this run'):
    corpora.prepare(copied.parent.parent, KEPT, {'domains': {}})


class Overtaken(list):
  """Documents of a process that another one overtakes while it writes."""

  def __init__(self, items, overtake):
    super().__init__(items)
    self.overtake = [overtake]

  def __iter__(self):
    if self.overtake:
      self.overtake.pop()()
    return super().__iter__()


def test_a_process_overtaken_while_writing_uses_the_other_s_files(tmp_path):
  winner = lambda: corpora.prepare(tmp_path, KEPT, PROVENANCE)
  path = corpora.prepare(tmp_path, Overtaken(KEPT, winner), PROVENANCE)
  assert len(corpora.load_documents(path, 'held_out')['a']) == 30
  assert [child.name for child in path.parent.iterdir()] == ['1.0.0']


def test_a_full_disk_raises_oserror_on_one_line(tmp_path, monkeypatch):
  def write(*args, **kwargs):
    raise RuntimeError('write() failed: No space left on device;\nat byte 3')

  monkeypatch.setattr(corpora.CorpusBuilder, 'download_and_prepare', write)
  with pytest.raises(OSError, match='4260 documents; got .* No space') as error:
    corpora.prepare(tmp_path, KEPT, PROVENANCE)
  assert '\n' not in str(error.value)


def test_a_prepared_data_set_is_a_source(prepared):
  source = corpora.tfds_source(str(prepared), 'text', 'train')
  assert source.name == 'corpus'
  expected = sorted(d.text for d in KEPT if d.split == 'train')
  assert sorted(source.read()) == expected
  part = corpora.tfds_source(str(prepared), 'domain', 'train[:10%]')
  assert len(list(part.read())) == 420


def test_a_tilde_is_the_home_of_the_user(prepared, monkeypatch):
  monkeypatch.setenv('HOME', str(prepared.parent))
  source = corpora.tfds_source(f'~/{prepared.name}', 'text', 'train[:10%]')
  assert len(list(source.read())) == 420


def test_the_home_of_an_unknown_user_is_refused():
  with pytest.raises(ValueError, match='~no-such-user/a: expected a prepared'):
    corpora.tfds_source('~no-such-user/a', 'text', 'train')


@pytest.mark.parametrize(
  ('feature', 'split', 'message'),
  [
    ('body', 'train', "a feature 'body'.*got domain, key, text"),
    ('text', 'test', "the split 'test'.*Unknown split"),
    ('text', 'train[:x]', 'Unrecognized split format'),
  ],
)
def test_an_absent_feature_or_split_is_refused(
  prepared, feature, split, message
):
  with pytest.raises(ValueError, match=message) as error:
    corpora.tfds_source(str(prepared), feature, split)
  assert '\n' not in str(error.value)


def test_a_directory_without_a_data_set_is_refused(tmp_path):
  with pytest.raises(ValueError, match='expected a prepared TFDS data set'):
    corpora.tfds_source(str(tmp_path), 'text', 'train')


def damage(path, change):
  [shard] = path.glob('*train.array_record*')
  shard.write_bytes(change(shard.read_bytes()))


@pytest.mark.parametrize(
  'change',
  [
    lambda raw: raw[: len(raw) // 2],
    lambda raw: raw[:9_000] + bytes(512) + raw[9_512:],
  ],
  ids=['cut', 'zeroed'],
)
def test_a_damaged_shard_is_refused(copied, change):
  damage(copied, change)
  with pytest.raises(ValueError, match="expected the examples of 'train'"):
    corpora.load_documents(copied, 'train')


def test_tensorflow_is_never_imported(tmp_path):
  program = f"""
    import sys
    from rllc_jax.data import corpora, documents, files, mini_pile
    from rllc_jax.data import packing, tokenizers
    kept = [documents.Document(str(i), 'a', split, 'text')
            for i, split in enumerate(('train', 'held_out'))]
    path = corpora.prepare({str(tmp_path)!r}, kept, {{}})
    assert corpora.load_documents(path, 'train') == {{'a': ['text']}}
    assert 'tensorflow' not in sys.modules
    assert 'tensorflow_datasets' in sys.modules
  """
  done = binaries.run(program)
  assert (done.returncode, done.stdout) == (0, ''), done.stderr
