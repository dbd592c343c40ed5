"""Damage to the records of a training run and of an analysis."""

import functools
import json
import shutil

import numpy as np
import pytest
import xarray as xr

from rllc_jax import trees
from rllc_jax.training import records
from tests.damage import damages
from tests.damage import tiny

FILES = (
  'training.zarr/.zattrs',
  'training.zarr/.zgroup',
  'training.zarr/loss/.zarray',
  'training.zarr/loss/.zattrs',
  'training.zarr/loss/0',
  'training.zarr/checkpoint/0',
  'analysis.zarr/.zattrs',
  'analysis.zarr/kind/0',
  'analysis.zarr/score/0.0',
)


def readings(seed):
  """A record with the kinds of arrays that an analysis has."""
  scores = np.random.default_rng(seed).normal(size=(3, 2))
  scores[0] = np.nan
  return xr.Dataset(
    {
      'score': (('checkpoint', 'kind'), scores.astype(np.float32)),
      'left_out': ('kind', np.array([True, seed > 0])),
    },
    {'checkpoint': [0, 4, 16], 'kind': ['a', f'longer {seed}']},
    {'identity': json.dumps({'seed': seed})},
  )


def read(path):
  record = records.load_record(path)
  values = {str(name): x.values for name, x in record.variables.items()}
  return trees.content_hash(values), record.attrs


@pytest.fixture(scope='module')
def other_records(trained, tmp_path_factory):
  """Records of another run."""
  directory = tmp_path_factory.mktemp('others')
  training = records.load_record(trained / 'train' / 'training.zarr')
  training = training.assign(
    loss=training.loss + 1, checkpoint=training.checkpoint + 1
  )
  training.attrs['identity'] = training.attrs['identity'].replace('3', '4')
  training.loss.attrs['units'] = 'bits per predicted token'
  records.save_record(training, directory / 'training.zarr')
  records.save_record(readings(1), directory / 'analysis.zarr')
  return directory


@pytest.fixture
def workdir(trained, tmp_path):
  workdir = shutil.copytree(trained, tmp_path / 'run')
  records.save_record(readings(0), workdir / 'train' / 'analysis.zarr')
  return workdir


@pytest.mark.sampled(8)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', FILES)
def test_damage_to_a_record_is_named(other_records, workdir, name, kind):
  path, other = workdir / 'train' / name, (other_records / name).read_bytes()
  record = workdir / 'train' / name.partition('/')[0]
  same = kind == 'another' and other == path.read_bytes()
  read_it = functools.partial(read, record)
  messages = damages.check(
    workdir, path, kind, read_it, read_it(), other=other, named=str(record)
  )
  assert all(messages) or same


@pytest.mark.parametrize('kind', ['empty', 'file', 'another'])
def test_a_replaced_record_is_named(other_records, workdir, kind):
  expected = tiny.go_on(workdir)
  path = workdir / 'train' / 'training.zarr'
  damages.replace_directory(path, kind, other_records / 'training.zarr')
  attempt = functools.partial(tiny.go_on, workdir)
  message, _ = damages.outcome(workdir, attempt, str(path))
  assert 'remove' in message.lower()
  damages.remove(path)  # The remedy of the message.
  assert tiny.go_on(workdir).identical(expected)
  assert records.load_record(path).identical(expected)


def test_a_missing_record_is_made_again(workdir):
  expected = tiny.go_on(workdir)
  shutil.rmtree(workdir / 'train' / 'training.zarr')
  assert tiny.go_on(workdir).identical(expected)
