"""Damage to a complete corpus, and to documents that a build resumes with."""

import functools
import json
import pathlib
import shutil

import ml_collections
import pytest

from experiments import build_corpus
from rllc_jax import trees
from rllc_jax.data import corpora
from rllc_jax.data import packing
from tests.damage import damages

DATA_SET = pathlib.Path('documents', 'corpus', '1.0.0')
DOCUMENTS = (
  'corpus-train.array_record-00000-of-00001',
  'corpus-held_out.array_record-00000-of-00001',
  'dataset_info.json',
  'features.json',
  'metadata.json',
)


def write_text(path, words):
  lines = [json.dumps({'text': f'{i} ' + f'{words} ' * 3}) for i in range(60)]
  path.write_text('\n'.join(lines))
  return path


def build(text, workdir):
  """Builds or reads the corpus of `workdir`, and returns its content."""
  section = {
    'sources': (),
    'further': (),
    'files': (str(text),),
    'cap_mb': 1.0,
    'held_out_fraction': 0.25,
    'vocab_size': 270,
    'context_length': 8,
  }
  config = ml_collections.ConfigDict({'corpus': section})
  corpus = build_corpus.run(config, workdir)
  record = packing.load_record(workdir / 'corpus')
  return trees.content_hash(corpus.tokens), corpus[1:], record


@pytest.fixture(scope='module')
def texts(tmp_path_factory):
  directory = tmp_path_factory.mktemp('texts')
  return [
    write_text(directory / 'sea.jsonl', 'the sea is wide and deep'),
    write_text(directory / 'land.jsonl', 'the land is long and high'),
  ]


@pytest.fixture(scope='module')
def built(texts, tmp_path_factory):
  """Workdirs of two runs."""
  workdirs = [tmp_path_factory.mktemp('run') for _ in texts]
  for text, workdir in zip(texts, workdirs, strict=True):
    build(text, workdir)
  return workdirs


@pytest.fixture
def workdir(built, tmp_path):
  return shutil.copytree(built[0], tmp_path / 'run')


@pytest.mark.sampled(6)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize(
  'name', ['corpus.json', 'tokens.npy', 'tokenizer.json']
)
def test_damage_to_a_complete_corpus_is_named(
  built, texts, workdir, name, kind
):
  path = workdir / 'corpus' / name
  messages = damages.check(
    workdir,
    path,
    kind,
    functools.partial(build, texts[0], workdir),
    build(texts[0], workdir),
    other=(built[1] / 'corpus' / name).read_bytes(),
    named=str(path.parent if kind == 'another' else path),
  )
  # Without corpus.json the corpus is built again.
  assert all(messages) != ((name, kind) == ('corpus.json', 'missing'))


@pytest.mark.sampled(8)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', DOCUMENTS)
def test_damage_to_documents_of_an_unfinished_build_is_named(
  built, texts, workdir, name, kind
):
  def build_on():
    try:
      return build(texts[0], workdir)
    finally:
      (workdir / 'corpus' / 'corpus.json').unlink(missing_ok=True)

  (workdir / 'corpus' / 'corpus.json').unlink()

  damages.check(
    workdir,
    workdir / 'corpus' / DATA_SET / name,
    kind,
    build_on,
    build_on(),
    other=(built[1] / 'corpus' / DATA_SET / name).read_bytes(),
    named=str(workdir / 'corpus' / DATA_SET),
  )


@pytest.mark.parametrize('kind', ['cut', 'zeroed', 'flipped', 'missing'])
def test_damage_to_a_user_s_data_set_is_named(workdir, kind):
  directory = workdir / 'corpus' / DATA_SET

  def read():
    return [*corpora.tfds_source(str(directory), 'text', 'train').read()]

  path, named = directory / DOCUMENTS[0], str(directory)
  damages.check(workdir, path, kind, read, read(), named=named)


@pytest.mark.parametrize(
  'name', ['tokens.npy', 'tokenizer.json', 'corpus.json']
)
def test_the_remedy_for_a_damaged_corpus_works(texts, workdir, name):
  expected = build(texts[0], workdir)
  path = workdir / 'corpus' / name
  path.write_bytes(path.read_bytes()[:-5])
  with pytest.raises(
    ValueError, match='remove the directory of the corpus and'
  ):
    build(texts[0], workdir)
  shutil.rmtree(workdir / 'corpus')
  assert build(texts[0], workdir) == expected


def test_the_remedy_for_damaged_documents_works(texts, workdir):
  expected = build(texts[0], workdir)
  (workdir / 'corpus' / 'corpus.json').unlink()
  directory = workdir / 'corpus' / DATA_SET
  (directory / 'features.json').write_text('{}')
  with pytest.raises(ValueError, match=f'{directory}: .*remove it and run'):
    build(texts[0], workdir)
  shutil.rmtree(directory)
  assert build(texts[0], workdir) == expected


def test_exchanged_shards_are_named(texts, workdir):
  """The shard of another split, under the name of this one."""
  train, held_out = (workdir / 'corpus' / DATA_SET / x for x in DOCUMENTS[:2])
  info = workdir / 'corpus' / DATA_SET / 'dataset_info.json'
  swapped = train.read_bytes(), held_out.read_bytes()
  held_out.write_bytes(swapped[0])
  train.write_bytes(swapped[1])
  lengths = json.loads(info.read_text())
  first, second = lengths['splits']
  first['shardLengths'], second['shardLengths'] = (
    second['shardLengths'],
    first['shardLengths'],
  )
  info.write_text(json.dumps(lengths))
  (workdir / 'corpus' / 'corpus.json').unlink()
  with pytest.raises(
    ValueError, match="documents of 'train' that were written"
  ):
    build(texts[0], workdir)
