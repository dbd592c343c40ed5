"""Turns the conveniences that hide mistakes into errors, for every test."""

import jax

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_debug_key_reuse', True)


def pytest_collection_modifyitems(items):
  """Processes come first: the last worker would wait for them alone."""
  items.sort(key=lambda item: 'processes_test' not in item.nodeid)
