"""Damage to a store is named to readers, and repaired by a run."""

import itertools
import shutil
import warnings

import numpy as np
import pytest
import zarr

import rllc_jax
from rllc_jax.results import files
from rllc_jax.results import table
from tests.damage import damages
from tests.results import kills_test

TEXT = files.name_of('text')
LOSS = 'traces.zarr/loss'
BASELINE = 'traces.zarr/baseline_loss/0.0.0.0'
FILES = (
  f'marks/{TEXT}/0.npz',
  f'{LOSS}/0.0.0.0.0',
  f'{LOSS}/.zarray',
  f'{LOSS}/.zattrs',
  'traces.zarr/baseline_loss/1.0.0.0',
  'traces.zarr/checkpoint/0',
  'traces.zarr/draw/.zarray',
  'traces.zarr/.zgroup',
  'blocks',
  'owners/0',
)
VARIABLES = ('loss', 'center_loss', 'squared_distance', 'baseline_loss')


def run(path, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return kills_test.run(path, num_draws=24, **options)


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
  """A finished store, and one of another run."""
  path = tmp_path_factory.mktemp('stores')
  run(path / 'whole')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    kills_test.run(path / 'other', num_draws=26, step_size=2e-3)
  return path


def read(path):
  dataset = rllc_jax.open_store(path).read()
  return {name: dataset[name].values.tobytes() for name in VARIABLES}


def is_part(path, complete):
  """True if all chains equal those of a store, or count as missing."""
  names = ['loss', 'center_loss', 'squared_distance']
  actual, expected = (rllc_jax.open_store(x).read() for x in (path, complete))
  return actual[names].equals(expected[names].where(actual.recorded > 0))


@pytest.mark.sampled(12)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', FILES)
def test_damage_to_a_file_of_a_store_is_named_and_repaired(
  tmp_path, stores, name, kind
):
  """Readers get right numbers or a good error, and a run repairs it."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  expected = read(root)
  path, other = root / name, stores / 'other' / name
  if name == 'blocks':
    path, other = (sorted(x.iterdir())[0] for x in (path, other))
  for number, _ in enumerate(damages.each(path, kind, other.read_bytes())):
    message, result = damages.outcome(root, lambda: read(root), str(root))
    assert message or result == expected or is_part(root, stores / 'whole')
    if not number:  # One variant per kind of damage is enough.
      copy = tmp_path / 'again'
      shutil.copytree(root, copy)
      run(copy)
      assert read(copy) == expected
  assert read(root) == expected


@pytest.mark.parametrize('kind', ['cut', 'empty', 'directory'])
def test_a_mark_and_its_draws_are_repaired_together(tmp_path, stores, kind):
  """The piece has no checksums, and cannot be read."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  expected = read(root)
  (root / f'marks/{TEXT}/0.npz').unlink()
  for path in (root / f'{LOSS}/0.0.0.0.0', root / BASELINE):
    for _ in itertools.islice(damages.each(path, kind), 1):
      shutil.copytree(root, tmp_path / path.name)
    run(tmp_path / path.name)
    assert read(tmp_path / path.name) == expected


def test_unreadable_draws_without_a_mark_are_replaced(tmp_path, monkeypatch):
  """No mark counts them, and they cannot be read."""
  monkeypatch.setattr(table, '_LEAST_CHUNK_DRAWS', 8)
  monkeypatch.setattr(table, '_CHUNK_BYTES', 1)
  root, before = tmp_path / 'store', tmp_path / 'before'
  run(root)
  shutil.copytree(root, before)
  kills_test.run(root, num_draws=40)
  expected = read(root)
  for name in ('marks', 'blocks'):
    shutil.rmtree(root / name)
    shutil.copytree(before / name, root / name)
  last = sorted((root / LOSS).glob('0.0.*'))[-1]
  last.write_bytes(b'')
  with pytest.warns(UserWarning, match=f'{last.name} was expected to be'):
    kills_test.run(root, num_draws=40)
  assert read(root) == expected


@pytest.mark.sampled(3)
@pytest.mark.parametrize('kind', damages.KINDS)
def test_damage_to_the_run_file_is_named(tmp_path, stores, kind):
  """It cannot be computed again; restored, the store is whole."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  expected = read(root)
  other = (stores / 'other' / 'run.json').read_bytes()
  path = root / 'run.json'

  def attempt():
    run(root)
    return read(root)

  damages.check(
    root, path, kind, attempt, expected, other=other, named=str(root)
  )


def test_damaged_draws_stay_missing_if_their_repair_is_stopped(
  tmp_path, stores
):
  """They are readable, and the run that noticed the damage was stopped."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  zarr.open_array(root / LOSS, mode='r+')[0, 0, 0, 0, 3] = 7.0

  def stop(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(root, progress=stop)
  assert (rllc_jax.open_store(root).read().recorded == 0).any()
  assert is_part(root, stores / 'whole')


def test_damage_to_an_unfinished_block_is_named_and_repaired(
  tmp_path, stores, sample
):
  """Readers get an error, and a run samples its draws again."""
  expected, root = read(stores / 'whole'), tmp_path / 'store'

  def stop(done, total):
    if done > total // 4:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    kills_test.run(root, num_draws=24, progress=stop)
  path = next((root / 'blocks').iterdir())
  before = read(root)
  for kind in sample(damages.KINDS[:5], 2):
    for number, _ in enumerate(damages.each(path, kind)):
      # A header of the archive that nobody reads may be damaged unnoticed.
      message, result = damages.outcome(root, lambda: read(root), path.name)
      assert message or result == before
      if not number:  # One variant per kind of damage is enough.
        copy = tmp_path / kind
        shutil.copytree(root, copy)
        run(copy)
        assert read(copy) == expected
  assert np.isfinite(rllc_jax.open_store(root).read().loss).any()
