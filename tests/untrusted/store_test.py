"""An untrusted store: nothing in it is run, or leads outside."""

import json
import pickle
import shutil
import sys
import warnings

import numpy as np
import pytest

from rllc_jax import checked_files
from rllc_jax.results import disk
from rllc_jax.results import files
from rllc_jax.results import store as stores
from tests.untrusted import strangers

IDENTITY = {
  'num_steps_between_draws': 1,
  'num_coordinates': {'0:0': 16},
  'nbeta': 1.0,
  'localization': 1.0,
  'step_size': 1.0,
}
EXTENT = stores.Extent((0,), ('text',), ('0:0',), 2, 24)
ROWS, COLUMNS = [(0, 'text')], [('0:0', 0), ('0:0', 1)]


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """A finished store."""
  path = tmp_path_factory.mktemp('written') / 'rllc'
  opened = disk.open_store(path)
  opened.begin(IDENTITY, EXTENT, 'x')
  draws = {'loss': np.ones((1, 2, 24), np.float32)}
  chains = [np.zeros((1, 2, 1), np.float32)]
  opened.write(ROWS, COLUMNS, 0, draws, chains, np.ones((1, 2)))
  opened.complete(ROWS, COLUMNS)
  opened.end()
  assert disk.open_store(path).read().recorded.all()
  return path


@pytest.fixture
def store(written, tmp_path):
  """A copy of the store in a workdir."""
  return shutil.copytree(written, tmp_path / 'run' / 'rllc')


class Harmful:
  """Runs code when it is unpickled."""

  def __reduce__(self):
    return sys.exit, ('it was unpickled',)


PICKLE = {'id': 'pickle', 'protocol': 5}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
  'changes',
  [
    {'compressor': None, 'filters': [PICKLE]},
    {'compressor': PICKLE, 'filters': None},
    {'compressor': None, 'filters': [PICKLE], 'dtype': '|O', 'fill_value': 0},
    {'compressor': PICKLE, 'dtype': '|O', 'fill_value': 0},
  ],
)
@pytest.mark.parametrize('name', ['loss', 'checkpoint'])
def test_no_array_is_unpickled(store, name, changes):
  """Zarr has a codec that unpickles."""
  path = store / 'traces.zarr' / name
  layout = json.loads((path / '.zarray').read_text()) | changes
  (path / '.zarray').write_text(json.dumps(layout))
  for chunk in path.glob('[0-9]*'):
    chunk.write_bytes(pickle.dumps(Harmful()))
  if name == 'loss':
    read = disk.open_store(store).read
    assert strangers.is_refused(read, store, 'must be as it was written')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    again = disk.open_store(store)
    again.begin(IDENTITY, EXTENT, 'x')
    again.end()


@pytest.mark.parametrize(
  'changes',
  [
    {'extent': None},
    {'extent': [1]},
    {'extent': {}},
    {'extent': EXTENT._asdict() | {'checkpoints': ['0']}},
    {'extent': EXTENT._asdict() | {'datasets': ['a\0']}},
    {'extent': EXTENT._asdict() | {'num_chains': 'many'}},
    {'owner': None},
    {'checkpoints_of_a_piece': 0},
    {'checkpoints_of_a_piece': '1'},
    {'identity': 1},
  ],
  ids=str,
)
def test_impossible_run_files_are_refused(store, changes):
  """A stranger can write a right checksum, too."""
  path = store / 'run.json'
  run = checked_files.read_json(path, (), '') | changes
  checked_files.write_json(
    path, {k: x for k, x in run.items() if x is not None}
  )
  open_it = lambda: disk.open_store(store)
  assert strangers.is_refused(open_it, path, 'must be that of a store; got')


MARK = {
  'recorded': np.zeros((1, 1, 2)),
  'made_with': np.array('x'),
  'check/loss': np.zeros((1, 1, 1, 1), np.uint32),
  'check/baseline_loss': np.zeros((1, 1, 1), np.uint32),
  'layout/loss': np.zeros(2),
}
BLOCK = {
  'steps': np.array([5]),
  'datasets': np.array(['texts']),
  'refinements': np.array(['0:0', '0:1']),
  'chains': np.array([0, 2]),
  'first': np.array(-1),
  'baseline': np.zeros(1),
  'trace/loss': np.zeros((1, 1, 24)),
  'trace/other': np.zeros(3),
  'state/0000': np.zeros((2, 2, 1)),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
  ('kind', 'name'),
  [('marks', x) for x in MARK] + [('blocks', x) for x in BLOCK],
)
def test_arrays_of_another_kind_are_sampled_again(store, kind, name):
  """Readers get a good error or nothing, and a run goes on."""
  [path] = (store / kind).rglob('*.npz')
  owner = json.loads((store / 'run.json').read_text())['owner']
  wrong = {name: (MARK if kind == 'marks' else BLOCK)[name]}
  files.write_arrays(path, files.read_arrays(path, owner) | wrong, owner)
  if kind == 'marks':
    read = disk.open_store(store).read
    assert strangers.is_refused(read, path, 'must be as it was written')
  with pytest.warns(UserWarning, match='was expected to be as it was written'):
    again = disk.open_store(store)
    again.begin(IDENTITY, EXTENT, 'x')
  again.end()
  assert not path.exists()
  again.read()


@pytest.mark.sampled(4)
@pytest.mark.parametrize('kind', ['check', 'layout', 'trace'])
@pytest.mark.parametrize('name', ['../../../outside', '/outside', '..', ''])
def test_no_name_of_an_array_leads_outside(store, tmp_path, name, kind):
  """A run removes damaged entries, and nothing outside."""
  outside = tmp_path / 'outside'
  outside.mkdir()
  (outside / '0.0.0').mkdir()
  if name.startswith('/'):
    name = str(outside)
  [path] = (store / ('blocks' if kind == 'trace' else 'marks')).rglob('*.npz')
  owner = json.loads((store / 'run.json').read_text())['owner']
  arrays = files.read_arrays(path, owner)
  files.write_arrays(path, arrays | {f'{kind}/{name}': np.ones(3)}, owner)
  if kind != 'trace':
    assert strangers.is_refused(
      disk.open_store(store).read, path, 'array named'
    )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    again = disk.open_store(store)
    again.begin(IDENTITY, EXTENT, 'x')
    again.end()
  assert (outside / '0.0.0').exists()
  if kind == 'trace':
    assert disk.open_store(store).read().recorded.all()
  else:
    assert not disk.open_store(store).read().recorded.any()
