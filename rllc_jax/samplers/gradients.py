"""Value and gradients of a potential, for the kernels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types


class Gradients(NamedTuple):
  r"""Values and gradients of a potential at a position.

  Attributes:
    value: [], :math:`U`.
    loss: [], :math:`\ell`, of the minibatch.
    of_loss: :math:`\nabla\ell`, like the position.
    of_potential: :math:`\nabla U`, like the position.
  """

  value: types.Array
  loss: types.Array
  of_loss: types.Position
  of_potential: types.Position


def gradients(
  potential: types.Potential, position: types.Position
) -> Gradients:
  """Evaluates a potential; one forward and one backward pass of the loss.

  Examples:
    >>> potential = types.Potential(
    ...     loss=lambda u: 0.5 * u**2, tether=lambda u: u**2, nbeta=10.0)
    >>> at_3 = gradients(potential, jnp.float32(3))
    >>> print(at_3.value, at_3.loss, at_3.of_loss, at_3.of_potential)
    54.0 4.5 3.0 36.0
  """
  loss, of_loss = jax.value_and_grad(potential.loss)(position)
  # Apart from the loss: preconditioners follow the loss's gradient alone.
  tether, of_tether = jax.value_and_grad(potential.tether)(position)
  of_potential = jax.tree.map(
    lambda g, t: potential.nbeta * g + t, of_loss, of_tether
  )
  value = potential.nbeta * loss + tether
  return Gradients(value, loss, of_loss, of_potential)


def squared_length(
  gradient: types.Position,
  G: types.Position,
  other: types.Position | None = None,
) -> types.Array:
  r"""The length of a gradient as a preconditioner sees it, :math:`g^T G g`.

  Args:
    gradient: g, like the position.
    G: like the position, or one number a leaf.
    other: h, for the inner product :math:`g^T G h` instead.

  Examples:
    >>> print(squared_length({'a': jnp.ones(3)}, {'a': 2.0}))
    6.0
  """
  other = gradient if other is None else other
  return trees.dot(jax.tree.map(jnp.multiply, G, gradient), other)
