"""Damage to a store is named to readers, and repaired by a run."""

import shutil
import warnings

import pytest

import rllc_jax
from rllc_jax.results import files
from tests.damage import damages
from tests.results import kills_test

FILES = 'traces', 'chains', 'at_work', 'run.json'
VARIABLES = ('loss', 'center_loss', 'squared_distance', 'baseline_loss')


def run(path, **options):
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    return kills_test.run(path, **{'num_draws': 24, **options})


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
  """A finished store, and one of another run."""
  path = tmp_path_factory.mktemp('stores')
  run(path / 'whole')
  run(path / 'other', num_draws=26, step_size=2e-3)
  return path


@pytest.fixture
def root(stores, tmp_path):
  return shutil.copytree(stores / 'whole', tmp_path / 'store')


def read(path):
  dataset = rllc_jax.open_store(path).read()
  return {name: dataset[name].values.tobytes() for name in VARIABLES}


def is_part(path, complete):
  """True if all chains equal those of a store, or count as missing."""
  names = ['loss', 'center_loss', 'squared_distance']
  actual, expected = (rllc_jax.open_store(x).read() for x in (path, complete))
  return actual[names].equals(expected[names].where(actual.recorded > 0))


def a_file(path, name):
  return sorted((path / name).iterdir())[0] if '.' not in name else path / name


@pytest.mark.sampled(12)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', FILES)
def test_damage_to_a_file_of_a_store_is_named_and_repaired(
  tmp_path, stores, root, name, kind
):
  """Readers get right numbers or a good error, and a run repairs it."""
  expected = read(root)
  path, other = (a_file(x, name) for x in (root, stores / 'other'))
  for number, _ in enumerate(damages.each(path, kind, other.read_bytes())):
    message, result = damages.outcome(root, lambda: read(root), str(root))
    assert message or result == expected or is_part(root, stores / 'whole')
    # One variant per kind of damage is enough.
    if not number and not (name == 'run.json' and message):
      copy = tmp_path / 'again'
      shutil.copytree(root, copy)
      if name == 'run.json' and kind == 'another':
        with pytest.raises(ValueError, match='must be of the same run'):
          run(copy)
        continue
      run(copy)
      assert read(copy) == expected
  assert read(root) == expected


@pytest.mark.parametrize('kind', ['flipped', 'cut'])
def test_a_run_puts_a_damaged_file_aside_and_says_so(root, kind):
  expected, path = read(root), a_file(root, 'traces')
  damaged = damages.each(path, kind)  # Restores it when it is gone.
  next(damaged)
  with pytest.raises(ValueError, match=f'{path.name} must be as it was'):
    read(root)
  with pytest.warns(UserWarning, match=f'{path.name} was expected'):
    kills_test.run(root, num_draws=24)
  assert read(root) == expected
  assert path.with_name(f'{path.name}.damaged').exists()


@pytest.mark.parametrize('name', ['traces', 'chains'])
@pytest.mark.parametrize('kind', ['flipped', 'cut', 'zeroed', 'directory'])
def test_a_check_of_all_files_names_any_damage(root, name, kind):
  path = a_file(root, name)
  check = rllc_jax.open_store(root).check_files
  assert check() == 4
  for _ in damages.each(path, kind):
    with pytest.raises(ValueError, match=f'{path.name} must be as it was'):
      rllc_jax.open_store(root).check_files()
  assert check() == 4


@pytest.mark.parametrize('name', ['traces', 'chains'])
def test_damage_that_makes_a_row_an_unknown_one_is_named(root, name):
  """A file of unknown rows may be of a run that grows the store."""
  path = a_file(root, name)
  data = path.read_bytes()
  assert b'[[[0], [' in data or b'[[[10], [' in data
  path.write_bytes(
    data.replace(b'[[[0]', b'[[[7]').replace(b'[[[10]', b'[[[77]')
  )
  with pytest.raises(ValueError, match=f'{path.name} must be as it was'):
    rllc_jax.open_store(root).check_files()


def test_a_file_under_the_name_of_another_span_is_named(root):
  """Its checksum is right."""
  path = a_file(root, 'traces')
  path.rename(path.with_name(path.name.replace('.0-30.', '.30-60.')))
  with pytest.raises(ValueError, match='another name than it was given'):
    read(root)
  run(root)
  assert read(root)


def test_a_damaged_segment_costs_its_own_draws_alone(root):
  """The chain before it is gone, and the first draws are whole."""

  def stop(done, total):
    if done > total * 0.9:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(root, num_draws=60, progress=stop)
  whole = shutil.copytree(root, root.with_name('whole'))
  run(whole, num_draws=60)
  last = max(
    (root / 'traces').iterdir(), key=lambda x: int(x.name.split('-')[1][:2])
  )
  last.write_bytes(b'')
  run(root, num_draws=60)
  assert read(root) == read(whole)


def test_draws_behind_a_gap_do_not_count_until_it_is_filled(tmp_path):
  path = tmp_path / 'store'

  def stop(done, total):
    if done == 30 * 4:  # Three segments of the first of two blocks.
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(path, num_draws=32, segment=10, progress=stop)
  [middle] = (path / 'traces').glob('*.10-20.*')
  middle.unlink()
  traces = rllc_jax.open_store(path).read()
  assert traces.recorded.values[0].ravel().tolist() == [10] * 4
  assert traces.sizes['draw'] >= 10
  assert traces.loss.isel(checkpoint=0, draw=slice(10)).notnull().all()
  assert traces.loss.isel(checkpoint=0, draw=slice(10, None)).isnull().all()
  late = rllc_jax.open_results(path).loss[0, ..., 25:28]
  assert late.isnull().all()
  run(path, num_draws=32)
  run(tmp_path / 'whole', num_draws=32)
  assert read(path) == read(tmp_path / 'whole')


def test_a_file_that_cannot_be_read_just_now_stays(root, monkeypatch):
  """A passing error of a disk must not cost draws."""
  path = a_file(root, 'traces')
  names = {x.name for x in path.parent.iterdir()}

  def fail(path):
    raise OSError(5, 'Input/output error')

  monkeypatch.setattr(files, '_opened', fail)
  with pytest.raises(OSError):
    run(root)
  monkeypatch.undo()
  assert {x.name for x in path.parent.iterdir()} == names
