"""What is said of files that are not as they were written."""

import pathlib
import warnings

from rllc_jax.results import traces


def error(path: pathlib.Path, came: str) -> traces.StoreError:
  """For those who want to read it."""
  return traces.StoreError(
    f'{path} must be as it was written, or its numbers would be wrong; got '
    f'{came}. Run the estimation again, with process 0 if there are several: '
    'it does what is damaged anew.'
  )


def say_again(path: pathlib.Path, came: object) -> None:
  """For those who can do it again: a warning, and nothing is lost but time."""
  warnings.warn(
    f'{path} was expected to be as it was written; got {came}. What is '
    'damaged is done again.',
    stacklevel=3,
  )
