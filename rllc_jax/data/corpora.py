"""Documents on disk, as a TFDS data set that needs no TensorFlow.

One builder with the domain as a feature, rather than a config per domain: what
is a duplicate, and so what each domain holds, is decided over all of them at
once, and one directory then either exists complete or not at all.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import io
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from rllc_jax.data import documents

_BLOCK = 1_024  # Examples a read: one at a time is six times slower.


class CorpusBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """One example a document: `text`, `domain`, `key`.

  Args:
    kept: the documents of both splits.
    provenance: stored with the data set; values ready for JSON.
    **kwargs: of the base class.
  """

  name = 'corpus'
  VERSION = tfds.core.Version('1.0.0')

  def __init__(
    self,
    *,
    kept: Sequence[documents.Document],
    provenance: Mapping[str, Any],
    **kwargs: Any,
  ):
    self._kept = kept
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
    for document in self._kept:
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
  kept: Sequence[documents.Document],
  provenance: Mapping[str, Any],
) -> pathlib.Path:
  """Writes documents below `directory`, or finds them written already.

  Of several processes that do this at once the first to finish wins, and the
  others find its work. On disk documents lie in the order of hashed keys, which
  is as good as random and does not depend on the order of `kept`.

  Args:
    directory: created where needed.
    kept: documents of both splits, without duplicates.
    provenance: stored with them; values ready for JSON.

  Returns:
    The directory of the data set, for `load_documents` or for TFDS itself.

  Raises:
    ValueError: other documents lie there.
    OSError: they cannot be written.
  """
  tfds.disable_progress_bar()
  builder = CorpusBuilder(
    kept=kept, provenance=provenance, data_dir=str(directory)
  )
  path = pathlib.Path(builder.data_dir)
  try:
    _write(builder)
  except FileExistsError:
    pass  # Another process was first.
  except RuntimeError as error:  # How array_record tells of a full disk.
    raise OSError(
      f'{path}: expected to write {len(kept)} documents; '
      f'got {" ".join(str(error).split())}'
    ) from None
  found = dict(tfds.builder_from_directory(str(path)).info.metadata or {})
  if found != dict(provenance):
    raise ValueError(
      f'{path}: expected the documents of this run, because a corpus is '
      'written once; got other ones (use another directory)'
    )
  return path


def _write(builder: CorpusBuilder) -> None:
  # TFDS prints to stdout whatever the level of logging.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(
      download_config=tfds.download.DownloadConfig(
        try_download_gcs=False,
        compute_stats=tfds.download.ComputeStatsMode.SKIP,
      )
    )


def load_documents(directory: pathlib.Path, split: str) -> dict[str, list[str]]:
  """Reads what `prepare` wrote: domain -> its texts, in the order on disk."""
  texts: dict[str, list[str]] = {}
  for example in _examples(_open(directory), split, ('text', 'domain')):
    texts.setdefault(example['domain'], []).append(example['text'])
  return texts


def tfds_source(
  directory: str, text_feature: str, split: str
) -> documents.Source:
  """A source that reads a data set which TFDS has prepared, by whomever.

  Args:
    directory: where `dataset_info.json` lies, '.../NAME/VERSION'; the domain
      is called NAME.
    text_feature: which feature holds the text, a top-level one.
    split: in the notation of TFDS, 'train' or 'train[:10%]'.

  Raises:
    ValueError: no data set lies there, it was not written as `array_record`
      (TensorFlow alone reads the others), or it has no such split or feature.
  """
  builder = _open(pathlib.Path(directory))
  features = sorted(builder.info.features or ())
  if text_feature not in features:
    raise ValueError(
      f'{directory}: expected a feature {text_feature!r}, because it holds the '
      f'text; got {", ".join(features)}'
    )
  _data_source(builder, split)  # Complains now rather than when it is read.

  def read() -> Iterator[str]:
    for example in _examples(builder, split, (text_feature,)):
      yield example[text_feature]

  return documents.Source(builder.name, "the user's own", None, read)


def _open(directory: pathlib.Path):
  try:
    return tfds.builder_from_directory(str(directory))
  except (OSError, ValueError) as error:
    raise ValueError(
      f'{directory}: expected a prepared TFDS data set; got '
      f'{" ".join(str(error).split())}'
    ) from None


def _data_source(builder, split: str):
  try:
    return builder.as_data_source(split)
  except (ValueError, NotImplementedError) as error:
    raise ValueError(
      f'{builder.data_dir}: expected the split {split!r} as array_record, '
      f'which needs no TensorFlow; got {" ".join(str(error).split())}'
    ) from None


def _examples(
  builder, split: str, names: Sequence[str]
) -> Iterator[dict[str, str]]:
  """Yields the named text features of every example."""
  source = _data_source(builder, split)
  for start in range(0, len(source), _BLOCK):
    rows = range(start, min(start + _BLOCK, len(source)))
    try:
      block = source.__getitems__(list(rows))
    except RuntimeError as error:
      raise ValueError(
        f'{builder.data_dir}: expected the examples of {split!r}; got '
        f'{" ".join(str(error).split())}'
      ) from None
    for row, example in zip(rows, block, strict=True):
      place = f'{builder.data_dir}: example {row} of {split!r}'
      yield {name: _text(example[name], name, place) for name in names}


def _text(value: Any, name: str, place: str) -> str:
  """TFDS hands a text out as bytes."""
  try:
    return value.decode('utf-8')
  except (AttributeError, UnicodeDecodeError) as error:
    raise ValueError(
      f'{place}: expected UTF-8 text in {name!r}; '
      f'got {type(value).__name__} ({error})'
    ) from None
