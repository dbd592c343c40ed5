"""Records of training runs come back from wherever a user puts them."""

import numpy as np

from rllc_jax.training import records


def test_home_is_where_a_tilde_says(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  record = records.training_record(np.ones(3), [0, 3], {'train': [2, 1]}, {})
  records.save_record(record, '~/run/training.zarr')
  assert (tmp_path / 'run' / 'training.zarr').is_dir()
  assert records.load_record('~/run/training.zarr').identical(record)
  assert [path.name for path in tmp_path.iterdir()] == ['run']
