"""The table under read errors, and shared by two processes."""

import numpy as np
import pytest

from rllc_jax.results import store
from rllc_jax.results import table as zarr_table


@pytest.mark.parametrize(
  'error', [OSError(5, 'Input/output error'), MemoryError()]
)
def test_a_file_with_a_passing_read_error_stays(tmp_path, error):
  """A passing error of disk or memory must not cost draws."""

  class Array:
    chunks = (1,) * 5

    def __getitem__(self, places):
      raise error

  extent = store.Extent((0,), ('text',), ('0:0',), 1, 4)
  table = zarr_table.Table(tmp_path, extent, 1)
  path = tmp_path / 'loss' / '0.0.0.0.0'
  path.parent.mkdir()
  path.write_bytes(b'1')
  with pytest.raises(type(error)):
    table._remove_unreadable(Array(), (0, 0), 'loss')
  assert path.exists()


def test_two_processes_may_create_the_same_array(tmp_path, monkeypatch):
  """The second creates it after the first has found none."""
  create = zarr_table.Table._create

  def twice(*arguments):
    create(*arguments)
    create(*arguments)

  monkeypatch.setattr(zarr_table.Table, '_create', twice)
  extent = store.Extent((0,), ('text',), ('0:0',), 1, 4)
  table = zarr_table.Table(tmp_path / 'traces.zarr', extent, 1)
  draws = np.arange(4.0, dtype=np.float32)[None]
  cell = tuple(np.zeros((3, 1), int))
  table.put((0, 0), 'loss', cell, 0, draws)
  np.testing.assert_array_equal(table.get((0, 0), 4)['loss'][0, 0], draws)
