"""Turns the conveniences that hide mistakes into errors, for every test."""

import jax

jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')
jax.config.update('jax_debug_key_reuse', True)

# What takes long comes first: the last worker would wait for it alone.
_FIRST = ('processes_test', 'study_test', 'demo_test', 'experiments/kills_test')


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: [x not in item.nodeid for x in _FIRST])
