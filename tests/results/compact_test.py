"""Merged files hold the same, and a kill during that loses nothing."""

import itertools
import shutil

import numpy as np
import pytest

import rllc_jax
from rllc_jax.results import merging
from tests.damage import damages
from tests.estimators import toy
from tests.results import kills_test
from tests.results import numbers

replacing = kills_test.replacing
OPTIONS = {
  'trajectory': toy.trajectory(toy.STEPS[:5]),
  'refinements': [toy.family(0, 1), toy.family(2)],
  'rows_per_block': 1,
}


@pytest.fixture
def store(tmp_path):
  """Ten rows of two families, a run that stopped, and one that went on."""

  def stop(done, total):
    if done > total * 0.7:
      raise KeyboardInterrupt

  path = tmp_path / 'store'
  with pytest.raises(KeyboardInterrupt):
    run(path, segment=7, progress=stop)
  run(path, segment=9)
  return path


def run(path, **options):
  return numbers.run(rllc_jax.open_store(path), **OPTIONS | options)


def count(path):
  return [
    len([*(path / name).glob('*.safetensors')]) for name in ('traces', 'chains')
  ]


def test_merged_files_hold_the_same_and_a_run_goes_on_from_them(store):
  expected = rllc_jax.open_store(store).read()
  before = count(store)
  assert min(before) >= 20
  assert rllc_jax.open_store(store).compact() == (sum(before), 4)
  assert count(store) == [2, 2]
  numbers.assert_same(rllc_jax.open_store(store).read(), expected)
  calls = []
  record = lambda *call: calls.append(call)
  traces = run(store, num_draws=48, num_chains=3, progress=record)
  assert calls[0][0] == int(expected.recorded.sum())
  numbers.assert_same(
    traces, numbers.run(**OPTIONS | {'num_draws': 48, 'num_chains': 3})
  )


def test_files_end_at_a_size(store, monkeypatch):
  monkeypatch.setattr(merging, 'rows_per_file', lambda rows, size: 4)
  rllc_jax.open_store(store).compact()
  assert count(store) == [2 * 3, 2 * 3]


def test_a_kill_at_any_write_loses_nothing(tmp_path, store, replacing):
  expected, number = rllc_jax.open_store(store).read(), itertools.count()

  def copy_before(move):
    shutil.copytree(store, tmp_path / 'copies' / str(next(number)))
    move()

  replacing[0] = copy_before
  rllc_jax.open_store(store).compact()
  replacing[0] = lambda move: move()
  copies = [*(tmp_path / 'copies').iterdir()]
  assert len(copies) >= 4
  for copy in copies:
    numbers.assert_same(rllc_jax.open_store(copy).read(), expected)
    rllc_jax.open_store(copy).compact()
    assert count(copy) == [2, 2]
    numbers.assert_same(rllc_jax.open_store(copy).read(), expected)


def test_a_kill_between_a_merged_file_and_the_parts_changes_nothing(
  tmp_path, store
):
  """Both are there, and a run finds nothing to do."""
  expected = rllc_jax.open_store(store).read()
  both = shutil.copytree(store, tmp_path / 'both')
  rllc_jax.open_store(store).compact()
  shutil.copytree(store, both, dirs_exist_ok=True)
  numbers.assert_same(run(both), expected)
  assert count(both) > [2, 2]
  rllc_jax.open_store(both).compact()
  numbers.assert_same(rllc_jax.open_store(both).read(), expected)
  np.testing.assert_array_equal(expected.recorded, 30)


def test_a_damaged_file_stops_it(store):
  path = sorted((store / 'traces').iterdir())[0]
  damaged = damages.each(path, 'flipped')
  next(damaged)
  with pytest.raises(ValueError, match=f'{path.name} must be as it was'):
    rllc_jax.open_store(store).compact()


def test_no_run_may_be_at_work(tmp_path):
  path, refused = tmp_path / 'store', []

  def compact(done, total):
    if not refused:
      with pytest.raises(ValueError, match='one run at a time'):
        rllc_jax.open_store(path).compact()
      refused.append(True)

  run(path, progress=compact)
  assert refused
