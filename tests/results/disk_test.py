"""A store names its faults, and loses nothing that it holds."""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc

from absl.testing import absltest
import numpy as np
import xarray as xr

import rllc_jax
from rllc_jax.results import files
from rllc_jax.results import pieces
from rllc_jax.results import traces
from tests.estimators import toy
from tests.results import numbers


def small_run(path, **options):
  return numbers.run(
    rllc_jax.open_store(path),
    trajectory=toy.trajectory((0, 10)),
    datasets={'text': toy.DATASETS['text']},
    refinements=[toy.family(0, 1)],
    **options,
  )


TEXT = files.name_of('text')


class DiskStoreTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.done = pathlib.Path(directory) / 'store'
    cls.traces = small_run(cls.done)

  def setUp(self):
    super().setUp()
    directory = self.enterContext(tempfile.TemporaryDirectory())
    self.path = pathlib.Path(directory) / 'store'

  def copy(self):
    shutil.copytree(self.done, self.path)
    return self.path

  def test_xarray_alone_reads_the_traces(self):
    dataset = xr.open_zarr(self.done / 'traces.zarr', consolidated=False)
    self.assertEqual(dataset.loss.dims, traces.DIMS)
    self.assertEqual(dataset.refinement.values.tolist(), ['0:0', '0:1'])
    self.assertEqual(dataset.checkpoint.dtype, np.int64)
    np.testing.assert_array_equal(dataset.loss, self.traces.loss)

  def test_unknown_coordinates_are_named(self):
    store = rllc_jax.open_store(self.done)
    for changes in (
      {'checkpoints': (0, 5)},
      {'datasets': ('texts',)},
      {'refinements': ('0:2',)},
      {'num_chains': 3},
      {'num_draws': 31},
    ):
      extent = store.extent._replace(**changes)
      with self.assertRaisesRegex(traces.StoreError, '|'.join(changes)):
        store.read(extent)
      self.assertTrue(store.missing(extent))
    for changes in ({'num_chains': -1}, {'checkpoints': (0, 0)}):
      with self.assertRaisesRegex(ValueError, '|'.join(changes)):
        store.read(store.extent._replace(**changes))
    self.assertEqual(store.missing(store.extent), [])

  def test_a_part_is_read_in_the_order_of_the_extent(self):
    """`recorded` is cut to the part, too: longer chains are not unfinished."""
    store = rllc_jax.open_store(self.done)
    extent = store.extent._replace(
      refinements=('0:1', '0:0'), num_chains=1, num_draws=20
    )
    part = store.read(extent)
    expected = self.traces.isel(
      refinement=[1, 0], chain=slice(1), draw=slice(20)
    )
    self.assertTrue(part.loss.identical(expected.loss))
    np.testing.assert_array_equal(part.recorded, 20)

  def test_blocks_without_draws_are_not_read(self):
    for path in (self.copy() / 'blocks').iterdir():
      content = bytearray(path.read_bytes())
      content[200] ^= 1  # Of its first array.
      path.write_bytes(content)
      with self.assertRaisesRegex(files.DamagedFileError, 'CRC'):
        files.read_arrays(path, '')
    numbers.assert_same(rllc_jax.open_store(self.path).read(), self.traces)

  def test_missing_lists_exactly_the_cells_without_draws(self):
    store = rllc_jax.open_store(self.done)
    wanted = {'checkpoints': (0, 5), 'refinements': ('0:2', '0:1')}
    missing = store.missing(store.extent._replace(**wanted))
    present = {(0, 'text', '0:1')}
    self.assertCountEqual(
      {(s, 'text', r) for s in (0, 5) for r in ('0:2', '0:1')} - present,
      missing,
    )
    fewer = store.extent._replace(num_chains=1, num_draws=7)
    self.assertEqual(store.missing(fewer), [])

  def test_planned_draws_take_no_memory(self):
    """After a stopped run that was asked for far too many."""

    def stop(done, total):
      raise KeyboardInterrupt

    with self.assertRaises(KeyboardInterrupt):
      small_run(self.copy(), num_draws=2**20, progress=stop)
    small_run(self.path)
    store = rllc_jax.open_store(self.path)
    self.assertEqual(
      (store.extent.num_draws, store.max_recorded_draws()), (2**20 + 6, 30)
    )
    tracemalloc.start()
    self.addCleanup(tracemalloc.stop)
    for dataset in (
      store.read(),
      store.read(store.extent._replace(num_draws=30)),
    ):
      numbers.assert_same(dataset, self.traces)
    self.assertLess(tracemalloc.get_traced_memory()[1], 2**23)

  def test_a_store_may_grow_while_it_is_open(self):
    reader = rllc_jax.open_store(self.copy())
    for more in ({'num_chains': 3}, {'num_draws': 30}):
      small_run(self.path, **more)
      expected = rllc_jax.open_store(self.path)
      self.assertTrue(reader.read().identical(expected.read()))
      self.assertEqual(
        reader.missing(reader.extent), expected.missing(expected.extent)
      )

  def test_a_store_may_grow_while_it_is_read(self):
    """Traces are cut to the extent that the reader knows."""
    sound = pieces.Pieces.sound
    for more in ({'num_chains': 3}, {'refinements': [toy.family(0, 1, 2)]}):
      path = self.path / str(len(more)) / next(iter(more))
      shutil.copytree(self.done, path)
      reader = rllc_jax.open_store(path)

      def grow(store_pieces, piece, path=path, more=more):
        pieces.Pieces.sound = sound
        numbers.run(
          rllc_jax.open_store(path),
          **{
            'trajectory': toy.trajectory((0, 10)),
            'datasets': {'text': toy.DATASETS['text']},
            'refinements': [toy.family(0, 1)],
          }
          | more,
        )
        return sound(store_pieces, piece)

      self.addCleanup(setattr, pieces.Pieces, 'sound', sound)
      pieces.Pieces.sound = grow
      numbers.assert_same(reader.read(), self.traces)

  def test_a_directory_of_something_else_is_refused(self):
    self.path.mkdir()
    (self.path / 'thesis.tex').touch()
    with self.assertRaisesRegex(ValueError, 'must be a store.*not exist'):
      rllc_jax.open_store(self.path)

  def test_a_link_to_nothing_is_refused(self):
    self.path.symlink_to('nowhere')
    with self.assertRaisesRegex(traces.StoreError, 'a link to nothing'):
      rllc_jax.open_store(self.path)

  def test_an_empty_store_has_nothing_to_read(self):
    with self.assertRaisesRegex(ValueError, 'must hold results'):
      rllc_jax.open_store(self.path).read()

  def test_a_broken_run_file_is_named(self):
    (self.copy() / 'run.json').write_text('{"identity": ')
    with self.assertRaisesRegex(
      ValueError, 'run.json: expected.*JSONDecodeError.*run_copy.json'
    ):
      rllc_jax.open_store(self.path)

  def damage(self, pattern):
    """A copy with the first such file damaged."""
    path = sorted(self.copy().glob(pattern))[0]
    path.write_bytes(path.read_bytes()[:-9])
    return path

  def test_a_damaged_mark_is_named_and_its_draws_sampled_again(self):
    mark = self.damage('marks/*/*.npz')
    with self.assertRaisesRegex(ValueError, f'{mark.name} must be as it was'):
      rllc_jax.open_store(self.path).read()
    with self.assertWarnsRegex(UserWarning, f'{mark.name} was expected'):
      repaired = small_run(self.path)
    np.testing.assert_array_equal(repaired.loss, self.traces.loss)

  def test_draws_of_a_missing_mark_are_sampled_again(self):
    (self.copy() / 'marks' / TEXT / '1.npz').unlink()
    without_mark = rllc_jax.open_store(self.path).read()
    counts = without_mark.recorded.sum(
      ('dataset', 'refinement', 'chain')
    ).values
    self.assertEqual(counts.tolist(), [120, 0])
    repaired = small_run(self.path)
    np.testing.assert_array_equal(repaired.loss, self.traces.loss)

  def test_a_full_disk_loses_nothing(self):
    """A real process whose writes fail: files may not grow beyond a limit."""
    code = textwrap.dedent("""
      import resource, signal, sys
      import rllc_jax
      from tests.results import disk_test
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      def fill(done, total):
        if done > 240:  # What was there is 30 draws of 8 chains.
          resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
      disk_test.small_run(sys.argv[1], num_draws=90, segment=20, progress=fill)
    """)
    result = subprocess.run(
      [sys.executable, '-c', code, str(self.copy())],
      capture_output=True,
      text=True,
    )
    self.assertNotEqual(result.returncode, 0)
    last = result.stderr.splitlines()[-1]
    self.assertRegex(last, r'DiskError: .*store/blocks/.*File too large')
    after_failure = rllc_jax.open_store(self.path).read()
    np.testing.assert_array_equal(
      after_failure.loss.isel(draw=slice(30)), self.traces.loss
    )
    self.assertGreater(int(after_failure.recorded.max()), 30)
    more = small_run(self.path, num_draws=60)
    np.testing.assert_array_equal(
      more.loss.isel(draw=slice(30)), self.traces.loss
    )

  def test_an_unwritable_place_raises_os_error(self):
    self.path.write_text('a file')
    with self.assertRaises(OSError):
      small_run(self.path / 'below')

  def test_run_json_holds_identity_and_extent(self):
    run = json.loads((self.done / 'run.json').read_text())
    self.assertEqual(run['identity']['step_size'], 1e-3)
    self.assertEqual(run['extent']['num_draws'], 30)
    self.assertCountEqual(run['identity']['params'], ['0', '10'])


if __name__ == '__main__':
  absltest.main()
