"""Chains keep the precision of their weights, whatever JAX's default is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import types
from rllc_jax.samplers import by_name


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
@pytest.mark.parametrize('name', by_name.names())
def test_a_state_has_the_dtypes_of_its_weights_with_x64(name, dtype):
  """A thermostat in float64 beside weights in float32 ended sgnht's loop."""
  sampler = by_name.sampler(name)
  with jax.enable_x64(True), jax.numpy_dtype_promotion('standard'):
    position = {'w': jnp.ones(3, dtype)}
    bowl = types.Potential(
      lambda u: 0.5 * u['w'] @ u['w'], lambda u: 0.5 * u['w'] @ u['w'], 1.0
    )
    state = sampler.init(position)
    advance = lambda state: sampler.step(
      jax.random.key(0), state, bowl, jnp.float32(0.1)
    )
    after, info = jax.eval_shape(advance, state)
    kinds = lambda tree: jax.tree.map(lambda leaf: leaf.dtype, tree)
    assert kinds(after) == kinds(jax.eval_shape(lambda: state))
    assert after.position['w'].dtype == dtype
    assert info.loss.dtype == dtype
