"""The table: two processes may be at it."""

import numpy as np
import pytest

from rllc_jax.results import store as stores
from rllc_jax.results import table as tables


@pytest.mark.parametrize(
  'error', [OSError(5, 'Input/output error'), MemoryError()]
)
def test_what_cannot_be_read_just_now_stays(tmp_path, error):
  """Of a disk or a memory in trouble: its draws are not lost for that."""

  class Array:
    chunks = (1,) * 5

    def __getitem__(self, places):
      raise error

  extent = stores.Extent((0,), ('text',), ('0:0',), 1, 4)
  table = tables.Table(tmp_path, extent, 1)
  path = tmp_path / 'loss' / '0.0.0.0.0'
  path.parent.mkdir()
  path.write_bytes(b'1')
  with pytest.raises(type(error)):
    table._remove_unreadable(Array(), (0, 0), 'loss')
  assert path.exists()


def test_two_processes_make_the_same_array(tmp_path, monkeypatch):
  """One of them after the other had seen that there is none."""
  create = tables.Table._create

  def twice(*arguments):
    create(*arguments)
    create(*arguments)

  monkeypatch.setattr(tables.Table, '_create', twice)
  extent = stores.Extent((0,), ('text',), ('0:0',), 1, 4)
  table = tables.Table(tmp_path / 'traces.zarr', extent, 1)
  draws = np.arange(4.0, dtype=np.float32)[None]
  cell = tuple(np.zeros((3, 1), int))
  table.put((0, 0), 'loss', cell, 0, draws)
  np.testing.assert_array_equal(table.get((0, 0), 4)['loss'][0, 0], draws)
