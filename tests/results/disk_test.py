"""A store names its faults, and loses nothing that it holds."""

import json
import shutil
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pytest
from safetensors import numpy as safetensors

import rllc_jax
from rllc_jax import checked_files
from rllc_jax.results import blocks
from rllc_jax.results import traces
from tests.estimators import toy
from tests.results import numbers

COLUMNS = [(name, chain) for name in ('0:0', '0:1') for chain in (0, 1)]


def small_run(path, **options):
  return numbers.run(
    rllc_jax.open_store(path),
    trajectory=toy.trajectory((0, 10)),
    datasets={'text': toy.DATASETS['text']},
    refinements=[toy.family(0, 1)],
    **options,
  )


@pytest.fixture(scope='module')
def done(tmp_path_factory):
  path = tmp_path_factory.mktemp('done') / 'store'
  small_run(path)
  return path


@pytest.fixture(scope='module')
def expected(done):
  return rllc_jax.open_store(done).read()


@pytest.fixture
def path(done, tmp_path):
  """A copy of the finished store."""
  return shutil.copytree(done, tmp_path / 'store')


def test_a_stranger_opens_a_file_without_this_library(done, expected):
  [path] = (done / 'traces').iterdir()
  arrays = safetensors.load_file(path)
  np.testing.assert_array_equal(
    arrays['loss'], expected.loss.values.reshape(2, 4, 30)
  )
  assert arrays[blocks.BASELINE].shape == (2, 4)


def test_unknown_coordinates_are_named(done):
  store = rllc_jax.open_store(done)
  for changes in (
    {'checkpoints': (0, 5)},
    {'datasets': ('texts',)},
    {'refinements': ('0:2',)},
    {'num_chains': 3},
    {'num_draws': 31},
  ):
    extent = store.extent._replace(**changes)
    with pytest.raises(traces.StoreError, match='|'.join(changes)):
      store.read(extent)
    assert store.missing(extent)
  for changes in ({'num_chains': -1}, {'checkpoints': (0, 0)}):
    with pytest.raises(ValueError, match='|'.join(changes)):
      store.read(store.extent._replace(**changes))
  assert store.missing(store.extent) == []


def test_a_part_is_read_in_the_order_of_the_extent(done, expected):
  """`recorded` is cut to the part, too: longer chains are not unfinished."""
  store = rllc_jax.open_store(done)
  part = store.read(
    store.extent._replace(
      checkpoints=(10, 0),
      refinements=('0:1', '0:0'),
      num_chains=1,
      num_draws=20,
    )
  )
  whole = expected.isel(
    checkpoint=[1, 0], refinement=[1, 0], chain=slice(1), draw=slice(20)
  )
  assert part.loss.identical(whole.loss)
  np.testing.assert_array_equal(part.recorded, 20)


def test_readers_do_not_read_chains(path, expected):
  shutil.rmtree(path / 'chains')
  numbers.assert_same(rllc_jax.open_store(path).read(), expected)


def test_missing_lists_exactly_the_cells_without_draws(done):
  store = rllc_jax.open_store(done)
  wanted = {'checkpoints': (0, 5), 'refinements': ('0:2', '0:1')}
  missing = store.missing(store.extent._replace(**wanted))
  assert {*missing} == {(0, 'text', '0:2'), (5, 'text', '0:2')} | {
    (5, 'text', '0:1')
  }
  fewer = store.extent._replace(num_chains=1, num_draws=7)
  assert store.missing(fewer) == []


def test_planned_draws_take_no_memory(path, expected):
  """After a stopped run that was asked for far too many."""

  def stop(done, total):
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    small_run(path, num_draws=2**20, progress=stop)
  store = rllc_jax.open_store(path)
  assert store.extent.num_draws == 2**20 + 6
  assert store.max_recorded_draws() == 30
  tracemalloc.start()
  try:
    for extent in (None, store.extent._replace(num_draws=30)):
      numbers.assert_same(store.read(extent), expected)
    assert tracemalloc.get_traced_memory()[1] < 2**23
  finally:
    tracemalloc.stop()


def test_a_store_may_grow_while_it_is_open(path):
  reader = rllc_jax.open_store(path)
  for more in ({'num_chains': 3}, {'num_draws': 30}):
    small_run(path, **more)
    grown = rllc_jax.open_store(path)
    assert reader.read().identical(grown.read())
    assert reader.missing(reader.extent) == grown.missing(grown.extent)


def test_files_may_be_merged_while_they_are_read(tmp_path, monkeypatch):
  """A reader has their names, and finds others in their place."""
  path, read = tmp_path / 'store', []
  complete = small_run(tmp_path / 'whole', num_draws=24)
  check = blocks.check

  def act(done, total):
    if done == total and not read:  # All is written, and nothing merged.
      reader = rllc_jax.open_store(path)

      def merge_first(*arguments):
        monkeypatch.setattr(blocks, 'check', check)
        store.complete([(0, 'text'), (10, 'text')], COLUMNS)
        return check(*arguments)

      monkeypatch.setattr(blocks, 'check', merge_first)
      read.append(reader.read())

  store = rllc_jax.open_store(path)
  numbers.run(
    store,
    trajectory=toy.trajectory((0, 10)),
    datasets={'text': toy.DATASETS['text']},
    refinements=[toy.family(0, 1)],
    num_draws=24,
    progress=act,
  )
  numbers.assert_same(read[0], complete)


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').touch()
  with pytest.raises(ValueError, match='must be a store.*not exist'):
    rllc_jax.open_store(tmp_path)


def test_a_link_to_nothing_is_refused(tmp_path):
  (tmp_path / 'store').symlink_to('nowhere')
  with pytest.raises(traces.StoreError, match='a link to nothing'):
    rllc_jax.open_store(tmp_path / 'store')


def test_an_empty_store_has_nothing_to_read(tmp_path):
  with pytest.raises(ValueError, match='must hold results'):
    rllc_jax.open_store(tmp_path / 'store').read()


def test_a_store_of_the_old_form_says_what_reads_it(path):
  (path / 'run.json').unlink()
  checked_files.write_json(path / 'run.json', {'format': 2})
  with pytest.raises(ValueError, match='got 2. Stores of format 2 are expor'):
    rllc_jax.open_store(path)


def test_a_lost_run_file_costs_nothing(path, expected):
  (path / 'run.json').unlink()
  calls = []
  small_run(path, progress=lambda *call: calls.append(call))
  assert calls == [(240, 240)]
  numbers.assert_same(rllc_jax.open_store(path).read(), expected)


def test_a_full_disk_loses_nothing(path, expected):
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
    [sys.executable, '-c', code, str(path)], capture_output=True, text=True
  )
  assert result.returncode
  last = result.stderr.splitlines()[-1]
  assert 'DiskError' in last and 'store/chains/' in last
  assert 'File too large' in last
  after = rllc_jax.open_store(path).read()
  np.testing.assert_array_equal(after.loss.isel(draw=slice(30)), expected.loss)
  assert int(after.recorded.max()) > 30
  more = small_run(path, num_draws=60)
  np.testing.assert_array_equal(more.loss.isel(draw=slice(30)), expected.loss)


def test_an_unwritable_place_raises_os_error(tmp_path):
  (tmp_path / 'store').write_text('a file')
  with pytest.raises(OSError):
    small_run(tmp_path / 'store' / 'below')


def test_run_json_holds_identity_and_extent(done):
  run = json.loads((done / 'run.json').read_text())
  assert run['identity']['step_size'] == 1e-3
  assert run['extent']['num_draws'] == 30
  assert {*run['identity']['params']} == {'0', '10'}
