"""The localized, tempered posterior that the LLC is an expectation under."""

from collections.abc import Callable

from rllc_jax import trees
from rllc_jax import types


def localized_potential(
  loss: Callable[[types.Position], types.Array],
  center: types.Position,
  posterior: types.Posterior,
) -> types.Potential:
  r"""Returns the potential whose Gibbs measure is the localized posterior.

  The density over the weights that move is :math:`e^{-U(u)}`, with

  .. math:: U(u) = n\beta\,\ell(u) + \tfrac{\gamma}{2}\lVert u - u^*\rVert^2

  The loss is a mean, so `nbeta` alone sets the scale: a larger minibatch makes
  :math:`U` less noisy, not larger.

  Args:
    loss: `loss(position) -> []`, of this step's minibatch, in nats per token.
    center: :math:`u^*`, the part of the checkpoint that moves.
    posterior: :math:`n\beta` and :math:`\gamma`.

  Returns:
    The potential, in its parts.

  Examples:
    >>> import jax.numpy as jnp
    >>> potential = localized_potential(
    ...     lambda u: jnp.sum(u**2), jnp.zeros(2), types.Posterior(10.0, 4.0))
    >>> u = jnp.ones(2)
    >>> print(potential.nbeta * potential.loss(u) + potential.tether(u))
    24.0
  """

  def tether(position):
    displacement = trees.subtract(position, center)
    square = trees.dot(displacement, displacement)
    return 0.5 * posterior.localization * square

  return types.Potential(loss, tether, posterior.nbeta)
