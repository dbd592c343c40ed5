"""One chain of a kernel alone: no posterior, no minibatches, no front door."""

import jax
import jax.numpy as jnp


def step_keys(rng_key, steps):
  """The keys [steps] of a chain."""
  fold = lambda step: jax.random.fold_in(rng_key, step)
  return jax.vmap(fold)(jnp.arange(steps))


def run(sampler, potential_at, position, step_size, rng_key, inputs):
  """Steps a kernel; states and infos *before* each step, leaves [steps, ...].

  Args:
    sampler: the kernel.
    potential_at: `potential_at(input) -> Potential`, this step's.
    position: where it starts.
    step_size: epsilon.
    rng_key: of the chain.
    inputs: leaves [steps, ...].
  """
  steps = jnp.arange(len(jax.tree.leaves(inputs)[0]))

  def step(state, step_and_input):
    index, this_input = step_and_input
    key = jax.random.fold_in(rng_key, index)
    new, info = sampler.step(key, state, potential_at(this_input), step_size)
    return new, (state, info)

  return jax.lax.scan(step, sampler.init(position), (steps, inputs))[1]
