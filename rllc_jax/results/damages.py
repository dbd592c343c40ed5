"""Errors and warnings about damaged files of a store."""

import pathlib
import warnings

from rllc_jax.results import traces


def error(path: pathlib.Path, problem: str) -> traces.StoreError:
  """The error that a reader of a damaged file raises."""
  return traces.StoreError(
    f'{path} must be as it was written, or its numbers would be wrong; got '
    f'{problem}. Run the estimation again, with process 0 if there are '
    'several: it does what is damaged anew.'
  )


def warn_recomputing(path: pathlib.Path, problem: object) -> None:
  """Warns that a damaged file is dropped and its draws sampled again."""
  warnings.warn(
    f'{path} was expected to be as it was written; got {problem}. What is '
    'damaged is done again.',
    stacklevel=3,
  )
