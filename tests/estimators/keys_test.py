"""No random key is used twice, as JAX finds by tracing whatever uses keys."""

import jax
import jax.numpy as jnp
import pytest

from rllc_jax import types
from rllc_jax.refinement import weights
from rllc_jax.samplers import by_name
from tests.estimators import toy
from tests.training import loop_test


@pytest.fixture(autouse=True)
def checked():
  before = jax.config.jax_debug_key_reuse
  jax.config.update('jax_debug_key_reuse', True)
  yield
  jax.config.update('jax_debug_key_reuse', before)


@pytest.mark.parametrize('share_batches', [True, False])
def test_a_run_uses_no_key_twice(share_batches):
  # A new loss, because a program that is compiled already is not looked at.
  loss = weights.refine(lambda *x: toy.loss_fn(*x), toy.LENS)
  family = toy.family(0, 1)._replace(loss=loss)
  toy.run(refinements=[family], share_batches=share_batches)


@pytest.mark.parametrize('sampler', by_name.names())
def test_a_step_uses_no_key_twice(sampler):
  bowl = lambda u: jnp.sum(u**2)

  @jax.jit
  def step(rng_key, position):
    kernel = by_name.sampler(sampler)
    potential = types.Potential(bowl, bowl, 2.0)
    return kernel.step(rng_key, kernel.init(position), potential, 0.1)[0]

  step.lower(jax.random.key(0), jnp.ones(3))


def test_training_uses_no_key_twice(tmp_path):
  loop_test.run(tmp_path, num_steps=2, checkpoint_steps=(0, 2))
