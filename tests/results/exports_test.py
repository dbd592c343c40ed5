"""Results as others read them, and exports that are compared with the store."""

import pathlib
import shutil

import numpy as np
import pytest
import xarray as xr

import rllc_jax
from rllc_jax.results import exports
from rllc_jax.results import files
from tests.damage import damages
from tests.estimators import toy
from tests.results import numbers


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A store that grew out of order, and its export in two parts."""
  path = tmp_path_factory.mktemp('written') / 'rllc'
  for steps in ((20,), (0, 10)):
    numbers.run(rllc_jax.open_store(path), trajectory=toy.trajectory(steps))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(exports, '_PART_BYTES', 1)
    rllc_jax.to_zarr(path, path / exports.NAME)
  return path


@pytest.fixture
def store(written, tmp_path):
  return shutil.copytree(written, tmp_path / 'rllc')


def test_results_are_those_of_a_run_in_plain_order(written):
  results = rllc_jax.open_results(written)
  assert results.checkpoint.values.tolist() == [0, 10, 20]
  numbers.assert_same(results, numbers.run())
  assert results.identical(rllc_jax.open_store(written).read())


def test_only_files_that_are_asked_for_are_read(written, monkeypatch):
  read = []
  verify = files.verify
  keep = lambda path: (read.append(path.name), verify(path))
  monkeypatch.setattr(files, 'verify', keep)
  results = rllc_jax.open_results(written)
  assert (results.recorded == 30).all() and not read
  cell = results.loss.sel(checkpoint=10, dataset='text', refinement='0:1')
  assert np.isfinite(cell.values).all()
  assert len({*read}) == 1
  cell.values, results.virial.sel(checkpoint=10, dataset='text').values
  assert len(read) == 1, 'bytes do not change: they are verified once'


@pytest.mark.parametrize(
  'key',
  [
    {'chain': 1, 'draw': slice(3, 9, 2)},
    {'draw': [5, 2], 'refinement': [2, 0]},
    {'checkpoint': slice(None, None, -1), 'dataset': 0, 'draw': -1},
    {'draw': slice(0, 0)},
    {'refinement': 1, 'chain': 0, 'checkpoint': [1, 1]},
  ],
  ids=str,
)
def test_any_part_is_that_of_the_whole(written, key):
  results, whole = rllc_jax.open_results(written), numbers.run()
  for name in ('loss', 'recorded', 'baseline_loss', 'made_with'):
    own = {dim: x for dim, x in key.items() if dim in whole[name].dims}
    actual, expected = (x[name].isel(own).values for x in (results, whole))
    np.testing.assert_array_equal(actual, expected)


def test_a_run_that_is_at_work_can_be_read(tmp_path):
  path, counts = tmp_path / 'rllc', []

  def look(done, total):
    results = rllc_jax.open_results(path)
    assert int(results.recorded.sum()) == done
    counts.append(int(np.isfinite(results.get('loss', xr.DataArray())).sum()))
    assert counts[-1] == done

  numbers.run(rllc_jax.open_store(path), segment=7, progress=look)
  assert len(counts) > 10


def test_xarray_alone_reads_the_export(written):
  dataset = xr.open_zarr(written / exports.NAME, consolidated=True)
  results = rllc_jax.open_results(written)
  assert dataset.checkpoint.values.tolist() == [0, 10, 20]
  numbers.assert_same(dataset, results)
  assert dataset.attrs['identity'] == results.attrs['identity']


def places(path):
  return sorted(
    str(x.relative_to(path)) for x in path.rglob('*') if x.is_file()
  )


@pytest.mark.parametrize('kind', ['cut', 'zeroed', 'flipped', 'missing'])
def test_damage_to_any_file_of_an_export_is_named(store, kind):
  path = store / exports.NAME
  for name in places(path):
    for _ in damages.each(path / name, kind):
      with pytest.raises(ValueError, match=exports.NAME):
        rllc_jax.check_zarr(store, path)
  assert rllc_jax.check_zarr(store, path) > 1000


def test_an_export_with_right_checksums_and_other_values_is_named(store):
  path, results = store / exports.NAME, rllc_jax.open_results(store).load()
  other_steps = results.assign_coords(checkpoint=[0, 10, 21])
  other_loss = results.assign(loss=results.loss + 1)
  for name, other in (
    ('checkpoint', other_steps),
    ('loss', other_loss),
    ('nbeta', results.assign_attrs(nbeta=10.0)),
    ('virial', results.drop_vars('virial')),
    ('sizes', results.isel(draw=slice(9))),
  ):
    exports.zarr_records.replace_record([other], path)
    with pytest.raises(ValueError, match=f'got another {name}'):
      rllc_jax.check_zarr(store, path)


def test_a_store_that_grew_is_not_what_was_exported(store):
  numbers.run(rllc_jax.open_store(store), num_draws=30)
  with pytest.raises(ValueError, match='export it again'):
    rllc_jax.check_zarr(store, store / exports.NAME)
  rllc_jax.to_zarr(store, store / exports.NAME)
  assert rllc_jax.check_zarr(store, store / exports.NAME)
  assert not [*pathlib.Path(store).glob('*.unfinished')]


def test_groups_of_arviz(written):
  pytest.importorskip('arviz_base')  # Or ArviZ knows no data trees.
  import arviz_stats

  results = rllc_jax.open_results(written)
  tree = rllc_jax.to_datatree(results)
  assert tree.posterior.llc.dims[:2] == ('chain', 'draw')
  assert tree.posterior.sizes['draw'] == 24
  expected = results.nbeta * (results.loss - results.center_loss)
  np.testing.assert_allclose(
    tree.posterior.llc.sel(chain=1, checkpoint=10).values,
    expected.sel(chain=1, checkpoint=10, draw=slice(6, None))
    .transpose('draw', ...)
    .values,
  )
  ess = arviz_stats.ess(tree)
  assert (ess['llc'] > 0).all()
