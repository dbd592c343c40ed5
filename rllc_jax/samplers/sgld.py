r"""Stochastic gradient Langevin dynamics.

Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics",
ICML 2011, at a constant step size and in the :math:`\epsilon/2` convention of
Lau et al., "The Local Learning Coefficient: A Singularity-Aware Complexity
Measure", AISTATS 2025 (https://arxiv.org/abs/2308.12108). blackjax's `sgld`
takes half of this step size.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types


class SGLDState(NamedTuple):
  """What the next step needs.

  Attributes:
    position: the weights that move.
  """

  position: types.Position


class SGLDInfo(NamedTuple):
  """What a step reports, at the position it started from.

  Attributes:
    loss: [], minibatch loss.
    gradient: gradient of the minibatch potential, like the position.
  """

  loss: types.Array
  gradient: types.Position


@functools.cache
def sgld(noise_scale: float = 1.0) -> types.Sampler:
  r"""Builds the SGLD kernel for the density :math:`e^{-U}`.

  .. math::
    u' = u - \tfrac{\epsilon}{2}\nabla\hat U(u) + s\sqrt{\epsilon}\,\xi,
    \qquad \xi \sim \mathcal{N}(0, I)

  Along a direction of curvature :math:`a` the chain is an autoregression of
  variance :math:`1 / (a (1 - \epsilon a / 4))`: too wide by the factor
  :math:`1 / (1 - \epsilon a / 4)`, and divergent from :math:`\epsilon a = 4`.

  Args:
    noise_scale: s. Anything but 1 samples another density; 0 is gradient
      descent on U at step :math:`\epsilon / 2`.

  Returns:
    A sampler of `SGLDState` and `SGLDInfo`; its step takes :math:`\epsilon`,
    traced, so that sweeping it does not recompile.

  Examples:
    >>> bowl = lambda u: (0.5 * u @ u, 0.5 * u @ u)
    >>> kernel = sgld()
    >>> state = kernel.init(jnp.ones(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.1))
    >>> print(info.loss, info.gradient)
    1.0 [1. 1.]
  """
  name = 'sgld' if noise_scale == 1 else f'sgld(noise_scale={noise_scale})'

  def step(rng_key, state, potential, step_size):
    potential_and_gradient = jax.value_and_grad(potential, has_aux=True)
    (_, loss), gradient = potential_and_gradient(state.position)
    noise = trees.normal_like(rng_key, state.position)
    noise_size = noise_scale * jnp.sqrt(step_size)
    position = jax.tree.map(
      lambda u, g, xi: u - step_size / 2 * g + noise_size * xi,
      state.position,
      gradient,
      noise,
    )
    return SGLDState(position), SGLDInfo(loss, gradient)

  return types.Sampler(name, SGLDState, step)
