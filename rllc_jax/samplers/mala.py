r"""The Metropolis-adjusted Langevin algorithm, and SGLD that records its test.

Roberts and Tweedie, "Exponential convergence of Langevin distributions and
their discrete approximations", Bernoulli 1996. The proposal is the step of
SGLD, in the same :math:`\epsilon/2` convention; blackjax's `mala` takes half of
this step size.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.samplers import gradients
from rllc_jax.samplers import preconditioners
from rllc_jax.samplers import sgld


class _Proposal(NamedTuple):
  """A proposed step of SGLD, with its acceptance probability.

  Attributes:
    position: its end.
    memory: of the preconditioner.
    start: value and gradients of the potential where it starts.
    square: [], its gradient's squared length there, as G sees it.
    square_with_loss: [], the inner product with the loss's gradient.
    acceptance: [], the probability of the Metropolis-Hastings test.
    G: of the preconditioner.
  """

  position: types.Position
  memory: types.PyTree
  start: gradients.Gradients
  square: types.Array
  square_with_loss: types.Array
  acceptance: types.Array
  G: types.Position


# Cached: equal settings are one kernel, and so one compiled program.
@functools.cache
def mala(
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""Builds the MALA kernel for the density :math:`e^{-U}`.

  The step of SGLD from u to u' is taken with the probability

  .. math::
    \min\left(1, \exp\left[U(u) - U(u')
      + \tfrac12 (u' - u) \cdot (g + g')
      - \tfrac{\epsilon}{8} (g'^T G g' - g^T G g)\right]\right),
    \qquad g = \nabla U(u),\ g' = \nabla U(u')

  and otherwise the chain stays. With full batches and a fixed G its law is
  :math:`e^{-U}` at every :math:`\epsilon`, and
  :math:`E[\delta \cdot \nabla U] = d`: the slow reference of the others.

  *Full batches* means that U is the same at every step: sample with
  `data.minibatches.full(data)`. With minibatches the test is made with another
  potential at every step, and the law is neither SGLD's nor exact. For the same
  reason no evaluation is carried from one step to the next: a step costs two.

  A NaN proposal is refused. In a bowl of d weights and curvature a the test
  passes with the mean probability (Roberts and Rosenthal, "Optimal scaling of
  discrete approximations to Langevin diffusions", JRSS B 1998)

  .. math:: 2 \Phi(-s / 2), \qquad s = (\epsilon a)^{3/2} \sqrt d / 4

  At :math:`\epsilon a = 0.1` that is 0.99 for 10 weights, 0.47 for the 32,864
  of an attention head and 0.0001 for a million. At the center, where all
  chains start and every way leads up, it is :math:`e^{-(\epsilon a)^2 d / 8}`:
  choose a step at which a chain gets away from there.

  Args:
    preconditioner: G; 1 by default. The same G serves both ways.

  Returns:
    A sampler of `sgld.SGLDState` that records `acceptance`, the probability
    that the step is taken.

  Examples:
    >>> bowl = types.Potential(lambda u: 0.5 * u @ u, lambda u: 0.0 * u @ u, 1)
    >>> kernel = mala()
    >>> state = kernel.init(jnp.ones(2))
    >>> key = jax.random.key(0)
    >>> state, info = kernel.step(key, state, bowl, jnp.float32(0.1))
    >>> print(bool(0.99 < info.recorded['acceptance'] <= 1))
    True
  """
  preconditioner = preconditioner or preconditioners.identity()

  def init(position):
    return sgld.SGLDState(position, preconditioner.init(position))

  def step(rng_key, state, potential, step_size):
    proposal_key, test_key = jax.random.split(rng_key)
    proposal = _propose(
      proposal_key, state, potential, step_size, preconditioner
    )
    # A refused proposal keeps the position; the memory follows all the same.
    passed = jax.random.uniform(test_key) < proposal.acceptance
    position = jax.tree.map(
      lambda end, start: jnp.where(passed, end, start),
      proposal.position,
      state.position,
    )
    start = proposal.start
    recorded = {'acceptance': proposal.acceptance}
    # The law is exact, so there is nothing to correct for the step size.
    info = types.SamplerInfo(
      start.loss, start.of_potential, 0.0, recorded, 0.0, 0.0
    )
    return sgld.SGLDState(position, proposal.memory), info

  name = preconditioners.sampler_name('mala', preconditioner)
  return types.Sampler(
    name, init, step, preconditioner.bias, needs_full_data=True
  )


@functools.cache
def sgld_with_mala_acceptance(
  preconditioner: preconditioners.Preconditioner | None = None,
) -> types.Sampler:
  r"""SGLD that records the acceptance probability of MALA at each step.

  The chain is that of `sgld.sgld(preconditioner=preconditioner)` to the bit,
  and costs twice as much. The test is that of the step just made, on that
  step's own minibatch.

  Not a measure of accuracy. The errors of a step add up over the weights in
  this one number, while the bias of an estimate is their mean: in a bowl the
  chain of SGLD passes, once it is stationary, with the mean probability

  .. math:: \tfrac12 + e^{s^2/2} \Phi(-s),
    \qquad s = \frac{(\epsilon a)^{3/2} \sqrt d}
      {4 \sqrt{1 - \epsilon a / 4}}

  which falls from 1 to 1/2 as d grows, where the bias is :math:`\epsilon a / 4`
  at any d: at 2.5 %, 0.99 for 10 weights and 0.71 for 32,864. Minibatch noise
  *raises* it, in many dimensions to 1: on its own minibatch a step leads
  downhill, and that is all the test sees.

  Args:
    preconditioner: G; 1 by default.

  Returns:
    A sampler of `sgld.SGLDState` that records `mala_acceptance`.
  """
  plain = sgld.sgld(preconditioner=preconditioner)
  preconditioner = preconditioner or preconditioners.identity()

  def step(rng_key, state, potential, step_size):
    # The key is not split, so that the chain is that of SGLD to the bit.
    proposal = _propose(rng_key, state, potential, step_size, preconditioner)
    start = proposal.start
    correction = step_size / 4 * proposal.square
    recorded = {'mala_acceptance': proposal.acceptance}
    of_loss = step_size / 4 * proposal.square_with_loss
    info = types.SamplerInfo(
      start.loss,
      start.of_potential,
      correction,
      recorded,
      jnp.nan if preconditioner.bias else of_loss,
      jax.tree.map(lambda g: step_size * g, proposal.G),
    )
    return sgld.SGLDState(proposal.position, proposal.memory), info

  return plain._replace(name=f'{plain.name}+mala_acceptance', step=step)


def _propose(rng_key, state, potential, step_size, preconditioner):
  """Proposes a step of SGLD and computes its test. The key is consumed."""
  start = gradients.gradients(potential, state.position)
  memory, G = preconditioner.update(state.memory, start.of_loss)
  position = sgld.move(
    rng_key, state.position, start.of_potential, G, step_size
  )
  end = gradients.gradients(potential, position)
  displacement = trees.subtract(position, state.position)
  gradient_sum = jax.tree.map(jnp.add, start.of_potential, end.of_potential)
  square = gradients.squared_length(start.of_potential, G)
  square_end = gradients.squared_length(end.of_potential, G)
  # The ratio of the proposals' densities; terms in G^-1 and the noise cancel.
  log_ratio = (
    start.value - end.value + trees.dot(displacement, gradient_sum) / 2
  )
  log_ratio -= step_size / 8 * (square_end - square)
  acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))
  # A chain must never move to where the loss is NaN.
  acceptance = jnp.where(jnp.isnan(acceptance), 0.0, acceptance)
  with_loss = gradients.squared_length(start.of_potential, G, start.of_loss)
  return _Proposal(position, memory, start, square, with_loss, acceptance, G)
