"""Errors and warnings about damaged files of a store."""

from typing import Any
import warnings

from rllc_jax.results import traces


def error(path: Any, problem: str) -> traces.StoreError:
  """The error that a reader of a damaged file raises."""
  return traces.StoreError(
    f'{path} must be as it was written, or its numbers would be wrong; got '
    f'{problem}. Run the estimation again: it does what is damaged anew.'
  )


def warn_recomputing(path: Any, problem: object) -> None:
  """Warns that a damaged file is put aside and its draws are sampled again."""
  warnings.warn(
    f'{path} was expected to be as it was written; got {problem}. What is '
    'damaged is done again.',
    stacklevel=3,
  )
