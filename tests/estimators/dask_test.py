"""Workers of Dask, one of which is killed and one of which comes late."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

import rllc_jax
from tests import binaries
from tests.estimators import toy

distributed = pytest.importorskip('distributed')


@pytest.fixture
def start(tmp_path):
  """`start(program, *arguments)` starts a program of Dask."""
  processes = []
  variables = {'PYTHONPATH': str(binaries.ROOT), 'JAX_PLATFORMS': 'cpu'}

  def start(program, *arguments):
    command = [sys.executable, '-m', f'distributed.cli.{program}', *arguments]
    log = (tmp_path / f'{len(processes)}.log').open('w')
    process = subprocess.Popen(
      [*command, '--no-dashboard'],
      cwd=tmp_path,
      env={**os.environ, **variables},
      stdout=log,
      stderr=log,
    )
    processes.append(process)
    return process

  yield start
  for process in processes:
    process.kill()
    process.wait()


@pytest.mark.long
@pytest.mark.filterwarnings('ignore')  # Dask's own.
def test_a_killed_worker_and_a_new_one_change_no_draw(tmp_path, start):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  start('dask_scheduler', '--host', *address.replace(':', ' --port ').split())
  add_worker = lambda: start(
    'dask_worker', f'tcp://{address}', '--nthreads', '1', '--no-nanny'
  )
  workers = [add_worker() for _ in range(3)]
  path, killed = tmp_path / 'store', []

  def kill_one(done, total):
    if not killed and done > total // 4:
      workers[0].send_signal(signal.SIGKILL)
      killed.append(time.monotonic())
      add_worker()

  with distributed.Client(f'tcp://{address}', timeout=60) as client:
    client.wait_for_workers(3, timeout=120)
    traces = toy.run(
      store=rllc_jax.open_store(path),
      executor=client.get_executor(pure=False),
      trajectory=toy.trajectory(toy.STEPS),
      num_draws=200,
      segment=50,
      progress=kill_one,
    )
    client.wait_for_workers(3, timeout=120)
    assert len(client.scheduler_info()['workers']) == 3
  assert killed
  expected = toy.run(trajectory=toy.trajectory(toy.STEPS), num_draws=200)
  assert (traces.recorded == expected.recorded).all()
  toy.assert_same_traces(traces, expected)
  assert not [*(path / 'at_work').glob('*.tasks')]
