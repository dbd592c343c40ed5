"""For every test: conveniences that hide mistakes are errors; samples of cases.

A test with a marker `sampled(n)` is run on n of its cases, drawn by TEST_SEED,
by default the date; with --whole, as in `make test-long`, on all. The fixture
`sample` does the same to the cases of a loop.
"""

import datetime
import os
import random

import jax
import pytest

# Processes are killed here, and no machine: nothing waits for a disk.
os.fsync = lambda descriptor: None
jax.config.update('jax_num_cpu_devices', 2)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_numpy_dtype_promotion', 'strict')

# What takes long comes first: the last worker would wait for it alone.
_FIRST = ('processes_test', 'study_test', 'demo_test', 'experiments/kills_test')


def pytest_addoption(parser):
  parser.addoption('--whole', action='store_true', help='all cases of samples')


def pytest_configure(config):
  # Workers are processes of this one, so all draw the same.
  os.environ.setdefault('TEST_SEED', str(datetime.date.today().toordinal()))
  # Costs an eighth of the time; tests/estimators/keys_test.py always asks.
  jax.config.update('jax_debug_key_reuse', config.getoption('--whole'))


def pytest_report_header(config):
  return f'cases drawn by TEST_SEED={os.environ["TEST_SEED"]}'


def _drawn(name, cases, number):
  """So many of some cases, in their order."""
  rng = random.Random(f'{os.environ["TEST_SEED"]} {name}')
  places = rng.sample(range(len(cases)), min(number, len(cases)))
  return [cases[place] for place in sorted(places)]


@pytest.fixture
def sample(request):
  """`sample(cases, number)`: so many of them, or all with --whole."""

  def draw(cases, number):
    cases = list(cases)
    if request.config.getoption('--whole'):
      return cases
    return _drawn(request.node.name, cases, number)

  return draw


@pytest.hookimpl(tryfirst=True)  # Before -m is looked at.
def pytest_collection_modifyitems(config, items):
  items.sort(key=lambda item: [x not in item.nodeid for x in _FIRST])
  for item in items:
    if 'sample' in getattr(item, 'fixturenames', ()):
      item.add_marker(pytest.mark.sampled)
  if config.getoption('--whole'):
    return
  tests = {}
  for item in items:
    marker = item.get_closest_marker('sampled')
    if marker and marker.args:
      name = item.nodeid.partition('[')[0]
      tests.setdefault((name, *marker.args), []).append(item)
  left_out = set()
  for (name, number), cases in tests.items():
    left_out |= {*cases} - {*_drawn(name, cases, number)}
  config.hook.pytest_deselected(items=[x for x in items if x in left_out])
  items[:] = [item for item in items if item not in left_out]
