"""A store in an object store: no locks, no renames, any number of writers."""

import os
import signal
import uuid

import numpy as np
import pytest

import rllc_jax
from rllc_jax.results import disk
from rllc_jax.results import index
from tests import binaries
from tests.results import numbers
from tests.results import processes_test


@pytest.fixture(scope='module')
def bucket():
  """The address of a bucket of a server for tests."""
  s3fs = pytest.importorskip('s3fs')
  server = pytest.importorskip('moto.server')
  import boto3

  variables = {
    'AWS_ACCESS_KEY_ID': 'x',
    'AWS_SECRET_ACCESS_KEY': 'x',
    'AWS_DEFAULT_REGION': 'us-east-1',
  }
  with pytest.MonkeyPatch.context() as patch:
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    variables['AWS_ENDPOINT_URL'] = f'http://{host}:{port}'
    for name, value in variables.items():
      patch.setenv(name, value)
    boto3.client('s3').create_bucket(Bucket='runs')
    s3fs.S3FileSystem.clear_instance_cache()  # Of another server.
    yield 's3://runs'
    running.stop()


@pytest.fixture(params=['memory', 's3'])
def address(request):
  root = 'memory://runs'
  if request.param == 's3':
    root = request.getfixturevalue('bucket')
  return f'{root}/{uuid.uuid4()}'


@pytest.fixture(scope='module')
def complete():
  return numbers.run()


pytestmark = pytest.mark.filterwarnings('ignore')  # Of the servers' libraries.


def test_a_store_at_an_address_is_one_in_a_directory(address, complete):
  open_it = lambda **options: rllc_jax.open_store(address, **options)
  with pytest.raises(ValueError, match='must hold results'):
    open_it().read()
  numbers.run(open_it(), num_draws=12)
  numbers.assert_same(numbers.run(open_it(keep_chains=False)), complete)
  results = rllc_jax.open_results(address)
  np.testing.assert_array_equal(results.loss[1, 0], complete.loss[1, 0])
  path = open_it().path
  assert len(index.names(path / 'traces')) == 3
  assert not index.names(path / 'chains')


def test_two_runs_at_once_lose_nothing_of_each_other(address, complete):
  """They grow the store in different directions, and know nothing of it."""
  ran = []

  def another(done, total):
    if not ran:
      ran.append(True)
      numbers.run(rllc_jax.open_store(address), datasets=('code',))

  store = rllc_jax.open_store(address)
  numbers.run(store, datasets=('text',), progress=another)
  traces = rllc_jax.open_store(address).read()
  assert {*traces.dataset.values} == {'text', 'code'}
  calls = []
  record = lambda *call: calls.append(call)
  numbers.assert_same(
    numbers.run(rllc_jax.open_store(address), progress=record), complete
  )
  assert calls[0][0] == calls[0][1]


def test_a_run_file_that_another_has_replaced_is_mended(address):
  """Both read it before either wrote."""
  store = rllc_jax.open_store(address)
  lose = lambda *_: (store.path / 'run.json').unlink(missing_ok=True)
  numbers.run(store, datasets=('text',), progress=lose)
  assert (rllc_jax.open_store(address).read().recorded == 30).all()


def test_damage_is_put_aside_there_too(address, complete):
  store = rllc_jax.open_store(address)
  numbers.run(store)
  path = sorted((store.path / 'traces').iterdir())[0]
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=f'{path.name} must be as it was'):
    rllc_jax.open_store(address).read()
  with pytest.warns(UserWarning, match=f'{path.name} was expected'):
    numbers.run(rllc_jax.open_store(address))
  numbers.assert_same(rllc_jax.open_store(address).read(), complete)


def test_two_real_writers_at_once_one_of_which_is_killed(bucket, complete):
  address = f'{bucket}/{uuid.uuid4()}'
  variables = {x: os.environ[x] for x in os.environ if x.startswith('AWS')}
  start = lambda index: binaries.Process(
    processes_test.WORKER, address, index, 2, **variables
  )
  first, second = start(0), start(1)
  second.wait_for_lines(4)
  second.send_signal(signal.SIGKILL)
  second.communicate(timeout=60)
  assert second.returncode == -signal.SIGKILL
  again = start(1)
  for process in (first, again):
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
  numbers.assert_same(rllc_jax.open_store(address).read(), complete)


def test_an_address_that_nothing_reads_is_one_line():
  with pytest.raises(ValueError, match='that fsspec can read') as error:
    disk.open_store('nowhere://bucket/run')
  assert '\n' not in str(error.value)
