r"""Langevin dynamics without a step-size bias in bowls, at the cost of SGLD.

Leimkuhler and Matthews, "Rational Construction of Stochastic Numerical Methods
for Molecular Sampling", 2013: the limit of high friction of their BAOAB.
Vilmart (2015) reads it as a step of Euler and Maruyama, SGLD's, at a position
that is moved by half a noise before its gradient is taken.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.samplers import gradients
from rllc_jax.samplers import preconditioners


class LeimkuhlerMatthewsState(NamedTuple):
  r"""The state of a chain between steps.

  Attributes:
    position: the weights that move.
    noise: N, like the position; half of it is in the position already. Starts
      at 0.
    memory: of the preconditioner.
  """

  position: types.Position
  noise: types.Position
  memory: Any


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def leimkuhler_matthews(
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""Builds the Leimkuhler-Matthews kernel for the density :math:`e^{-U}`.

  .. math::
    u' = u - \tfrac{\epsilon}{2} G \nabla\hat U(u)
      + \tfrac{\sqrt\epsilon}{2} (N + N'), \qquad
    N' = \sqrt G\,\xi, \quad \xi \sim \mathcal{N}(0, I)

  Along a direction of curvature :math:`a`, at G = 1, :math:`u` remembers the
  share :math:`r = 1 - \epsilon a / 2`, and :math:`E[u N] = \sqrt\epsilon / 2`.
  Its variance v solves :math:`v = r^2 v + \epsilon / 2 + r \epsilon / 2`, so
  :math:`v = 1 / a` exactly, for every :math:`\epsilon a < 4`. Noise of variance
  C in the gradient of U, as minibatches make it, is all that heats the chain:

  .. math:: a v = 1 + \frac{\epsilon C / 4}{1 - \epsilon a / 4}

  With a fixed G, :math:`\epsilon G` stands for :math:`\epsilon`, and the chain
  is stable while :math:`\epsilon` times the largest eigenvalue of
  :math:`G \nabla^2 U` is below 4.

  Outside of bowls the bias is of second order in :math:`\epsilon`, SGLD's of
  first: for :math:`U = u^4 / 4`, whose :math:`E[u^4]` is 1, this kernel is off
  by .020 and .003 at :math:`\epsilon` .4 and .2, SGLD by .139 and .058 at .2
  and .1.

  :math:`y = u - \sqrt\epsilon N / 2` is a Markov chain of its own,
  :math:`y' = y + \sqrt\epsilon N - \tfrac{\epsilon}{2} G \nabla\hat U(u)`, and
  N is independent of y. Stationarity of :math:`y^T G^{-1} y`, with
  :math:`\delta = u - u^*`, says

  .. math::
    E[\delta \cdot \nabla\hat U]
      - \tfrac{\epsilon}{4} E[\nabla\hat U^T G \nabla\hat U]
      + \tfrac{\sqrt\epsilon}{2} E[N \cdot \nabla\hat U] = d

  exactly, on any model, minibatch noise included: the equilibrium ratio. The
  two corrections cancel in a bowl; what is left of them is the bias.

  Args:
    preconditioner: G; 1 by default. One that follows the gradients breaks both
      the law and the identity, and its `bias` says so.

  Returns:
    A sampler of `LeimkuhlerMatthewsState`; its step takes :math:`\epsilon`,
    traced.

  Examples:
    >>> bowl = types.Potential(lambda u: 0.5 * u @ u, lambda u: 0.0 * u @ u, 1)
    >>> kernel = leimkuhler_matthews()
    >>> state = kernel.init(jnp.ones(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.25))
    >>> moved = state.position - (1 - 0.125)
    >>> print(bool(jnp.allclose(moved, 0.25 * state.noise)))
    True
  """
  preconditioner = preconditioner or preconditioners.identity()

  def init(position):
    noise = jax.tree.map(jnp.zeros_like, position)
    return LeimkuhlerMatthewsState(
      position, noise, preconditioner.init(position)
    )

  def step(rng_key, state, potential, step_size):
    current = gradients.gradients(potential, state.position)
    memory, G = preconditioner.update(state.memory, current.of_loss)
    noise = jax.tree.map(
      lambda xi, g: jnp.sqrt(g) * xi,
      trees.normal_like(rng_key, state.position),
      G,
    )
    position = jax.tree.map(
      lambda u, v, g, old, new: (
        u - step_size / 2 * (g * v) + jnp.sqrt(step_size) / 2 * (old + new)
      ),
      state.position,
      current.of_potential,
      G,
      state.noise,
      noise,
    )

    def correction(gradient):
      """The two corrections of the docstring, linear in `gradient`."""
      square = gradients.squared_length(current.of_potential, G, gradient)
      work = trees.dot(state.noise, gradient)
      return step_size / 4 * square - jnp.sqrt(step_size) / 2 * work

    info = types.SamplerInfo(
      current.loss,
      current.of_potential,
      correction(current.of_potential),
      {},
      jnp.nan if preconditioner.bias else correction(current.of_loss),
      jax.tree.map(lambda g: step_size * g, G),
    )
    return LeimkuhlerMatthewsState(position, noise, memory), info

  name = preconditioners.sampler_name('leimkuhler_matthews', preconditioner)
  return types.Sampler(
    name,
    init,
    step,
    preconditioner.bias,
    is_exact_in_bowls=not preconditioner.bias,
  )
