"""Documents on disk, as a TFDS data set that is read without TensorFlow.

One builder has the domain as a feature, rather than a config per domain.
Duplicates are decided over all domains at once, so one directory with all of
them is either complete or absent.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import io
import json
import os
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.data import documents

_REMEDY = (
  'Put back a copy, or remove it and run experiments.build_corpus again.'
)
_BLOCK = 1_024  # Examples a read: one at a time is six times slower.

# The keys of a class in features.json, in every spelling that TFDS reads.
_CLASSES = ('pythonClassName', 'python_class_name', 'type')
_OWN_CLASSES = 'tensorflow_datasets.core.features.'


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Writes one example per document: `text`, `domain`, `key`.

  Args:
    all_documents: those of both splits.
    provenance: stored with the data set; values ready for JSON.
    **kwargs: of the base class.
  """

  name = 'corpus'
  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    all_documents: Sequence[documents.Document],
    provenance: Mapping[str, Any],
    **kwargs: Any,
  ):
    self.all_documents = all_documents
    self._provenance = dict(provenance)
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='Documents of several domains, split by document.',
      features=tfds.features.FeaturesDict(
        {
          'text': tfds.features.Text(),
          'domain': tfds.features.Text(),
          'key': tfds.features.Text(),
        }
      ),
      metadata=tfds.core.MetadataDict(self._provenance),
    )

  def _split_generators(self, dl_manager):
    del dl_manager  # Nothing is downloaded.
    return {
      split: self._generate_examples(split) for split in ('train', 'held_out')
    }

  def _generate_examples(self, split):
    for document in self.all_documents:
      if document.split == split:
        yield (
          document.key,
          {
            'text': document.text,
            'domain': document.domain,
            'key': document.key,
          },
        )


def prepare(
  directory: pathlib.Path,
  all_documents: Sequence[documents.Document],
  provenance: Mapping[str, Any],
) -> pathlib.Path:
  """Writes documents below `directory` unless they are there already.

  Of several processes that write at once the first to finish wins, and the
  others use its files. Documents lie on disk in the order of hashed keys, which
  is as good as random and does not depend on the order of `all_documents`.

  Args:
    directory: created where needed.
    all_documents: those of both splits, without duplicates.
    provenance: stored with them; values ready for JSON.

  Returns:
    The directory of the data set, for `load_documents` or for TFDS itself.

  Raises:
    ValueError: the directory holds other documents, or damaged ones.
    OSError: the documents cannot be written.
  """
  tfds.disable_progress_bar()
  metadata = {**provenance, 'hashes': _hashes(all_documents)}
  path = pathlib.Path(directory, CorpusBuilder.name, str(CorpusBuilder.VERSION))
  with checked_files.with_path_in_errors(path):
    path.parent.mkdir(parents=True, exist_ok=True)
  with _advised(_REMEDY):
    with _as_value_error(path, 'a prepared TFDS data set'):
      builder = CorpusBuilder(
        all_documents=all_documents,
        provenance=metadata,
        data_dir=str(directory),
      )
    _write(builder, path)
    # Read back: another process may have written other documents meanwhile.
    stored = _metadata(_open(path))
  if stored != metadata:
    raise ValueError(
      f'{path}: expected the documents of this run, because a corpus is '
      'written once; got other ones (use another directory, or remove this)'
    )
  return path


def _hashes(all_documents: Sequence[documents.Document]) -> dict[str, str]:
  """Split -> a hash of its documents that ignores their order."""
  return {
    split: _hash((x.domain, x.text) for x in all_documents if x.split == split)
    for split in ('train', 'held_out')
  }


def _hash(pairs: Iterable[tuple[str, str]]) -> str:
  """Hashes pairs of domain and text, whatever their order."""
  keys = (documents.content_key(f'{domain} {text}') for domain, text in pairs)
  return documents.content_key(' '.join(sorted(keys)))


def _write(builder: CorpusBuilder, path: pathlib.Path) -> None:
  """Writes the data set, or nothing if it exists."""
  try:
    # TFDS prints to stdout whatever the level of logging.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
          try_download_gcs=False,
          compute_stats=tfds.download.ComputeStatsMode.SKIP,
        )
      )
  except FileExistsError:
    pass  # Another process finished first; `prepare` compares.
  except (OSError, RuntimeError) as error:  # The latter from array_record.
    raise OSError(
      f'{path}: expected to write {len(builder.all_documents)} documents; got '
      f'{_line(error)}. Make room and run the same command again.'
    ) from None


def load_documents(directory: pathlib.Path, split: str) -> dict[str, list[str]]:
  """Reads a data set of `prepare`: domain -> its texts, in order on disk.

  Raises:
    ValueError: its documents do not have the hash that was written.
  """
  with _advised(_REMEDY):
    pairs = _checked_pairs(_open(directory), split)
  texts: dict[str, list[str]] = {}
  for domain, text in pairs:
    texts.setdefault(domain, []).append(text)
  return texts


def _checked_pairs(builder, split: str) -> list[tuple[str, str]]:
  """Domain and text of every document of a split, verified by their hash."""
  pairs = [
    (example['domain'], example['text'])
    for example in _examples(builder, split, ('domain', 'text'))
  ]
  if _hash(pairs) != _metadata(builder).get('hashes', {}).get(split):
    raise ValueError(
      f'{builder.data_dir}: expected the documents of {split!r} that were '
      f'written; got {len(pairs)} others'
    )
  return pairs


def tfds_source(
  directory: str, text_feature: str, split: str
) -> documents.Source:
  """Builds a source that reads any data set prepared by TFDS.

  Args:
    directory: where `dataset_info.json` lies, '.../NAME/VERSION'; the domain
      is called NAME.
    text_feature: which feature holds the text, a top-level one.
    split: in the notation of TFDS, 'train' or 'train[:10%]'.

  Raises:
    ValueError: no data set lies there, it was not written as `array_record`
      (TensorFlow alone reads the others), or it has no such split or feature.
  """
  builder = _open(pathlib.Path(os.path.expanduser(directory)))
  _check_features(builder, (text_feature,))
  _data_source(builder, split)  # Fails now rather than when it is read.

  def read() -> Iterator[str]:
    with _advised('Put back a copy, or prepare it again.'):
      for example in _examples(builder, split, (text_feature,)):
        yield example[text_feature]

  documents.check_name(builder.name, builder.data_dir)
  return documents.Source(builder.name, "the user's own", None, read)


def _open(directory: pathlib.Path):
  """Opens a data set whose description names no foreign code or files."""
  with _as_value_error(directory, 'a prepared TFDS data set'):
    # Before TFDS reads the file, because it imports the classes named there.
    _check_classes(json.loads((directory / 'features.json').read_bytes()))
    builder = tfds.builder_from_directory(str(directory))
    for split in builder.info.splits.values():
      _check_inside(directory, split.filepaths)
  return builder


def _check_classes(content: Any) -> None:
  """Refuses features of other packages, because TFDS imports them by name."""
  items = enumerate(content) if isinstance(content, list) else content.items()
  for key, value in items:
    if isinstance(value, dict | list):
      _check_classes(value)
    elif key in _CLASSES and not str(value).startswith(_OWN_CLASSES):
      raise ValueError(f'a feature of another package, {value!r:.80}')


def _check_inside(directory: pathlib.Path, paths: Iterable[Any]) -> None:
  """Refuses files outside the directory, which a description may name."""
  for path in paths:
    if pathlib.Path(path).parent.resolve() != directory.resolve():
      raise ValueError(f'a file elsewhere, {str(path)!r:.200}')


def _metadata(builder) -> dict[str, Any]:
  with _as_value_error(builder.data_dir, 'the metadata of a TFDS data set'):
    return dict(builder.info.metadata or {})


def _check_features(builder, names: Sequence[str]) -> None:
  features = sorted(builder.info.features or ())
  for name in names:
    if name not in features:
      raise ValueError(
        f'{builder.data_dir}: expected a feature {name!r}, because it holds '
        f'the text; got {visible.short(", ".join(features))}'
      )


def _data_source(builder, split: str):
  expected = f'the split {split!r} as array_record, which needs no TensorFlow'
  with _as_value_error(builder.data_dir, expected):
    return builder.as_data_source(split)


def _examples(
  builder, split: str, names: Sequence[str]
) -> Iterator[dict[str, str]]:
  """Yields the named text features of every example."""
  _check_features(builder, names)
  source = _data_source(builder, split)
  for start in range(0, len(source), _BLOCK):
    rows = range(start, min(start + _BLOCK, len(source)))
    with _as_value_error(builder.data_dir, f'the examples of {split!r}'):
      block = source.__getitems__(list(rows))
    for row, example in zip(rows, block, strict=True):
      place = f'{builder.data_dir}: example {row} of {split!r}'
      yield {name: _text(example[name], name, place) for name in names}


@contextlib.contextmanager
def _as_value_error(
  directory: str | pathlib.Path, expected: str
) -> Iterator[None]:
  """Turns every exception of TFDS into a ValueError of one line."""
  try:
    yield
  except Exception as error:  # TFDS's libraries share no base class.
    raise ValueError(
      f'{directory}: expected {expected}; got {_line(error)}'
    ) from None


@contextlib.contextmanager
def _advised(remedy: str) -> Iterator[None]:
  """Appends a remedy to the message of a ValueError."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f'{error}. {remedy}') from None


def _line(error: Exception) -> str:
  """An exception as one short line."""
  return visible.short(f'{type(error).__name__}: {error}', 400)


def _text(value: Any, name: str, place: str) -> str:
  """Decodes a text feature, which TFDS returns as bytes."""
  try:
    return value.decode('utf-8')
  except (AttributeError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{place}: expected UTF-8 text in {name!r}; '
      f'got {type(value).__name__} ({error})'
    ) from None
