"""Builds a corpus: documents, tokenizer, packed tokens, and their provenance.

  python -m experiments.build_corpus --config=FILE --workdir=DIR

reads `config.corpus` and writes below `DIR/corpus`: `documents/`, a TFDS data
set; `tokenizer.json`; `tokens.npy`; and, last, `corpus.json`.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import pathlib
import platform
from typing import Any

from absl import logging
import ml_collections
import numpy as np

from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import processes
from experiments.runtime import progress
from experiments.runtime import sections
from rllc_jax import identities
from rllc_jax.data import corpora
from rllc_jax.data import documents
from rllc_jax.data import files
from rllc_jax.data import packing
from rllc_jax.data import tokenizers

_TOKENIZER_CHARACTERS = 2_000_000  # A domain; more changes few merges.


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> packing.Corpus:
  """Builds the corpus of `config.corpus`, or reads it where it is complete.

  Args:
    config: its section `corpus` has fields of `sections.Corpus`.
    workdir: the corpus goes into its subdirectory `corpus`.

  Raises:
    ValueError: a setting makes no sense, an input is not what it is said to
      be, or the corpus there was made from other settings.
  """
  settings = sections.read(config).corpus
  directory = pathlib.Path(workdir) / 'corpus'
  record = directory / 'corpus.json'
  if record.exists():
    logging.info('%s: already complete', directory)
  else:
    processes.first_does(record, lambda: _build_and_save(settings, directory))
  # In waiting processes, too: process 0 may have other settings.
  check_same(settings, directory)
  return packing.load_corpus(directory)


def _build_and_save(settings: sections.Corpus, directory: pathlib.Path) -> None:
  # Empty calls raise on invalid sizes before minutes of reading.
  packing.pack([], settings.context_length, eos_id=0)
  if settings.tokens:
    corpus, record = from_tokens(settings)
    directory.mkdir(parents=True, exist_ok=True)
    packing.save_corpus(directory, corpus, record)
    logging.info('%s: complete', directory)
    return
  choices.tokenizer(settings, [])
  collection = collect(settings)
  corpus, record = build(settings, collection, directory)
  packing.save_corpus(directory, corpus, record, files=['tokenizer.json'])
  for name, domain in record['domains'].items():
    if not domain['held_out_tokens']:
      _warn_none_held_out(name, settings, collection)
  logging.info('%s: complete\n%s', directory, table(record['domains']))


def _warn_none_held_out(
  name: str, settings: sections.Corpus, collection: documents.Collection
) -> None:
  texts = [x for x in collection.documents if x.domain == name]
  target = settings.held_out_fraction
  fraction = documents.splitting_fraction(texts, target)
  remedy = 'raise cap_mb or held_out_fraction'
  if fraction and fraction > target:
    remedy = f'held_out_fraction={fraction} holds out one document of it'
  logging.warning('nothing of %s is held out: %s', name, remedy)


def check_same(settings: sections.Corpus, directory: pathlib.Path) -> None:
  """Raises if a corpus was made from other settings; names the first one.

  A setting missing from an old corpus's record counts as its default.
  """
  record = packing.load_record(directory)['provenance'].get('settings', {})
  built = identities.identity(**sections.defaults('corpus')) | record
  asked = identities.identity(**dataclasses.asdict(settings))
  # Entries that only an old record has are settings that are no more.
  built = {name: value for name, value in built.items() if name in asked}
  difference = identities.difference(built, asked)
  if difference is not None:
    name = difference.name
    raise ValueError(
      f'{directory}: expected a corpus with {name}={difference.new!r}; got one '
      f'with {name}={difference.old!r} (use another --workdir)'
    )


def collect(settings: sections.Corpus) -> documents.Collection:
  """Reads all documents; logs and skips a missing source."""
  mix = [choices.source(name) for name in settings.sources]
  mix += files.sources(settings.files, settings.text_field, settings.nulls)
  if settings.tfds_directory:
    mix.append(
      corpora.tfds_source(
        settings.tfds_directory, settings.tfds_text_feature, settings.tfds_split
      )
    )
  further = [choices.source(name) for name in settings.further]
  with progress.bar('reading', 'source', len(mix) + len(further)) as bar:
    collection = documents.collect(
      [_with_progress(source, bar) for source in mix],
      [_with_progress(source, bar) for source in further],
      cap_bytes=settings.cap_mb * 1e6,
      held_out_fraction=settings.held_out_fraction,
      min_characters=settings.min_characters,
      max_characters=settings.max_characters,
    )
  for name, reason in collection.skipped.items():
    logging.warning('skipped %s: it %s', name, reason)
  return collection


def _with_progress(
  source: documents.Source, bar: progress.Bar
) -> documents.Source:
  """Wraps a source so that opening it advances the progress bar."""

  def read():
    bar.tick(source.name)
    yield from source.read()

  return source._replace(read=read)


def build(
  settings: sections.Corpus,
  collection: documents.Collection,
  directory: pathlib.Path,
) -> tuple[packing.Corpus, dict[str, Any]]:
  """Stores the documents, trains the tokenizer, packs the tokens.

  Returns:
    The corpus, and its provenance for `packing.save_corpus`.
  """
  provenance = {
    'domains': collection.domains,
    'skipped': collection.skipped,
    'python': platform.python_version(),
  }
  path = corpora.prepare(
    directory / 'documents', collection.documents, provenance
  )
  train, held_out = (
    corpora.load_documents(path, split) for split in ('train', 'held_out')
  )
  # Training documents only, or held-out text would shape the tokenizer.
  tokenizer = choices.tokenizer(settings, _sample(train))
  tokenizers.save(tokenizer, directory / 'tokenizer.json')
  vocab_size = tokenizer.get_vocab_size()
  is_learned = not settings.tokenizer.endswith('.json')
  if is_learned and vocab_size < settings.vocab_size:
    logging.warning(
      'the text gives %d of %d tokens', vocab_size, settings.vocab_size
    )
  corpus = _pack_all(settings, collection.domains, train, held_out, tokenizer)
  return corpus, {
    **provenance,
    'domains': _with_tokens(collection.domains, corpus),
    'settings': dataclasses.asdict(settings),
    'documents': str(path.relative_to(directory)),
  }


def from_tokens(
  settings: sections.Corpus,
) -> tuple[packing.Corpus, dict[str, Any]]:
  """Packs an array of token ids, of which the last documents are held out.

  Raises:
    ValueError: if it is no array of ids, or `special_token` is none.
  """
  path = pathlib.Path(settings.tokens)
  try:
    ids = np.load(path, allow_pickle=False)
  except (OSError, ValueError) as error:
    raise ValueError(
      f'config.corpus.tokens must be an array of token ids, .npy; {path}: '
      f'{error}.'
    ) from error
  if ids.ndim not in (1, 2) or ids.dtype.kind not in 'iu' or ids.min() < 0:
    raise ValueError(
      'config.corpus.tokens must be ids, [N, T] documents or [N] of one; got '
      f'{ids.dtype} {list(ids.shape)} in {path}.'
    )
  if not settings.special_token.isdigit():
    raise ValueError(
      'config.corpus.special_token must be the id of the token that begins a '
      f'row, because tokens are ids; got {settings.special_token!r}.'
    )
  eos_id = int(settings.special_token)
  rows = packing.pack([*np.atleast_2d(ids)], settings.context_length, eos_id)
  first = len(rows) - max(1, int(len(rows) * settings.held_out_fraction))
  corpus = packing.arrange(
    {'tokens': rows[:first]},
    {'tokens': rows[first:]},
    {},
    vocab_size=max(int(ids.max()), eos_id) + 1,
    eos_id=eos_id,
  )
  corpus = packing.with_rows_said_twice(corpus, settings.said_twice)
  return corpus, {'settings': dataclasses.asdict(settings)}


def _sample(texts: Mapping[str, list[str]]) -> Iterator[str]:
  """The first megabytes of each domain, in the hashed order on disk."""
  # Sorted, so that the sample does not depend on the order of the domains.
  for _, domain in sorted(texts.items()):
    characters = 0
    for text in domain:
      yield text
      characters += len(text)
      if characters >= _TOKENIZER_CHARACTERS:
        break


def _pack_all(settings, domains, train, held_out, tokenizer) -> packing.Corpus:
  eos_id = tokenizers.eos_id(tokenizer, settings.special_token)
  count = sum(len(texts) for texts in (*train.values(), *held_out.values()))
  with progress.bar('encoding', 'document', count) as bar:

    def pack(texts: Iterable[str]) -> np.ndarray:
      encoded = bar.each(tokenizers.encode(tokenizer, texts))
      return packing.pack(encoded, settings.context_length, eos_id)

    mix = [name for name in domains if not domains[name]['further']]
    further = [name for name in domains if domains[name]['further']]
    corpus = packing.arrange(
      {name: pack(train.get(name, [])) for name in mix},
      {name: pack(held_out.get(name, [])) for name in mix},
      {name: pack(held_out.get(name, [])) for name in further},
      vocab_size=tokenizer.get_vocab_size(),
      eos_id=eos_id,
    )
    return packing.with_rows_said_twice(corpus, settings.said_twice)


def _with_tokens(
  domains: Mapping[str, dict[str, Any]], corpus: packing.Corpus
) -> dict[str, dict[str, Any]]:
  """Adds each domain's number of packed tokens, special tokens included."""
  length = corpus.tokens.shape[1]

  def packed(window: str) -> int:
    rows = corpus.windows[window].length if window in corpus.windows else 0
    return int(rows) * length

  return {
    name: {
      **record,
      'train_tokens': packed(f'train/{name}'),
      'held_out_tokens': packed(f'held_out/{name}'),
    }
    for name, record in domains.items()
  }


def table(domains: Mapping[str, dict[str, Any]]) -> str:
  """Text table: files, documents, dropped ones, tokens and license by domain.

  "Too short", "repeated" and "null" count dropped documents, "cut" those that
  were split, each before the cap was reached.
  """
  width = max(16, *(len(name) + 2 for name in domains))
  dropped = documents.DROPPED.values()
  lines = [
    f'{"domain":<{width}}{"files":>7}{"documents":>11}{"MB":>11}'
    + ''.join(f'{label:>{len(label) + 3}}' for label in dropped)
    + f'{"train":>12}{"held out":>12}  license'
  ]
  for name, record in domains.items():
    counts = ''.join(
      f'{record[key]:>{len(label) + 3}}'
      for key, label in documents.DROPPED.items()
    )
    lines.append(
      f'{name:<{width}}{record["files"] or "":>7}{record["documents"]:>11}'
      f'{record["bytes"] / 1e6:>11.2f}{counts}{record["train_tokens"]:>12}'
      f'{record["held_out_tokens"]:>12}  {record["license"]}'
    )
  return '\n'.join(lines)


if __name__ == '__main__':
  commands.start(run, processes.connect)
