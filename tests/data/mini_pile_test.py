"""Packages are read as data: pinned, never imported, in a scattered order."""

import gzip
import json
import sys

import pytest

from rllc_jax.data import documents
from rllc_jax.data import mini_pile

LONG = 'And God said, Let there be light: and there [was] light.\n' * 200

FILES = {  # requirement: {path: content}
  mini_pile.WIKI: {
    'w/summaries_en-us.json': json.dumps(
      {'a': {'title': 'Moth', 'extract': 'An insect.', 'topic': 'Biology'}}
    ),
    'w/summaries_fr-fr.json': json.dumps(
      {'a': {'title': 'Mite', 'extract': 'Un insecte.', 'topic': 'Biologie'}}
    ),
  },
  mini_pile.GCIDE: {
    'd/words_B.json': json.dumps(
      {
        'bait': {
          'entry': 'bait',
          'pos': [
            {
              'etymology': '[Icel. beita]',
              'definitions': [
                {
                  'text': 'A lure. [1913 Webster]',
                  'examples': [
                    'Take it [sic]. [Webster 1913 Suppl. +PJC]',
                    'So said Webster. Shak.1913 Webster]',
                    None,
                  ],
                },
                {'text': None, 'examples': None},
              ],
            }
          ],
        }
      }
    )
  },
  mini_pile.KJV: {
    'k/plain_text_readers_bible.py': (
      f'raise SystemExit("imported")\nbible = Bible(1, """{LONG}""", [(0, 1)])'
    )
  },
  mini_pile.LEGAL: {
    'l/mit.LICENSE': '---\nkey: mit\n---\n\nPermission --- granted.',
    'l/mit.RULE': 'not this one',
  },
  mini_pile.BOTOCORE: {
    'b/s3/service-2.json.gz': gzip.compress(
      json.dumps(
        {
          'documentation': '<p>Stores\n  &lt;objects&gt;.</p>',
          'shapes': [{'documentation': {'documentation': 'Nested.'}}, 'other'],
        }
      ).encode()
    )
  },
}

EXPECTED = {
  'wiki_en': ['Moth\n\nAn insect.'],
  'wiki_fr': ['Mite\n\nUn insecte.'],
  'gcide': ['bait\nA lure.\nTake it [sic].\nSo said Webster. Shak.'],
  'legal': ['\nPermission --- granted.'],
  'botocore_docs': ['Stores <objects>.', 'Nested.'],
}


def install(root, requirement, files, version=None):
  """Writes the files of a distribution as pip lays them out."""
  name, pinned = requirement.split('==')
  info = f'{name.replace("-", "_")}-{pinned}.dist-info'
  files = {
    **files,
    f'{info}/METADATA': f'Name: {name}\nVersion: {version or pinned}\n',
  }
  files[f'{info}/RECORD'] = ''.join(f'{path},,\n' for path in files)
  for path, content in files.items():
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, bytes) else content.encode()
    (root / path).write_bytes(content)


@pytest.fixture
def packages(tmp_path, monkeypatch):
  for requirement, files in FILES.items():
    install(tmp_path, requirement, files)
  monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize('name', EXPECTED)
def test_each_source_extracts_the_text_of_its_package(packages, name):
  assert list(mini_pile.source(name).read()) == EXPECTED[name]


def test_kjv_is_cut_into_passages_and_never_imported(packages):
  passages = list(mini_pile.source('kjv').read())
  text = LONG.replace('[', '').replace(']', '')
  assert len(passages) == 1 + len(text) // 4_000
  assert sorted(''.join(passages)) == sorted(text)
  assert 'k' not in sys.modules


@pytest.mark.parametrize(
  'name', sorted(set(mini_pile.SOURCES) - {'stdlib_code', 'library_code'})
)
def test_another_version_counts_as_missing(tmp_path, monkeypatch, name):
  pin = mini_pile.source(name).requires
  install(tmp_path, pin, FILES[pin], version='9.9')
  monkeypatch.syspath_prepend(str(tmp_path))
  with pytest.raises(
    documents.MissingSource, match=f'pip install {pin}.*9.9 is installed'
  ):
    list(mini_pile.source(name).read())


def test_an_absent_package_is_a_missing_source():
  with pytest.raises(documents.MissingSource, match='not installed'):
    mini_pile.installed_files('no-such-package-here==1.0', '.json')


def test_a_package_without_the_file_is_a_missing_source(packages):
  with pytest.raises(documents.MissingSource, match='lists no file'):
    mini_pile.installed_files(mini_pile.WIKI, 'summaries_xx.json')


def test_an_unknown_source_error_lists_the_sources():
  with pytest.raises(ValueError, match="botocore_docs, gcide.*got 'wiki_de'"):
    mini_pile.source('wiki_de')


def test_the_standard_library_is_read_without_its_tests():
  texts = list(mini_pile.source('stdlib_code').read())
  assert any('class JSONDecoder' in text for text in texts)
  assert not any('def test_main' in text for text in texts)
  assert max(map(len, texts)) <= 40_000
  assert texts == list(mini_pile.source('stdlib_code').read())


def test_code_of_libraries_is_that_of_installed_packages():
  texts = list(mini_pile.source('library_code').read())
  assert any('def value_and_grad' in text for text in texts)
  assert sum(map(len, texts)) > 10_000_000
  assert texts == list(mini_pile.source('library_code').read())


def test_max_characters_cuts_no_document_of_kjv():
  """The hash is of a corpus from before `max_characters` existed."""
  try:
    texts = list(mini_pile.source('kjv').read())
  except documents.MissingSource as missing:
    pytest.skip(str(missing))
  assert 200_000 < max(map(len, texts)) < documents.MAX_CHARACTERS
  source = mini_pile.source('kjv')
  collection = documents.collect(
    [source], cap_bytes=5e6, held_out_fraction=0.05
  )
  assert collection.domains['kjv']['oversized_cut'] == 0
  assert collection.domains['kjv']['sha256'].startswith('dcb9cad3a8a1604d')
