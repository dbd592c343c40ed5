"""Multiply-adds of matrix products, counted before anything is compiled.

XLA's own count takes the body of a loop once, however often it runs; here loops
count as often as they run. What is not a matrix product is left out.
"""

from collections.abc import Callable
from collections.abc import Iterator
import math
from typing import Any

import jax

from rllc_jax import types


def multiply_adds(function: Callable, *args: types.PyTree) -> int:
  """Counts the multiply-adds in the matrix products of a call.

  A loop whose length is not known when it is traced counts once, of branches
  the dearest counts, and calls of foreign kernels count nothing.

  Args:
    function: of arrays.
    *args: arrays, or their shapes.

  Examples:
    >>> x, y = jax.numpy.ones((2, 3)), jax.numpy.ones((3, 5))
    >>> multiply_adds(lambda x, y: x @ y, x, y)
    30
    >>> multiply_adds(lambda x, y: jax.lax.map(lambda row: row @ y, x), x, y)
    30
  """
  return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> int:
  return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
  if equation.primitive.name == 'dot_general':
    (contracted, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    length = math.prod(shape[i] for i in contracted)
    return length * equation.outvars[0].aval.size
  inner = [_count(jaxpr) for jaxpr in _inner(equation.params)]
  if equation.primitive.name == 'cond':
    return max(inner)
  return sum(inner) * equation.params.get('length', 1)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """The programs that an equation holds."""
  for value in params.values():
    for part in value if isinstance(value, tuple) else (value,):
      part = getattr(part, 'jaxpr', part)
      if hasattr(part, 'eqns'):
        yield part
