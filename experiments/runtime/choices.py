"""Builds the data of a run from settings."""

from collections.abc import Iterable
from collections.abc import Sequence
import pathlib
import re

import numpy as np
import tokenizers as hf_tokenizers

from experiments.runtime import sections
from rllc_jax import types
from rllc_jax.data import documents
from rllc_jax.data import mini_pile
from rllc_jax.data import packing
from rllc_jax.data import synthetic
from rllc_jax.data import token_classes
from rllc_jax.data import tokenizers


def source(name: str) -> documents.Source:
  """The text source of a name: of the mini-Pile, or a planted language."""
  if name in synthetic.LANGUAGES:
    return synthetic.source(name)
  return mini_pile.source(name)


def tokenizer(
  settings: sections.Corpus, texts: Iterable[str]
) -> hf_tokenizers.Tokenizer:
  """The configured tokenizer, learned from texts or read from a file.

  Raises:
    ValueError: if there is none of that name.
  """
  trainers = {'bpe': tokenizers.train, 'words': tokenizers.train_words}
  if settings.tokenizer in trainers:
    return trainers[settings.tokenizer](texts, settings.vocab_size)
  if settings.tokenizer.endswith('.json'):
    return tokenizers.load_foreign(pathlib.Path(settings.tokenizer))
  raise ValueError(
    f'config.corpus.tokenizer must be one of {", ".join(trainers)}, or the '
    f'path of a tokenizer.json; got {settings.tokenizer!r}.'
  )


def classed_tokens(
  corpus: packing.Corpus, directory: pathlib.Path, code: Sequence[str]
) -> types.ClassedTokens:
  """The tokens of a corpus with their properties.

  Args:
    corpus: the tokens.
    directory: with `tokenizer.json`.
    code: domains that are code; absent ones are skipped.
  """
  spellings = texts(corpus, directory)
  places = [
    window
    for name, window in corpus.windows.items()
    if name.split('/')[-1] in code  # Such as train/DOMAIN.
  ]
  classes = token_classes.classify(corpus.tokens, spellings, places)
  return types.ClassedTokens(corpus.tokens, classes)


def texts(corpus: packing.Corpus, directory: pathlib.Path) -> list[str]:
  """The text of each token id, by the `tokenizer.json` of a corpus."""
  own = _saved_tokenizer(directory)
  if own is None:
    return [f'{i} ' for i in range(corpus.vocab_size)]
  return [tokenizers.decode(own, [i]) for i in range(corpus.vocab_size)]


def ordinary_ids(corpus: packing.Corpus, directory: pathlib.Path) -> np.ndarray:
  """The ids of ordinary tokens, [n]; of a corpus of ids, those in it."""
  own = _saved_tokenizer(directory)
  if own is None:
    present = np.unique(corpus.tokens)
    return present[present != corpus.eos_id]
  ids = tokenizers.ordinary_ids(own)
  return ids[ids != corpus.eos_id]


def _saved_tokenizer(directory: pathlib.Path) -> hf_tokenizers.Tokenizer | None:
  """The tokenizer of a corpus; None if it was made of ids."""
  path = directory / 'tokenizer.json'
  if not path.exists():
    return None
  settings = packing.load_record(directory)['provenance'].get('settings', {})
  is_foreign = str(settings.get('tokenizer')).endswith('.json')
  load = tokenizers.load_foreign if is_foreign else tokenizers.load
  return load(path)


def weighted_windows(
  names: Sequence[str], corpus: packing.Corpus, classed: types.ClassedTokens
) -> dict[str, types.WeightedWindow]:
  """Data sets by name: WINDOW, or WINDOW@PROPERTY+PROPERTY."""
  windows, classes = {}, np.asarray(classed.classes)
  for name in names:
    place, *properties = re.split('[@+]', name)
    if place not in corpus.windows:
      raise ValueError(
        'config.estimation.datasets must name windows of the corpus, '
        f'{", ".join(corpus.windows)}, or properties of their tokens as in '
        f'{place}@repeated; got {name!r}.'
      )
    windows[name] = token_classes.window(
      corpus.windows[place], classes, properties
    )
  return windows


def directory_name(field: str, name: str) -> str:
  """Checks the name of a directory below the workdir, and returns it.

  Raises:
    ValueError: if it is not a plain name.
  """
  # No '/' and no leading '.', so that the directory lies in the workdir.
  if not re.fullmatch(r'[A-Za-z0-9][\w.-]*', name):
    raise ValueError(
      f'config.{field} must be letters, digits, _, - and ., because it names '
      f'a directory in the workdir; got {name!r}.'
    )
  return name
