"""The flag --executor, and the command that merges files."""

from concurrent import futures
import types

import pytest

from experiments import compact
from experiments.runtime import executors
from experiments.runtime import sections
import rllc_jax
from tests.results import numbers


@pytest.fixture
def flag(monkeypatch):
  monkeypatch.setattr(executors, 'is_given', lambda: True)
  return lambda value: monkeypatch.setattr(
    executors, '_EXECUTOR', types.SimpleNamespace(value=value)
  )


@pytest.mark.parametrize(
  'value',
  ['processes', 'processes:0', 'processes:-1', 'dask', 'dask:', 'mpi:4'],
)
def test_other_executors_are_refused(flag, value):
  flag(value)
  with pytest.raises(ValueError, match='--executor must be processes:N'):
    executors.use(lambda executor: None)


def test_a_scheduler_that_does_not_answer_is_one_line(flag, monkeypatch):
  distributed = pytest.importorskip('distributed')

  def refuse(address):
    raise OSError(f'Timed out trying to connect to {address}')

  monkeypatch.setattr(distributed, 'Client', refuse)
  flag('dask:tcp://nowhere:1')
  with pytest.raises(ValueError, match='must name a scheduler that answers'):
    executors.use(lambda executor: None)


@pytest.mark.parametrize('deaths', [2, 3])
def test_a_pool_is_made_again_when_a_process_dies(flag, deaths):
  """Three times at most."""
  flag('processes:2')
  pools = []

  def act(pool):
    pools.append(pool)
    if len(pools) <= deaths:
      raise futures.BrokenExecutor

  if deaths < 3:
    executors.use(act)
  else:
    with pytest.raises(ValueError, match='got one that died, 3 times'):
      executors.use(act)
  assert len({*pools}) == 3


def test_the_command_merges_the_store_of_its_config(tmp_path):
  numbers.run(rllc_jax.open_store(tmp_path / 'other'), rows_per_block=1)
  config = sections.make_config(estimation={'name': 'other'})
  assert compact.run(config, tmp_path) == (12, 2)
  numbers.assert_same(
    rllc_jax.open_store(tmp_path / 'other').read(), numbers.run()
  )
