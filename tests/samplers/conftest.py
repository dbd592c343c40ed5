"""Long chains are worth compiling well, whatever the rest is compiled with."""

import jax
import pytest


@pytest.fixture(autouse=True)
def optimized():
  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, False)
  yield
  jax.config.update(name, before)
