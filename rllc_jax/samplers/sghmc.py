r"""Stochastic gradient Hamiltonian Monte Carlo: SGLD with a velocity.

Chen, Fox and Guestrin, "Stochastic Gradient Hamiltonian Monte Carlo", ICML 2014
(https://arxiv.org/abs/1402.4102), equation 15, at a constant step size
:math:`\eta = \epsilon / 2` and without an estimate of the gradient's noise. The
velocity is never drawn anew, so there are no trajectories to set the length of.
blackjax moves the position by the velocity *before* it is updated: another
integrator, whose momentum update is this one's.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.samplers import gradients
from rllc_jax.samplers import preconditioners


class SGHMCState(NamedTuple):
  r"""The state of a chain between steps.

  Attributes:
    position: the weights that move.
    velocity: like the position, in coordinates :math:`G^{-1/2} u`; starts at 0.
    memory: of the preconditioner.
  """

  position: types.Position
  velocity: types.Position
  memory: Any


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def sghmc(
  friction: float = 0.1,
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""Builds the SGHMC kernel for the density :math:`e^{-U}`.

  .. math::
    v' &= (1 - \alpha) v - \tfrac{\epsilon}{2} \sqrt G\, \nabla\hat U(u)
      + \sqrt{\alpha\epsilon}\,\xi, \qquad \xi \sim \mathcal{N}(0, I) \\
    u' &= u + \sqrt G\, v'

  Friction 1 is SGLD at the same :math:`\epsilon`, to the bit. Less friction
  goes along flat directions :math:`1 / \alpha` times faster; along steep ones
  it swings, and forgets in some :math:`2 / \alpha` steps. Give `burn_in` if the
  default, which knows the localization only, is not five times that.

  Along a direction of curvature :math:`a` the stationary variance is

  .. math:: 1 \big/ \left(a
      \left(1 - \tfrac{\epsilon G a}{4 (2 - \alpha)}\right)\right)

  too wide by half as much as SGLD's at most, and divergent from
  :math:`\epsilon G a = 4 (2 - \alpha)`. Noise of variance C in the gradient of
  U is worse than there: a factor :math:`1 + \epsilon C / (4 \alpha)`.

  With fresh minibatches and a fixed G, stationarity of
  :math:`\delta^T G^{-1} \delta`, :math:`\delta^T G^{-1/2} v` and
  :math:`v^T v` says, exactly and on any model,

  .. math::
    E[\delta \cdot \nabla\hat U]
      - \tfrac{\epsilon}{4\alpha} E[\nabla\hat U^T G \nabla\hat U]
      + \tfrac{1 - \alpha}{\alpha} E[v \cdot \sqrt G\, \nabla\hat U] = d

  Args:
    friction: :math:`\alpha`, in (0, 1]: the share of the velocity that a step
      takes away. Static.
    preconditioner: G; 1 by default.

  Returns:
    A sampler of `SGHMCState`; its step takes :math:`\epsilon`, traced.

  Raises:
    ValueError: if friction is not in (0, 1].

  Examples:
    >>> bowl = types.Potential(lambda u: 0.5 * u @ u, lambda u: 0.0 * u @ u, 1)
    >>> kernel = sghmc(friction=0.5)
    >>> state = kernel.init(jnp.ones(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.1))
    >>> print(bool((state.position == 1 + state.velocity).all()))
    True
  """
  if not 0 < friction <= 1:
    raise ValueError(
      'friction must be above 0 and at most 1, because it is the share of the '
      f'velocity that a step takes away; got {friction}.'
    )
  preconditioner = preconditioner or preconditioners.identity()

  def init(position):
    velocity = jax.tree.map(jnp.zeros_like, position)
    return SGHMCState(position, velocity, preconditioner.init(position))

  def step(rng_key, state, potential, step_size):
    current = gradients.gradients(potential, state.position)
    memory, G = preconditioner.update(state.memory, current.of_loss)
    position, velocity = move(
      rng_key,
      state.position,
      state.velocity,
      current.of_potential,
      G,
      step_size,
      friction,
      friction,
    )
    square = gradients.squared_length(current.of_potential, G)
    root = jax.tree.map(jnp.sqrt, G)
    # The inner product v . sqrt(G) grad U of the docstring.
    power = gradients.squared_length(state.velocity, root, current.of_potential)
    correction = step_size / 4 * square / friction
    correction -= (1 - friction) / friction * power
    square = gradients.squared_length(current.of_potential, G, current.of_loss)
    power = gradients.squared_length(state.velocity, root, current.of_loss)
    of_loss = step_size / 4 * square / friction
    of_loss -= (1 - friction) / friction * power
    info = types.SamplerInfo(
      current.loss,
      current.of_potential,
      correction,
      {},
      jnp.nan if preconditioner.bias else of_loss,
      jax.tree.map(lambda g: step_size * g / friction, G),
    )
    return SGHMCState(position, velocity, memory), info

  name = preconditioners.sampler_name(
    'sghmc', preconditioner, f'friction={friction}'
  )
  return types.Sampler(name, init, step, preconditioner.bias)


def move(
  rng_key: types.Key,
  position: types.Position,
  velocity: types.Position,
  gradient: types.Position,
  G: types.Position,
  step_size: types.Array,
  friction: types.Array | float,
  injected: types.Array | float,
) -> tuple[types.Position, types.Position]:
  r"""Takes the step of the equations above. The key is consumed.

  Args:
    rng_key: of the noise.
    position: u.
    velocity: v.
    gradient: of the potential at u.
    G: like the position, or one number a leaf.
    step_size: [], epsilon.
    friction: [], of the velocity.
    injected: [], the friction that the noise of variance
      :math:`\epsilon \times` `injected` balances.

  Returns:
    (u', v').
  """
  noise = trees.normal_like(rng_key, position)
  keep = 1 - friction
  swing = jax.tree.map(
    lambda v, f, g, xi: (
      keep * v
      - step_size / 2 * (jnp.sqrt(g) * f)
      + jnp.sqrt(injected * step_size) * xi
    ),
    velocity,
    gradient,
    G,
    noise,
  )
  # This is u + sqrt(G) v', summed in the order of SGLD, so that friction 1
  # rounds alike.
  position = jax.tree.map(
    lambda u, v, f, g, xi: (
      u
      + keep * (jnp.sqrt(g) * v)
      - step_size / 2 * (g * f)
      + jnp.sqrt(injected * step_size * g) * xi
    ),
    position,
    velocity,
    gradient,
    G,
    noise,
  )
  return position, swing
