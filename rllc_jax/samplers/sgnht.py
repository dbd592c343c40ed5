r"""Stochastic gradient Nosé-Hoover thermostat: SGHMC that sets its friction.

Ding, Fang, Babbush, Chen, Skeel and Neven, "Bayesian Sampling Using Stochastic
Gradient Thermostats", NeurIPS 2014, algorithm 2, in velocities: with the step h
of the paper, :math:`\epsilon = 2 h^2` and :math:`v = h p`. blackjax moves the
position by the velocity *before* it is updated: another integrator, whose
updates of momentum and thermostat are this one's.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.samplers import gradients
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sghmc


class SGNHTState(NamedTuple):
  r"""The state of a chain between steps.

  Attributes:
    position: the weights that move.
    velocity: like the position, in coordinates :math:`G^{-1/2} u`; starts at 0.
    thermostat: [], the friction beyond what balances the injected noise.
    memory: of the preconditioner.
  """

  position: types.Position
  velocity: types.Position
  thermostat: types.Array
  memory: Any


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def sgnht(
  diffusion: float = 1.0,
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""Builds the SGNHT kernel for the density :math:`e^{-U}`.

  With :math:`\alpha = A \sqrt{\epsilon / 2} + s` and
  :math:`\xi \sim \mathcal{N}(0, I)`,

  .. math::
    v' &= (1 - \alpha) v - \tfrac{\epsilon}{2} \sqrt G\, \nabla\hat U(u)
      + \sqrt{A \sqrt{\epsilon / 2}\, \epsilon}\,\xi \\
    u' &= u + \sqrt G\, v' \\
    s' &= s + \lVert v' \rVert^2 / d - \epsilon / 2

  Whatever heats the chain, minibatch noise above all, raises the friction s
  until :math:`\lVert v \rVert^2 / d` is :math:`\epsilon / 2` again. One
  thermostat serves all d weights: noise that is not the same for all is made up
  for on average only.

  Known bias: a velocity of that size belongs to a temperature of
  :math:`1 - \alpha / 2`, so :math:`E[\delta \cdot \nabla U]`, and with it an
  estimate in a bowl, is *too low* by the share :math:`E[\alpha] / 2`, whatever
  the curvature. Without minibatch noise that is about
  :math:`A \sqrt{\epsilon / 8}`, halved when :math:`\epsilon` falls 4-fold; in
  a bowl with n beta h = 100 and truth 5, at A = 1, the limits are 4.879, 4.943
  and 4.972 at :math:`\epsilon` = 4e-3, 1e-3 and 2.5e-4. SGHMC has no such bias.
  Noise of variance C in the gradient of U raises :math:`\alpha` by
  :math:`\epsilon C / 4`. There is no stationary law once the two sources make
  it pass 1.

  The velocity forgets in some :math:`1 / \alpha` steps: give `burn_in` if the
  default, which knows the localization only, is not ten times that.

  Stationarity of :math:`\delta^T G^{-1} \delta`, :math:`\delta^T G^{-1/2} v`
  and s says

  .. math::
    E[\delta \cdot \nabla\hat U]
      + \tfrac{1}{\epsilon} E[\alpha \lVert v \rVert^2] = d

  up to the covariance of the chain's two energies, which the thermostat all but
  removes: 0.2 % at d = 1 and :math:`\epsilon a = 1`, less with more weights.

  Args:
    diffusion: A, above 0, in the units of 1 / h. Static.
    preconditioner: G; 1 by default.

  Returns:
    A sampler of `SGNHTState`; its step takes :math:`\epsilon`, traced.

  Raises:
    ValueError: if diffusion is not positive.

  Examples:
    >>> bowl = types.Potential(lambda u: 0.5 * u @ u, lambda u: 0.0 * u @ u, 1)
    >>> kernel = sgnht()
    >>> state = kernel.init(jnp.zeros(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.02))
    >>> heat = state.velocity @ state.velocity / 2
    >>> print(bool(jnp.allclose(state.thermostat, heat - 0.01)))
    True
  """
  if not diffusion > 0:
    raise ValueError(
      'diffusion must be positive, because it is the noise that makes the '
      f'chain forget; got {diffusion}.'
    )
  preconditioner = preconditioner or preconditioners.identity()

  def init(position):
    velocity = jax.tree.map(jnp.zeros_like, position)
    memory = preconditioner.init(position)
    thermostat = trees.dot(velocity, velocity)  # 0, in the chain's precision.
    return SGNHTState(position, velocity, thermostat, memory)

  def step(rng_key, state, potential, step_size):
    current = gradients.gradients(potential, state.position)
    memory, G = preconditioner.update(state.memory, current.of_loss)
    injected = diffusion * jnp.sqrt(step_size / 2)
    friction = injected + state.thermostat
    position, velocity = sghmc.move(
      rng_key,
      state.position,
      state.velocity,
      current.of_potential,
      G,
      step_size,
      friction,
      injected,
    )
    # The thermostat compares the new velocity with its target, epsilon / 2.
    square = trees.dot(velocity, velocity)
    thermostat = state.thermostat + square / trees.size(velocity)
    thermostat -= step_size / 2
    # The equilibrium ratio takes the velocity before the step.
    before = trees.dot(state.velocity, state.velocity)
    correction = -friction * before / step_size
    recorded = {'relative_bias': -friction / 2}  # Of the docstring.
    info = types.SamplerInfo(
      current.loss, current.of_potential, correction, recorded, 0.0, 0.0
    )
    return SGNHTState(position, velocity, thermostat, memory), info

  name = preconditioners.sampler_name(
    'sgnht', preconditioner, f'diffusion={diffusion}'
  )
  bias = f'too low by a share of about {diffusion} sqrt(step_size / 8)'
  bias = '; '.join(filter(None, (bias, preconditioner.bias)))
  return types.Sampler(name, init, step, bias)
