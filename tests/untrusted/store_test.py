"""An untrusted store: nothing in it is run, or leads outside."""

import shutil

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


def rewritten(path, **changes):
  """The file with other arrays or metadata, and a right checksum."""
  name, header = files.parse_name(path.name), files.header(path)
  metadata, arrays = header.metadata, files.read_all(path, header)
  for key, value in changes.items():
    (metadata if isinstance(value, str) else arrays)[key] = value
  data = files.content(arrays, metadata)
  path.unlink()
  path = path.with_name(str(name._replace(checksum=files.checksum(data))))
  path.write_bytes(data)
  return path


@pytest.mark.sampled(5)
@pytest.mark.parametrize('folder', ['traces', 'chains'])
@pytest.mark.parametrize(
  'changes',
  [
    {'loss': np.ones((1, 2, 25), np.float32)},
    {'loss': np.ones((2, 2, 24), np.float32)},
    {'loss': np.ones(3)},
    {'other': np.ones((1, 2, 24))},
    {'baseline_loss': np.ones((2, 1))},
    {'rows': '[[[0], ["text"]], [[1], ["text"]]]'},
    {'rows': '[]'},
    {'rows': '{'},
    {'rows': '[[[0], [[]]]]'},
    {'columns': '[[["0:0"], [0, "1"]]]'},
    {'columns': '7'},
    {'first_draw': '12'},
    {'made_with': 'y'},
  ],
  ids=str,
)
def test_files_of_another_kind_are_sampled_again(store, folder, changes):
  """Readers get a good error, and a run goes on."""
  [path] = (store / folder).iterdir()
  path = rewritten(path, **changes)
  if folder == 'traces':
    read = disk.open_store(store).read
    assert strangers.is_refused(read, path, 'must be as it was written')
  with pytest.warns(UserWarning, match='was expected to be as it was written'):
    again = disk.open_store(store)
    again.begin(IDENTITY, EXTENT._replace(num_draws=30), 'x')
    again.recorded(ROWS, COLUMNS)
  again.end()
  assert not path.exists()
  again.read()


@pytest.mark.parametrize(
  'changes',
  [
    {'loss': np.ones((1, 2, 25), np.float32)},
    {'loss': np.ones((1, 2, 24))},
    {'rows': '[[[1], ["text"]]]'},
    {'rows': '{'},
  ],
  ids=str,
)
def test_a_second_file_of_a_key_is_looked_at_too(store, changes):
  """Of the first one alone the header is read when a store is opened."""
  [path] = (store / 'traces').iterdir()
  first = path.read_bytes()
  other = rewritten(path, **changes)
  path.write_bytes(first)
  last = other.rename(other.with_name(other.name.replace('.00', '.99', 1)))
  with pytest.raises(ValueError, match=f'{last.name} must be as it was'):
    disk.open_store(store).read()


@pytest.mark.parametrize('name', ['../../../outside', '/outside', '..', ''])
def test_no_name_of_an_array_leads_outside(store, name):
  """An export makes directories of names."""
  [path] = (store / 'traces').iterdir()
  path = rewritten(path, **{name: np.ones((1, 2, 24))})
  assert strangers.is_refused(
    disk.open_store(store).read, path, 'must be as it was written'
  )


HEADERS = [
  b'',
  b'\x00' * 7,
  b'\xff' * 8,
  (2**40).to_bytes(8, 'little') + b'{}',
  *(
    len(text).to_bytes(8, 'little') + text + bytes(64)
    for text in (
      b'{',
      b'[]',
      b'{"__metadata__": 1}',
      b'{"__metadata__": {"rows": 1}}',
      b'{"__metadata__": {}, "loss": {"dtype": "F32"}}',
      b'{"__metadata__": {}, "a": {"dtype": "F32", "shape": [-1], '
      b'"data_offsets": [0, 4]}}',
      b'{"__metadata__": {}, "a": {"dtype": "X", "shape": [1], '
      b'"data_offsets": [0, 4]}}',
      b'{"__metadata__": {}, "a": {"dtype": "F32", "shape": '
      b'[4294967296, 4294967296, 4], "data_offsets": [0, 0]}}',
      b'[' * 100_000,
    )
  ),
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize('number', range(len(HEADERS)))
def test_a_hostile_header_is_named(store, number):
  [path] = (store / 'traces').iterdir()
  name = files.parse_name(path.name)
  path.unlink()
  data = HEADERS[number]
  path = path.with_name(str(name._replace(checksum=files.checksum(data))))
  path.write_bytes(data)
  assert strangers.is_refused(
    disk.open_store(store).read, path, 'must be as it was written'
  )


def test_files_that_are_no_files_of_a_store_do_not_matter(store):
  for name in ('thesis.tex', 'a.safetensors.damaged'):
    (store / 'traces' / name).write_text('')
  assert disk.open_store(store).read().recorded.all()
  (store / 'traces' / 'a.safetensors').write_text('')
  assert strangers.is_refused(
    disk.open_store(store).read, store / 'traces', 'a name that no run gives'
  )
