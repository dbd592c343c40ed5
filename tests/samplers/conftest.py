"""Compiles samplers at level 1, because their chains are long."""

import jax
import pytest


@pytest.fixture(autouse=True)
def optimized():
  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, False)
  yield
  jax.config.update(name, before)
