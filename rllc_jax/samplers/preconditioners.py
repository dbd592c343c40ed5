r"""Preconditioners: a step size of its own for every weight.

A preconditioner is a diagonal matrix :math:`G`, by which kernels multiply
:math:`\epsilon`: the drift by :math:`G`, the noise by :math:`\sqrt G`. A fixed
one is another choice of coordinates and changes no stationary law but by the
bias of finite steps. One that follows the gradients does, because kernels leave
out the curvature of :math:`G`; it says so in `bias`.

Bring one as a function pair; every kernel of this folder takes it.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax

from rllc_jax import types


class Preconditioner(NamedTuple):
  """A diagonal matrix that may follow the chain.

  Attributes:
    name: with its settings; becomes part of the sampler's name.
    init: `init(position) -> memory`.
    update: `update(memory, gradient) -> (memory, G)`: the gradient is that of
      the minibatch loss at the position that the step starts from; G > 0 is
      like the position, or one number a leaf.
    bias: as of `types.Sampler`.
  """

  name: str
  init: Callable[[types.Position], Any]
  update: Callable[[Any, types.Position], tuple[Any, types.Position]]
  bias: str = ''


@functools.cache
def identity() -> Preconditioner:
  """G = 1."""
  ones = lambda gradient: jax.tree.map(lambda _: 1.0, gradient)
  return Preconditioner(
    '', lambda position: (), lambda memory, gradient: (memory, ones(gradient))
  )


@functools.cache
def fixed(name: str, scales: Callable[[types.Position], types.Position]):
  """A G that is a function of the position at which the chain starts.

  Args:
    name: tells this function from others in the identity of a run.
    scales: `scales(position) -> G`, like the position.

  Examples:
    >>> import jax.numpy as jnp
    >>> halves = fixed('halves', lambda u: jax.tree.map(
    ...     lambda leaf: jnp.full_like(leaf, 0.5), u))
    >>> memory = halves.init(jnp.zeros(2))
    >>> memory, G = halves.update(memory, jnp.ones(2))
    >>> print(G)
    [0.5 0.5]
  """
  return Preconditioner(name, scales, lambda scales, gradient: (scales, scales))
