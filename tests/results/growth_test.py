"""A store grows: its draws stay, and only missing ones are sampled."""

import shutil

import pytest

import rllc_jax
from tests.estimators import toy
from tests.results import numbers


@pytest.fixture(scope='module')
def complete():
  return numbers.run()


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  path = tmp_path_factory.mktemp('finished') / 'store'
  numbers.run(rllc_jax.open_store(path))
  return path


@pytest.fixture
def path(tmp_path):
  return tmp_path / 'store'


@pytest.mark.parametrize(
  'first',
  [
    {'num_chains': 1},
    {'num_draws': 18},
    {'trajectory': toy.trajectory((0, 20))},
    {'datasets': {'code': toy.DATASETS['code']}},
    {'refinements': [toy.family(2)]},
    {
      'num_chains': 1,
      'num_draws': 18,
      'trajectory': toy.trajectory((20,)),
      'refinements': [toy.family(1)],
    },
  ],
  ids=lambda first: ' '.join(first),
)
def test_a_run_grows_in_every_direction(path, complete, first):
  numbers.run(rllc_jax.open_store(path), **first)
  num_before = int(rllc_jax.open_store(path).read().recorded.sum())
  calls = []
  record = lambda done, total: calls.append(done)
  traces = numbers.run(rllc_jax.open_store(path), progress=record)
  assert calls[0] == num_before  # Nothing is sampled again.
  numbers.assert_same(traces, complete)
  read = rllc_jax.open_store(path).read()
  assert read.checkpoint.values.tolist() == [0, 10, 20]


def test_finished_chains_stay_recorded_while_new_ones_run(path, finished):
  shutil.copytree(finished, path)
  before = 3 * 2 * 3 * 2 * 30

  def stop(done, total):
    del total
    if done > before:
      raise InterruptedError

  with pytest.raises(InterruptedError):
    store = rllc_jax.open_store(path)
    numbers.run(store, num_chains=3, segment=8, progress=stop)
  recorded = rllc_jax.open_store(path).read().recorded
  assert (recorded.isel(chain=slice(2)) == 30).all()
  assert recorded.isel(chain=2).sum() > 0


def test_recorded_chains_are_not_sampled_again(path, finished):
  shutil.copytree(finished, path)
  calls = []
  record = lambda done, total: calls.append((done, total))
  numbers.run(rllc_jax.open_store(path), num_chains=3, progress=record)
  cells, draws = 3 * 2 * 3, 30
  assert calls[-1] == (cells * 3 * draws, cells * 3 * draws)
  assert calls[0] == (cells * 2 * draws, cells * 3 * draws)


def test_one_run_at_a_time_writes(path):
  def second(done, total):
    del done, total
    numbers.run(rllc_jax.open_store(path))

  with pytest.raises(ValueError, match='one run at a time'):
    numbers.run(rllc_jax.open_store(path), progress=second)
  numbers.run(rllc_jax.open_store(path))


def test_two_handles_see_each_other_s_writes(path, complete):
  handles = [rllc_jax.open_store(path), rllc_jax.open_store(path)]
  for step, store in zip((0, 10, 20), [*handles, handles[0]], strict=True):
    numbers.run(store, trajectory=toy.trajectory((step,)))
  numbers.assert_same(numbers.run(handles[1]), complete)


def test_long_and_odd_names_become_file_names(path):
  names = ('..', '.', 'x' * 400)
  for num_draws in (18, 24):
    store = rllc_jax.open_store(path)
    traces = numbers.run(store, datasets=names, num_draws=num_draws)
  numbers.assert_same(traces, numbers.run(datasets=names))
