r"""Preconditioners: a separate step size for every weight.

A preconditioner is a diagonal matrix :math:`G`, by which kernels multiply
:math:`\epsilon`: the drift by :math:`G`, the noise by :math:`\sqrt G`. A fixed
one is another choice of coordinates and changes no stationary law but by the
bias of finite steps. One that follows the gradients does, because kernels leave
out the curvature of :math:`G`; it says so in `bias`.

Bring one as a function pair; every kernel of this folder takes it.
"""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types

_FOLLOWS = (
  'the preconditioner follows the gradients of the chain, and no kernel makes '
  'up for how it changes with the weights (the term Gamma is left out)'
)


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


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def identity() -> Preconditioner:
  """The preconditioner G = 1."""
  ones = lambda gradient: jax.tree.map(lambda _: 1.0, gradient)
  return Preconditioner(
    '', lambda position: (), lambda memory, gradient: (memory, ones(gradient))
  )


@functools.cache
def fixed(name: str, scales: Callable[[types.Position], types.Position]):
  """A constant G, computed from the position at which the chain starts.

  Args:
    name: identifies the function in the identity of a run.
    scales: `scales(position) -> G`, like the position.

  Examples:
    >>> halves = fixed('halves', lambda u: jax.tree.map(
    ...     lambda leaf: jnp.full_like(leaf, 0.5), u))
    >>> memory = halves.init(jnp.zeros(2))
    >>> memory, G = halves.update(memory, jnp.ones(2))
    >>> print(G)
    [0.5 0.5]
  """
  return Preconditioner(name, scales, lambda scales, gradient: (scales, scales))


@functools.cache
def rmsprop(decay: float = 0.99, eps: float = 0.1) -> Preconditioner:
  r"""The RMSprop of devinterp: a moving average that starts at 0.

  With g the gradient of the minibatch loss, a mean, without n beta and gamma,

  .. math::
    V \leftarrow \alpha V + (1 - \alpha) g^2, \quad V_0 = 0,
    \qquad G = 1 / (\sqrt V + \mathrm{eps})

  V is not corrected for its start, so the first steps are the largest: where
  gradients are small, up to 1 / eps times those of SGLD at the same step size.
  Not to be mixed up with :func:`rmsprop_corrected`, whose first steps are the
  smallest: equal step sizes do not mean equal chains.

  Args:
    decay: :math:`\alpha`.
    eps: in units of the loss over weight; it bounds G by 1 / eps.

  Examples:
    >>> kind = rmsprop()
    >>> memory, G = kind.update(kind.init(jnp.zeros(1)), jnp.ones(1))
    >>> print(G)  # 1 / (0.1 |g| + 0.1)
    [5.]
  """

  def update(memory, gradient):
    memory = _average(memory, gradient, decay)
    return memory, _inverse_root(memory, eps)

  return Preconditioner(
    f'rmsprop(decay={decay}, eps={eps})',
    lambda position: jax.tree.map(jnp.zeros_like, position),
    update,
    _FOLLOWS,
  )


@functools.cache
def rmsprop_corrected(
  decay: float = 0.999, eps: float = 1e-8
) -> Preconditioner:
  r"""RMSprop by Hitchcock and Hoogland: starts at 1, corrected for a start.

  "From Global to Local: A Scalable Benchmark for Local Posterior Sampling",
  2025 (https://arxiv.org/abs/2507.21449), algorithm 3. At step t = 1, 2, ...,

  .. math::
    V_t = \alpha V_{t-1} + (1 - \alpha) g_t^2, \quad V_0 = 1, \qquad
    G = 1 / \left(\sqrt{V_t / (1 - \alpha^t)} + \mathrm{eps}\right)

  The correction is that of an average which starts at 0; with a start at 1 it
  makes the first G as small as :math:`\sqrt{1 - \alpha}`, 1/32 of SGLD's. The
  start is forgotten when :math:`\alpha^t` is small *against* :math:`g^2`: after
  some :math:`\ln(10 / g^2) / (1 - \alpha)` steps, 7,000 where gradients are
  0.1. From then on eps bounds nothing: weights without gradient take ever
  larger steps.

  Args:
    decay: :math:`\alpha`.
    eps: in units of the loss over weight.

  Examples:
    >>> kind = rmsprop_corrected()
    >>> memory, G = kind.update(kind.init(jnp.zeros(1)), jnp.zeros(1))
    >>> print((1 / G**2).round())  # 0.999 / 0.001
    [999.]
  """

  def init(position):
    return jax.tree.map(jnp.ones_like, position), jnp.int32(0)

  def update(memory, gradient):
    average, steps = memory
    average, steps = _average(average, gradient, decay), steps + 1
    # This is 1 - decay**t; a subtraction would keep four digits at t = 1.
    weight = lambda dtype: -jnp.expm1(math.log(decay) * steps.astype(dtype))
    corrected = jax.tree.map(lambda v: v / weight(v.dtype), average)
    return (average, steps), _inverse_root(corrected, eps)

  return Preconditioner(
    f'rmsprop_corrected(decay={decay}, eps={eps})', init, update, _FOLLOWS
  )


def sampler_name(
  kernel: str, preconditioner: Preconditioner, *settings: str
) -> str:
  """The name of a kernel with its settings.

  Examples:
    >>> sampler_name('sgld', identity())
    'sgld'
    >>> sampler_name('sghmc', rmsprop(), 'friction=0.5')
    'sghmc(rmsprop(decay=0.99, eps=0.1), friction=0.5)'
  """
  arguments = [text for text in (preconditioner.name, *settings) if text]
  return f'{kernel}({", ".join(arguments)})' if arguments else kernel


def _average(average, gradient, decay):
  return jax.tree.map(
    lambda v, g: decay * v + (1 - decay) * g**2, average, gradient
  )


def _inverse_root(average, eps):
  return jax.tree.map(lambda v: 1 / (jnp.sqrt(v) + eps), average)
