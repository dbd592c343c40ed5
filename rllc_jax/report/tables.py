"""Tables as data, and the formatting of numbers with errors."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.estimators import health

MISSING = '–'


class Cell(NamedTuple):
  """An entry of a table.

  Attributes:
    text: its content.
    marked: True for a value that needs attention.
  """

  text: str
  marked: bool = False


class Table(NamedTuple):
  """Rows under a header.

  Attributes:
    header: a word a column.
    rows: as wide as the header.
    num_words: the number of columns, from the left, that hold words.
  """

  header: tuple[str, ...]
  rows: Sequence[tuple[Cell, ...]]
  num_words: int = 1


def with_error(value: float, error: float) -> str:
  """Formats a value and its error, both to two digits of the error.

  Examples:
    >>> print(with_error(12.3456, 0.0789), with_error(1234.5, 67.8))
    12.346 ± 0.079 1234 ± 68
    >>> print(with_error(float('nan'), 1.0))
    –
  """
  if not np.isfinite(value):
    return MISSING
  # Without a positive error nothing tells the number of digits.
  if not np.isfinite(error) or error <= 0:
    return f'{value:.4g}'
  digits = decimals(error)
  return f'{value:.{digits}f} ± {error:.{digits}f}'


def decimals(error: float) -> int:
  """The digits after the point that show two digits of an error."""
  if not np.isfinite(error) or error <= 0:
    return 2
  return int(np.clip(1 - np.floor(np.log10(error)), 0, 8))


def number(value: float, form: str) -> str:
  """Formats a number, or a dash where it is not finite.

  Examples:
    >>> print(number(1234.5, ',.0f'), number(float('nan'), '.2f'))
    1,234 –
  """
  return format(value, form) if np.isfinite(value) else MISSING


def missing_cells(estimates: xr.Dataset) -> list[str]:
  """Lists cells without an estimate, one line per checkpoint and data set.

  Args:
    estimates: from `llc_from_traces`.
  """
  lines = []
  absent = health.absences(estimates).sortby('checkpoint')
  for step in absent.checkpoint.values:
    for dataset in absent.dataset.values:
      row = absent.sel(checkpoint=step, dataset=dataset)
      parts = [str(name) for name in row.refinement.values[row.values]]
      if parts:
        what = 'everything' if len(parts) == row.size else ', '.join(parts)
        lines.append(f'step {int(step):,}, {dataset}: {what}')
  return lines
