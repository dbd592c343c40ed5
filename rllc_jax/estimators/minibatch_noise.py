r"""Gradient noise of minibatches at the checkpoint, for the bias of steps.

Noise of covariance C in the gradient of U heats a chain by tr gC / 4, see
`types.SamplerInfo.noise_gain`, but the loss sees less of it: with H the Hessian
of the loss, P = n beta H + gamma and K = n beta H / P, an estimate is too high
by tr gKC / 8, because heat along flat directions costs no loss. Since
K = 1 - gamma / P, and 1 / P is the covariance of the chain,

.. math:: \operatorname{tr} gKC
  = \operatorname{tr} gC - \gamma\,\operatorname{Var}[\sqrt g\, n \cdot u]

over draws, for noise n that is independent of them. A kernel that is exact in
bowls records tr gC as it is at the draws, where the noise may be several times
that at the checkpoint: only the directions of n are then taken, the share

.. math:: 1 - \gamma\,\operatorname{Var}[\sqrt g\, n \cdot u] / |\sqrt g\, n|^2

of tr gC. n is the difference of two
minibatch gradients at the checkpoint, over the root of 2: a chain stands still
for the first two steps, of negative numbers, which are not recorded.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types

NUM_STEPS = 2  # -2 and -1, before the first step that is recorded.


class State(NamedTuple):
  """The state of a chain.

  Attributes:
    sampler: that of the kernel.
    noise: n, of the gradient of U, like the position; 0 at first.
  """

  sampler: Any
  noise: types.Position


def start(sampler: types.Sampler, position: types.Position) -> State:
  """The state of a chain at its checkpoint."""
  return State(sampler.init(position), jax.tree.map(jnp.zeros_like, position))


def advance(
  state: State, new: Any, gradient: types.Position, step: types.Array
) -> State:
  """The state after a step: nothing moves in those of negative numbers.

  Args:
    state: before the step.
    new: the kernel's state after it.
    gradient: of the minibatch's U at the position before the step.
    step: [], from the checkpoint; negative in those that n is taken from.
  """
  weight = jnp.where(step == -2, 1.0, jnp.where(step == -1, -1.0, 0.0))
  weight /= math.sqrt(2)
  add = lambda n, g: n + weight.astype(g.dtype) * g
  keep = lambda old, new: jnp.where(step < 0, old, new)
  return State(
    jax.tree.map(keep, state.sampler, new),
    jax.tree.map(add, state.noise, gradient),
  )


def weighted(
  noise: types.Position, gain: types.Position | float
) -> types.Position:
  """The noise sqrt(g) n, which is NaN if the kernel has no gain.

  Args:
    noise: n.
    gain: g, like the position or one number a leaf, or NaN.
  """
  if isinstance(gain, float):
    gain = jax.tree.map(lambda _: gain, noise)
  return jax.tree.map(lambda n, g: n * jnp.sqrt(g).astype(n.dtype), noise, gain)
