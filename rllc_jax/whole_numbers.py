"""Checks of whole numbers: 200, 200.0 and np.int64(200) are the same."""

import operator
from typing import Any

import numpy as np


def whole_number(name: str, value: Any, reason: str = 'it counts') -> int:
  """Returns a whole number as a Python int.

  Python's, because NumPy's and JAX's integers hash and compile as another
  argument, and a float breaks caches that were filled by an int.

  Args:
    name: of the argument, for the message.
    value: an int, or a float or an array of shape [] that holds one.
    reason: why it must be whole, for the message.

  Raises:
    ValueError: if it is anything else, True and False included.

  Examples:
    >>> whole_number('num_draws', 200.0)
    200
    >>> whole_number('num_draws', np.int64(200))
    200
  """
  array = np.asarray(value)
  # Not 'b': True is no count.
  if array.shape == () and array.dtype.kind in 'iu':
    return operator.index(array.item())
  if array.shape == () and array.dtype.kind == 'f':
    if np.isfinite(array) and array == np.floor(array):
      return int(array)
  raise ValueError(
    f'{name} must be a whole number, because {reason}; got {value!r}.'
  )
