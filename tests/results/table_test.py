"""The table: two processes may be at it."""

import numpy as np

from rllc_jax.results import store as stores
from rllc_jax.results import table as tables


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
