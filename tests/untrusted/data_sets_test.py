"""Untrusted data sets of TFDS."""

import json
import shutil

import pytest

from rllc_jax.data import corpora
from rllc_jax.data import documents
from tests.untrusted import strangers


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  rows = [
    documents.Document(f'{i:032x}', 'a', ('train', 'held_out')[i % 2], f'{i}')
    for i in range(8)
  ]
  return corpora.prepare(tmp_path_factory.mktemp('c'), rows, {})


@pytest.fixture
def data_set(prepared, tmp_path):
  return shutil.copytree(prepared, tmp_path / 'corpus' / '1.0.0')


def edit(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))


def read_data_set(directory):
  return list(corpora.tfds_source(str(directory), 'text', 'train').read())


@pytest.mark.parametrize('key', ['pythonClassName', 'python_class_name'])
def test_a_data_set_imports_nothing(data_set, tmp_path, monkeypatch, key):
  (tmp_path / 'harmful.py').write_text('raise SystemExit("was imported")')
  monkeypatch.syspath_prepend(tmp_path)

  def change(content):
    feature = content['featuresDict']['features']['domain']
    del feature['pythonClassName']
    feature[key] = 'harmful.Feature'

  edit(data_set / 'features.json', change)
  read = lambda: read_data_set(data_set)
  assert strangers.is_refused(read, data_set, 'a feature of another package')


def test_a_data_set_of_an_old_form_imports_nothing(data_set):
  content = {'type': 'harmful.Feature', 'content': {}}
  (data_set / 'features.json').write_text(json.dumps(content))
  read = lambda: read_data_set(data_set)
  assert strangers.is_refused(read, data_set, 'a feature of another package')


@pytest.mark.parametrize(
  'change',
  [
    strangers.put(
      'splits', 0, 'filepathTemplate', '../elsewhere/{SHARD_X_OF_Y}'
    ),
    strangers.put('splits', 0, 'filepathTemplate', '/elsewhere/{SHARD_X_OF_Y}'),
    strangers.put('name', '../../elsewhere'),
  ],
)
def test_a_data_set_opens_no_file_elsewhere(data_set, change):
  edit(data_set / 'dataset_info.json', change)
  read = lambda: read_data_set(data_set)
  assert strangers.is_refused(read, data_set, 'a file elsewhere')


def test_a_data_set_whose_name_is_no_domain_is_refused(data_set):
  edit(data_set / 'dataset_info.json', strangers.put('name', 'a b'))
  for shard in data_set.glob('corpus-*'):
    shard.rename(data_set / shard.name.replace('corpus', 'a b'))
  read = lambda: read_data_set(data_set)
  assert strangers.is_refused(read, data_set, 'expected a domain name')
