"""Parsers of foreign files, with valid examples and checks of any result."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import io
import json
import pathlib
import re
import tempfile
from typing import NamedTuple
import zlib

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from experiments.checks import fuzz_inputs
from experiments.runtime import json_config
from experiments.runtime import sections
from rllc_jax import checked_files
from rllc_jax.data import corpora
from rllc_jax.data import documents
from rllc_jax.data import files
from rllc_jax.data import packing
from rllc_jax.data import tokenizers

Files = Mapping[str, bytes]

_TEXTS = (
  'The first text, which is long enough to be kept as a document.',
  'zweite Zeile\nmit Umbruch, «naïve» 三 \u2028 🙂 und noch etwas mehr Text',
  'to be or not to be ' * 20,
)
_MAX_EXPANSION = 1_000  # Characters of text a byte of a file.


class Parser(NamedTuple):
  """A parser with examples of its files.

  Attributes:
    name: of the kind of files.
    examples: makes valid sets of files, {name: content} each.
    read: `read(directory)` parses such files and asserts facts on the result.
    share: of all inputs; slow parsers get fewer.
    seal: corrects checksums after damage, as an attacker would.
  """

  name: str
  examples: Callable[[], Sequence[Files]]
  read: Callable[[pathlib.Path], None]
  share: float = 1.0
  seal: Callable[[Files], Files] = lambda contents: contents


def make_input(
  parser: Parser, examples: Sequence[Files], rng: np.random.Generator
) -> Files:
  """Makes a set of files with damage in one of them."""
  example = examples[int(rng.integers(len(examples)))]
  name = list(example)[rng.integers(len(example))]
  donors = [x[name] for x in examples if name in x]
  if name.endswith('.json') and rng.integers(3):
    damaged = fuzz_inputs.change_json(example[name], rng)
  else:
    damaged = fuzz_inputs.change(example[name], donors, rng)
  contents = {**example, name: damaged}
  # Wrong checksums, tried in a quarter of the inputs, hide all later checks.
  return parser.seal(contents) if rng.integers(4) else contents


# Texts.


def _jsonl_examples() -> Sequence[Files]:
  lines = [json.dumps({'id': i, 'text': x}) for i, x in enumerate(_TEXTS)]
  plain = [json.dumps({'text': x}, ensure_ascii=False) for x in _TEXTS]
  return [
    {'web.jsonl': '\n'.join(x).encode()} for x in (lines, plain, lines[:1])
  ]


def _parquet_examples() -> Sequence[Files]:
  kinds = pa.string(), pa.large_string()
  ways = (
    {'compression': 'none', 'use_dictionary': False},
    {'compression': 'snappy', 'row_group_size': 2},
    {'compression': 'gzip', 'data_page_version': '2.0'},
    {'compression': 'zstd', 'write_page_checksum': True},
    {'compression': 'none', 'column_encoding': 'DELTA_BYTE_ARRAY'},
  )
  return [
    {'web.parquet': _table(kind, {'use_dictionary': i < 2, **way})}
    for i, way in enumerate(ways)
    for kind in kinds
  ]


def _table(kind: pa.DataType, options: Mapping) -> bytes:
  content = io.BytesIO()
  table = pa.table({'text': pa.array(_TEXTS, kind), 'n': range(len(_TEXTS))})
  if 'column_encoding' in options:
    table = table.select(['text'])
  parquet.write_table(table, content, **options)
  return content.getvalue()


def _read_texts(name: str, directory: pathlib.Path) -> None:
  path = directory / name
  characters = 0
  for text in files.source(str(path)).read():
    assert text is not None  # Nulls are refused.
    documents.content_key(documents.clean(text))
    characters += len(text)
  assert characters <= _MAX_EXPANSION * path.stat().st_size


def _read_plain(directory: pathlib.Path) -> None:
  path = directory / 'web.txt'
  text = ''.join(filter(None, files.source(str(path)).read()))
  assert text == path.read_bytes().decode('utf-8-sig')


# A tokenizer.


def _tokenizer_examples() -> Sequence[Files]:
  trained = (
    tokenizers.train(_TEXTS, 280),
    tokenizers.train([], 257),
    tokenizers.train_words(_TEXTS, 30),
  )
  return [{'tokenizer.json': x.to_str().encode()} for x in trained]


def _read_tokenizer(directory: pathlib.Path) -> None:
  tokenizer = tokenizers.load(directory / 'tokenizer.json')
  size, probe = tokenizer.get_vocab_size(), ' '.join(_TEXTS)
  assert 0 <= tokenizers.eos_id(tokenizer) < size
  [ids] = tokenizers.encode(tokenizer, [probe])
  assert ids.max() < size
  decoded = tokenizers.decode(tokenizer, ids)
  words = decoded.split() + probe.split()
  assert decoded == probe or len(words) == 2 * len(decoded.split())


# A corpus.


def corpus_examples() -> Sequence[Files]:
  rows = np.full((9, 6), 30)
  rows[:, 1:] = np.arange(45).reshape(9, 5) % 30
  corpus = packing.arrange(
    {'a': rows[:4], 'b': rows[4:6]},
    {'a': rows[6:]},
    {'f': rows[:1]},
    vocab_size=31,
    eos_id=30,
  )
  domain = {'documents': 3, 'bytes': 5, 'further': False, 'license': 'own'}
  provenance = {
    'domains': {'a': domain},
    'skipped': {'b': 'needs a package'},
    'settings': {'vocab_size': 31},
    'documents': 'documents/corpus/1.0.0',
  }
  with tempfile.TemporaryDirectory() as directory:
    path = pathlib.Path(directory)
    packing.save_corpus(path, corpus, provenance)
    return [{x.name: x.read_bytes() for x in sorted(path.iterdir())}]


def seal_corpus(contents: Files) -> Files:
  """Corrects the checksums of a damaged corpus, if its record is an object."""
  try:
    record = json.loads(contents['corpus.json'])
    checksum = f'{zlib.crc32(contents["tokens.npy"]):08x}'
    if isinstance(record['files'], dict):
      record['files']['tokens.npy'] = checksum
    del record['checksum']
    record['checksum'] = checked_files.checksum(record)
    return {**contents, 'corpus.json': json.dumps(record).encode()}
  except (ValueError, TypeError, KeyError, RecursionError):
    return contents


def _read_corpus(directory: pathlib.Path) -> None:
  corpus = packing.load_corpus(directory)
  assert corpus.tokens.dtype == packing.token_dtype(corpus.vocab_size)
  assert corpus.tokens.max() < corpus.vocab_size
  assert (corpus.tokens[:, 0] == corpus.eos_id).all()
  for window in corpus.windows.values():
    assert 0 <= window.start < window.start + window.length
    assert window.start + window.length <= len(corpus.tokens)
    packing.unigram_entropy(corpus.tokens, window)
  provenance = packing.load_record(directory)['provenance']
  for domain in provenance.get('domains', {}).values():
    f'{domain.get("documents", 0):,}'


# A prepared data set.


def _tfds_examples() -> Sequence[Files]:
  texts = [
    documents.Document(
      documents.content_key(f'{split} {i}'), 'a', split, f'{i} {_TEXTS[0]}'
    )
    for split in ('train', 'held_out')
    for i in range(4)
  ]
  with tempfile.TemporaryDirectory() as directory:
    path = corpora.prepare(pathlib.Path(directory), texts, {})
    contents = {x.name: x.read_bytes() for x in sorted(path.iterdir())}
  return [{x: y for x, y in contents.items() if 'held_out' not in x}]


def _read_tfds(directory: pathlib.Path) -> None:
  source = corpora.tfds_source(str(directory), 'text', 'train')
  assert re.fullmatch(r'[\w.-]+', source.name)
  for text in filter(None, source.read()):
    documents.content_key(documents.clean(text))


# Settings.


def _config_examples() -> Sequence[Files]:
  content = {name: sections.defaults(name) for name in sections.SECTIONS}
  small = {'seed': 3, 'model': {'num_heads': 2}, 'sampling': {'burn_in': 5}}
  return [{'config.json': json.dumps(x).encode()} for x in ({**content}, small)]


def _read_config(directory: pathlib.Path) -> None:
  config = json_config.load(directory / 'config.json')
  settings = sections.read(config)
  for name in sections.SECTIONS:
    section = getattr(settings, name)
    for field, default in sections.defaults(name).items():
      value = getattr(section, field)
      value = getattr(value, 'name', value)  # A sampler, given as text.
      assert default is None or type(value) is type(default), field
  json.dumps(config.to_dict(), allow_nan=False).encode()


PARSERS: Mapping[str, Parser] = {
  parser.name: parser
  for parser in (
    Parser(
      'jsonl', _jsonl_examples, functools.partial(_read_texts, 'web.jsonl')
    ),
    Parser(
      'parquet',
      _parquet_examples,
      functools.partial(_read_texts, 'web.parquet'),
    ),
    Parser(
      'text', lambda: [{'web.txt': '\n'.join(_TEXTS).encode()}] * 2, _read_plain
    ),
    Parser('tokenizer', _tokenizer_examples, _read_tokenizer),
    Parser('corpus', corpus_examples, _read_corpus, seal=seal_corpus),
    Parser('config', _config_examples, _read_config),
    Parser('tfds', _tfds_examples, _read_tfds, share=0.1),
  )
}
