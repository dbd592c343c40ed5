"""Waiting for other processes, and the error of the last live one."""

import pytest

from experiments.runtime import commands
from experiments.runtime import processes
from experiments.runtime import shares
from rllc_jax.results import owners
from rllc_jax.results import store as stores

EXTENT = stores.Extent((0,), ('a',), ('0:0', '0:1'), 2, 5)
CELL = (0, 'a', '0:1')


class Store:
  """A store with scripted live processes and missing cells, by poll."""

  def __init__(self, live, missing):
    self._live, self._missing = iter(live), iter(missing)

  def live_peers(self):
    return next(self._live)

  def missing(self):
    return next(self._missing)


def are_done(store):
  return shares.are_done(store, EXTENT, store.missing)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
  monkeypatch.setattr(shares, '_PAUSE', 0.0)


@pytest.fixture
def second(monkeypatch):
  monkeypatch.setattr(processes, 'current', lambda: owners.Process(1, 2))


def test_process_0_waits_for_a_live_process():
  assert are_done(Store([[1], [1], []], [[], []]))


def test_process_0_waits_for_a_process_that_begins_late():
  late = Store([[], [], [1], [1], []], [[CELL], [], []])
  assert are_done(late)


def test_other_processes_do_not_wait(second):
  assert not are_done(Store([[0]], []))


@pytest.mark.parametrize('index', [0, 1])
def test_the_last_live_process_names_the_missing_cells(monkeypatch, index):
  monkeypatch.setattr(processes, 'current', lambda: owners.Process(index, 2))
  monkeypatch.setattr(shares, '_PATIENCE', -1.0)
  message = '1 of 2 cells lack draws .*step 0, a, 0:1'
  with pytest.raises(commands.Incomplete, match=message):
    are_done(Store([[]], [[CELL], [CELL]]))
