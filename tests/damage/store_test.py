"""The store: what is damaged is told to readers, and done again by a run."""

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
  """A finished store, and the same of another run."""
  path = tmp_path_factory.mktemp('stores')
  run(path / 'whole')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    kills_test.run(path / 'other', num_draws=26, step_size=2e-3)
  return path


def read(path):
  found = rllc_jax.open_store(path).read()
  return {name: found[name].values.tobytes() for name in VARIABLES}


def is_part(path, whole):
  """Whether chains are as they are in another store, or said to be missing."""
  names = ['loss', 'center_loss', 'squared_distance']
  found, known = (rllc_jax.open_store(x).read() for x in (path, whole))
  return found[names].equals(known[names].where(found.recorded > 0))


@pytest.mark.sampled(12)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', FILES)
def test_a_file_of_a_store(tmp_path, stores, name, kind):
  """Right numbers or a good error; then a run makes it whole."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  expected = read(root)
  path, other = root / name, stores / 'other' / name
  if name == 'blocks':
    path, other = (sorted(x.iterdir())[0] for x in (path, other))
  for number, _ in enumerate(damages.each(path, kind, other.read_bytes())):
    message, found = damages.outcome(root, lambda: read(root), str(root))
    assert message or found == expected or is_part(root, stores / 'whole')
    if not number:  # Of a kind of damage one is enough.
      again = tmp_path / 'again'
      shutil.copytree(root, again)
      run(again)
      assert read(again) == expected
  assert read(root) == expected


@pytest.mark.parametrize('kind', ['cut', 'empty', 'directory'])
def test_a_mark_and_its_draws_at_once(tmp_path, stores, kind):
  """A piece that no mark vouches for, and that cannot be read."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  expected = read(root)
  (root / f'marks/{TEXT}/0.npz').unlink()
  for path in (root / f'{LOSS}/0.0.0.0.0', root / BASELINE):
    for _ in itertools.islice(damages.each(path, kind), 1):
      shutil.copytree(root, tmp_path / path.name)
    run(tmp_path / path.name)
    assert read(tmp_path / path.name) == expected


def test_draws_that_a_kill_left_before_their_mark(tmp_path, monkeypatch):
  """Nobody knows of them, and they cannot be read."""
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
def test_the_file_of_the_run(tmp_path, stores, kind):
  """It cannot be made again; put back, all is there."""
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


def test_draws_that_a_run_forgot_are_not_read(tmp_path, stores):
  """Changed, but readable, and the run that found it was stopped."""
  root = tmp_path / 'store'
  shutil.copytree(stores / 'whole', root)
  zarr.open_array(root / LOSS, mode='r+')[0, 0, 0, 0, 3] = 7.0

  def stop(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(root, progress=stop)
  assert (rllc_jax.open_store(root).read().recorded == 0).any()
  assert is_part(root, stores / 'whole')


def test_a_block_that_was_not_done(tmp_path, stores, sample):
  """Its draws are told to readers, and taken again by a run."""
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
      message, found = damages.outcome(root, lambda: read(root), path.name)
      assert message or found == before
      if not number:  # Of a kind of damage one is enough.
        again = tmp_path / kind
        shutil.copytree(root, again)
        run(again)
        assert read(again) == expected
  assert np.isfinite(rllc_jax.open_store(root).read().loss).any()
