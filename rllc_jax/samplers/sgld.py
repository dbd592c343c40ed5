r"""Stochastic gradient Langevin dynamics.

Welling and Teh, "Bayesian Learning via Stochastic Gradient Langevin Dynamics",
ICML 2011, at a constant step size and in the :math:`\epsilon/2` convention of
Lau et al., "The Local Learning Coefficient: A Singularity-Aware Complexity
Measure", AISTATS 2025 (https://arxiv.org/abs/2308.12108). blackjax's `sgld`
takes half of this step size.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.samplers import gradients
from rllc_jax.samplers import preconditioners


class SGLDState(NamedTuple):
  """The state of a chain between steps.

  Attributes:
    position: the weights that move.
    memory: of the preconditioner.
  """

  position: types.Position
  memory: Any


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def sgld(
  noise_scale: float = 1.0,
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""Builds the SGLD kernel for the density :math:`e^{-U}`.

  .. math::
    u' = u - \tfrac{\epsilon}{2} G \nabla\hat U(u) + s\sqrt{\epsilon G}\,\xi,
    \qquad \xi \sim \mathcal{N}(0, I)

  Along a direction of curvature :math:`a` the chain is an autoregression of
  variance :math:`1 / (a (1 - \epsilon G a / 4))`: too wide by the factor
  :math:`1 / (1 - \epsilon G a / 4)`, and divergent from
  :math:`\epsilon G a = 4`.

  With fresh minibatches and a fixed G, stationarity of
  :math:`\delta^T G^{-1} \delta`, :math:`\delta = u - u^*`, says

  .. math::
    E[\delta \cdot \nabla\hat U]
      - \tfrac{\epsilon}{4} E[\nabla\hat U^T G \nabla\hat U] = d

  exactly, on any model, minibatch noise included: the equilibrium ratio. To
  first order in :math:`\epsilon` an estimate is too high by

  .. math:: \tfrac{\epsilon}{8} \left(
      E[\nabla\hat U^T G\, n\beta\nabla\hat\ell]
      - \operatorname{Cov}[n\beta\ell, \operatorname{tr} G \nabla^2 U] \right)

  (expand the generator of a step to :math:`\epsilon^2`; the covariance is 0 in
  a bowl and positive where curvature grows away from the center).
  :math:`n\beta / 2` times `loss_correction` is the first term: exact at every
  :math:`\epsilon` in a bowl without minibatch noise. With noise of covariance C
  it has tr C where tr KC, :math:`K = n\beta H (n\beta H + \gamma)^{-1}`, is
  due; see `estimators.minibatch_noise` for the difference.

  Args:
    noise_scale: s. Anything but 1 samples another density; 0 is gradient
      descent on U at step :math:`\epsilon / 2`.
    preconditioner: G; 1 by default.

  Returns:
    A sampler of `SGLDState`; its step takes :math:`\epsilon`, traced, so that
    sweeping it does not recompile.

  Examples:
    >>> bowl = types.Potential(lambda u: 0.5 * u @ u, lambda u: 0.0 * u @ u, 1)
    >>> kernel = sgld()
    >>> state = kernel.init(jnp.ones(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.1))
    >>> print(info.loss, info.gradient)
    1.0 [1. 1.]
  """
  preconditioner = preconditioner or preconditioners.identity()

  def init(position):
    return SGLDState(position, preconditioner.init(position))

  def step(rng_key, state, potential, step_size):
    current = gradients.gradients(potential, state.position)
    memory, G = preconditioner.update(state.memory, current.of_loss)
    position = move(
      rng_key, state.position, current.of_potential, G, step_size, noise_scale
    )
    square = gradients.squared_length(current.of_potential, G)
    of_loss = gradients.squared_length(current.of_potential, G, current.of_loss)
    # Corrections of the virial and of the estimate; see the docstring.
    info = types.SamplerInfo(
      current.loss,
      current.of_potential,
      step_size / 4 * square,
      {},
      # The prediction holds for a fixed G and noise of scale 1.
      jnp.nan if bias else step_size / 4 * of_loss,
      jax.tree.map(lambda g: step_size * g, G),
    )
    return SGLDState(position, memory), info

  bias = preconditioner.bias
  if noise_scale != 1:
    bias = f'noise of scale {noise_scale} samples another density than exp(-U)'
  scale = f'noise_scale={noise_scale}' if noise_scale != 1 else ''
  name = preconditioners.sampler_name('sgld', preconditioner, scale)
  return types.Sampler(name, init, step, bias)


def move(
  rng_key: types.Key,
  position: types.Position,
  gradient: types.Position,
  G: types.Position,
  step_size: types.Array,
  noise_scale: float = 1.0,
) -> types.Position:
  """Takes the step of the equation above. The key is consumed.

  Args:
    rng_key: of the noise.
    position: u.
    gradient: of the potential at u.
    G: like the position, or one number a leaf.
    step_size: [], epsilon.
    noise_scale: s.
  """
  noise = trees.normal_like(rng_key, position)
  return jax.tree.map(
    lambda u, v, g, xi: (
      u - step_size / 2 * (g * v) + noise_scale * jnp.sqrt(step_size * g) * xi
    ),
    position,
    gradient,
    G,
    noise,
  )
