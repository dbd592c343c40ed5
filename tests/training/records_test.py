"""Records of training runs are read from the path where they were saved."""

import numpy as np

from rllc_jax.training import records


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.chdir(tmp_path)
  record = records.training_record(np.ones(3), [0, 3], {'train': [2, 1]}, {})
  records.save_record(record, '~/run/training.zarr')
  assert (tmp_path / 'run' / 'training.zarr').is_dir()
  assert records.load_record('~/run/training.zarr').identical(record)
  assert [path.name for path in tmp_path.iterdir()] == ['run']
