"""A store grows: what is there stays, and only what is missing is done."""

import shutil

import pytest

import rllc_jax
from tests.estimators import toy
from tests.results import numbers


@pytest.fixture(scope='module')
def whole():
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
def test_a_run_grows_in_every_direction(path, whole, first):
  numbers.run(rllc_jax.open_store(path), **first)
  kept = int(rllc_jax.open_store(path).read().recorded.sum())
  calls = []
  say = lambda done, total: calls.append(done)
  found = numbers.run(rllc_jax.open_store(path), progress=say)
  assert calls[0] == kept  # Nothing is done again.
  numbers.assert_same(found, whole)
  read = rllc_jax.open_store(path).read()
  assert read.checkpoint.values.tolist() == [0, 10, 20]


def test_what_is_done_stays_done_while_more_is_on_its_way(path, finished):
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


def test_what_is_there_is_not_done_again(path, finished):
  shutil.copytree(finished, path)
  calls = []
  say = lambda done, total: calls.append((done, total))
  numbers.run(rllc_jax.open_store(path), num_chains=3, progress=say)
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


def test_two_handles_see_what_each_other_wrote(path, whole):
  handles = [rllc_jax.open_store(path), rllc_jax.open_store(path)]
  for step, store in zip((0, 10, 20), [*handles, handles[0]], strict=True):
    numbers.run(store, trajectory=toy.trajectory((step,)))
  numbers.assert_same(numbers.run(handles[1]), whole)


def test_long_and_odd_names_are_names_of_files(path):
  names = ('..', '.', 'x' * 400)
  for num_draws in (18, 24):
    store = rllc_jax.open_store(path)
    found = numbers.run(store, datasets=names, num_draws=num_draws)
  numbers.assert_same(found, numbers.run(datasets=names))
