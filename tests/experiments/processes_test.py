"""Commands as several real processes, with kills and signals."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
import types

import jax
import numpy as np
import pytest

from experiments.checks import kills
from experiments.runtime import processes
from experiments.runtime import provenance
import rllc_jax
from rllc_jax import checked_files
from rllc_jax.estimators import llc
from rllc_jax.results import disk
from rllc_jax.training import records
from tests import binaries

TEXT = '\n'.join(
  f'The {animal} {i} sat on the mat, and {i + 1} saw the {animal}.'
  for i in range(400)
  for animal in ('cat', 'dog', 'owl')
)


def common(tmp_path_factory):
  """A directory that all workers of pytest see."""
  base = tmp_path_factory.getbasetemp()
  base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
  path = base / 'processes_test'
  path.mkdir(exist_ok=True)
  return path


@pytest.fixture(scope='module')
def settings(tmp_path_factory):
  path = common(tmp_path_factory) / 'animals.txt'
  checked_files.write_bytes(path, TEXT.encode())
  return [
    '--config=experiments/configs/smoke.py',
    '--config.corpus.sources=()',
    '--config.corpus.further=()',
    f"--config.corpus.files=('{path}',)",
    '--config.corpus.vocab_size=300',
    '--config.training.num_steps=60',
    '--config.training.batch_size=16',
    '--config.training.num_checkpoints=3',
    '--config.sampling.num_draws=24',
    '--config.estimation.batch_size=4',
    '--config.sampling.burn_in=0',
  ]


def start(name, workdir, *flags, **variables):
  """Starts a command as a separate process."""
  flags = f'--workdir={workdir}', *flags
  return binaries.Process(name, *flags, merged=True, **variables)


def pair(name, workdir, settings):
  """Starts two connected processes."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'--coordinator=127.0.0.1:{free.getsockname()[1]}'
  flags = (address, *settings)
  return [start(name, workdir, f'--process={i}/2', *flags) for i in range(2)]


def wait_for_news(workdir, pattern, process):
  """Waits until a file is written after the call."""
  before = marks(workdir, pattern)
  wait_for(lambda: marks(workdir, pattern) - before, process)


def wait_for(there, *processes):
  """Waits until `there()` is true, while processes live."""
  until = time.monotonic() + 300
  while not there():
    assert all(process.poll() is None for process in processes)
    assert time.monotonic() < until
    time.sleep(0.02)


def marks(workdir, pattern):
  """Files with their times of writing; one may be removed meanwhile."""
  stamps = set()
  for path in workdir.glob(pattern):
    with contextlib.suppress(FileNotFoundError):
      stamps.add((path.name, path.stat().st_mtime_ns))
  return stamps


def kill(process):
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def finish(process, status=0):
  """Output of a process, which must end with a status."""
  output = process.communicate(timeout=600)[0]
  assert process.returncode == status, output
  return output


@pytest.fixture(scope='module')
def alone(tmp_path_factory, settings):
  """An undisturbed run, made by the first worker that needs it."""
  shared = common(tmp_path_factory)
  workdir, done = shared / 'alone', shared / 'done'
  with (shared / 'lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      for name in ('build_corpus', 'train', 'estimate_rllc'):
        finish(start(name, workdir, *settings))
      done.touch()
  return workdir


def share(workdir, alone, *names):
  """Links parts of a run and its compiled programs into a workdir."""
  for name in (*names, 'compilation_cache'):
    (workdir / name).symlink_to(alone / name)


def traces(workdir):
  return rllc_jax.open_store(workdir / 'rllc').read()


def assert_same(actual, expected, rtol=0.0):
  for name in ('loss', 'center_loss', 'squared_distance', 'baseline_loss'):
    np.testing.assert_allclose(actual[name], expected[name], rtol=rtol)


def test_two_processes_from_text_to_estimates(tmp_path, settings, alone):
  """Both run every command; in the end they are connected, as on a pod."""
  share(tmp_path, alone)
  for name in ('build_corpus', 'train'):
    other = start(name, tmp_path, '--process=1/2', *settings)
    time.sleep(1)  # It begins before process 0.
    finish(start(name, tmp_path, '--process=0/2', *settings))
    finish(other)
  both = [*map(finish, pair('estimate_rllc', tmp_path, settings))]
  assert any('complete' in output for output in both)
  assert_same(traces(tmp_path), traces(alone))
  tables = [(p / 'estimates.csv').read_text() for p in (tmp_path, alone)]
  assert tables[0] == tables[1]


@pytest.mark.long
def test_connected_processes_train_on_all_their_devices(
  tmp_path, settings, alone
):
  """Four devices in two processes; it goes on after a kill of both."""
  share(tmp_path, alone, 'corpus')
  killed = pair('train', tmp_path, settings)
  wait_for((tmp_path / 'train' / 'checkpoints' / '1').exists, *killed)
  for process in killed:
    kill(process)
  for process in pair('train', tmp_path, settings):
    assert 'divided over 4 devices' in finish(process)
  actual, expected = (
    records.load_record(path / 'train' / 'training.zarr')
    for path in (tmp_path, alone)
  )
  np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-3)


@pytest.mark.parametrize(
  'number',
  [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)],
)
def test_a_signal_gives_exit_4_and_the_run_resumes(
  tmp_path, settings, alone, number
):
  share(tmp_path, alone, 'corpus', 'train')
  process = start('estimate_rllc', tmp_path, *settings)
  blocks = tmp_path / 'rllc' / 'traces'
  wait_for(lambda: [*blocks.glob('*.safetensors')], process)
  began = time.monotonic()
  process.send_signal(number)
  output = finish(process, status=4)
  assert time.monotonic() - began < 5
  assert re.search(r'incomplete, stopped by SIG(TERM|INT)', output)
  assert 'Traceback' not in output
  rllc_jax.open_store(tmp_path / 'rllc').read()
  finish(start('estimate_rllc', tmp_path, *settings))
  assert_same(traces(tmp_path), traces(alone))
  runs = provenance.load(tmp_path / 'rllc')
  assert [run['ended'] for run in runs] == [False, True]
  assert runs[1]['config']['sampling']['num_draws'] == 24


def killed_three_times(name, pattern, workdir, settings):
  """Kills a command at its start and twice after a new file, then ends it."""
  process = start(name, workdir, *settings)
  time.sleep(1)
  kill(process)
  for seconds in (0.0, 0.1):
    process = start(name, workdir, *settings)
    wait_for_news(workdir, pattern, process)
    time.sleep(seconds)
    kill(process)
  finish(start(name, workdir, *settings))


def test_training_killed_three_times_ends_bit_equal(tmp_path, settings, alone):
  share(tmp_path, alone, 'corpus')
  settings = [*settings, '--config.training.resume_every=11']
  # Two digits: an incomplete directory has a longer name.
  killed_three_times('train', 'train/resume/[1-9][0-9]', tmp_path, settings)
  assert kills.training_result(tmp_path) == kills.training_result(alone)


def test_estimates_killed_three_times_end_bit_equal(tmp_path, settings, alone):
  """Compiled programs come from the cache."""
  share(tmp_path, alone, 'corpus', 'train')
  killed_three_times(
    'estimate_rllc', 'rllc/traces/*.safetensors', tmp_path, settings
  )
  assert_same(traces(tmp_path), traces(alone))


@pytest.mark.long
@pytest.mark.parametrize('victim', [0, 1])
def test_one_of_two_that_are_connected_is_killed(
  tmp_path, settings, alone, victim
):
  """The survivor does its share and names the missing cells."""
  share(tmp_path, alone, 'corpus', 'train')
  processes = pair('estimate_rllc', tmp_path, settings)
  blocks = tmp_path / 'rllc' / 'traces'
  wait_for(lambda: [*blocks.glob('*.safetensors')], *processes)
  kill(processes[victim])
  output = finish(processes[1 - victim])
  assert re.search(r'has done its share; \d+ cells lack draws', output)
  recorded = traces(tmp_path).recorded
  rows = (recorded == 24).all(['refinement', 'chain']).values.ravel()
  assert rows[1 - victim :: 2].all()
  for process in pair('estimate_rllc', tmp_path, settings):
    finish(process)
  assert_same(traces(tmp_path), traces(alone))


def test_a_second_run_is_refused_and_the_first_is_named(
  tmp_path, settings, alone
):
  share(tmp_path, alone, 'corpus')
  longer = '--config.training.num_steps=100000'
  first = start('train', tmp_path, *settings, longer)
  wait_for((tmp_path / 'train' / 'resume').exists, first)
  output = finish(start('train', tmp_path, *settings, longer), status=1)
  assert f'process {first.pid} on' in output
  assert 'Traceback' not in output
  first.kill()
  first.communicate()


@pytest.mark.long
def test_the_same_command_gives_the_same_bytes(tmp_path, settings, alone):
  """The programs of the second run are compiled again."""
  for name in ('corpus', 'train'):
    (tmp_path / name).symlink_to(alone / name)
  finish(start('estimate_rllc', tmp_path, *settings))
  first, second = (
    llc.llc_from_traces(traces(path), burn_in=0) for path in (tmp_path, alone)
  )
  for name in ('llc', 'standard_error', 'low', 'high'):
    assert first[name].values.tobytes() == second[name].values.tobytes()


def test_an_invalid_process_flag_is_one_line(tmp_path, settings):
  process = start('build_corpus', tmp_path, '--process=2/2', *settings)
  output = finish(process, status=1)
  assert '--process must be INDEX/COUNT' in output.splitlines()[-1]


def test_auto_in_half_a_slurm_job_is_one_line(tmp_path, settings):
  """As in a shell of `salloc`, which has no step."""
  variables = {'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2'}
  process = start(
    'build_corpus', tmp_path, '--process=auto', *settings, **variables
  )
  last = finish(process, status=1).splitlines()[-1]
  assert '--process=auto' in last
  assert 'got SLURM_JOB_ID, SLURM_NTASKS' in last


SLURM = {
  'SLURM_JOB_ID': '7',
  'SLURM_STEP_NODELIST': 'node[1-2]',
  'SLURM_NTASKS': '2',
  'SLURM_PROCID': '1',
  'SLURM_LOCALID': '0',
}


def connected(monkeypatch, process, address=None, **variables):
  """Arguments of `connect` to JAX, with these flags and variables alone."""
  for name in [*os.environ]:
    if name.startswith(('SLURM', 'JAX_COORDINATOR', 'OMPI', 'KUBERNETES')):
      monkeypatch.delenv(name)
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  flag = lambda value: types.SimpleNamespace(value=value)
  monkeypatch.setattr(processes, '_PROCESS', flag(process))
  monkeypatch.setattr(processes, '_ADDRESS', flag(address))
  arguments = []

  def initialize(address=None, count=None, index=None):
    """Detects the cluster as JAX does before connecting."""
    if all(name in os.environ for name in SLURM):
      address = address or 'node1:64000'
      count = count or int(os.environ['SLURM_NTASKS'])
      index = index or int(os.environ['SLURM_PROCID'])
    if address is None:
      raise ValueError('coordinator_address should be defined.')
    if count is None:
      raise ValueError('Number of processes must be defined.')
    arguments.extend((address, count, index))

  monkeypatch.setattr(jax.distributed, 'initialize', initialize)
  monkeypatch.setattr(processes, 'current', lambda: (1, 2))
  processes.connect()
  return arguments


def test_auto_uses_the_variables_of_slurm(monkeypatch):
  arguments = connected(monkeypatch, 'auto', **SLURM)
  assert arguments == ['node1:64000', 2, 1]


def test_auto_uses_the_coordinator_flag(monkeypatch):
  arguments = connected(monkeypatch, 'auto', 'host:1234', **SLURM)
  assert arguments == ['host:1234', 2, 1]


@pytest.mark.parametrize('missing', SLURM)
def test_auto_names_the_missing_variable(monkeypatch, missing):
  variables = {name: x for name, x in SLURM.items() if name != missing}
  with pytest.raises(ValueError, match='--process=auto') as error:
    connected(monkeypatch, 'auto', **variables)
  message = str(error.value)
  assert f'got {", ".join(variables)}, but no {missing}' in message
  assert '--process=INDEX/COUNT' in message
  assert '--coordinator=HOST:PORT' in message
  assert 'srun' in message
  assert 'coordinator_address' not in message


@pytest.mark.parametrize('address', [None, 'host:1234'])
def test_auto_outside_of_a_cluster_is_an_error(monkeypatch, address):
  with pytest.raises(ValueError, match='got no variable of SLURM'):
    connected(monkeypatch, 'auto', address)


def test_auto_quotes_an_invalid_variable(monkeypatch):
  variables = {**SLURM, 'SLURM_NTASKS': '2(x2)'}
  with pytest.raises(ValueError, match=r"--process=auto.*'2\(x2\)'"):
    connected(monkeypatch, 'auto', **variables)


@pytest.mark.parametrize('address', ['host', ':1', 'host:', 'host:port'])
@pytest.mark.parametrize('process', ['0/2', 'auto'])
def test_a_coordinator_without_a_port_is_refused(monkeypatch, process, address):
  with pytest.raises(ValueError, match='--coordinator must be HOST:PORT'):
    connected(monkeypatch, process, address, **SLURM)


def test_a_finished_run_is_verified(settings, alone):
  output = finish(start('verify', alone, *settings))
  assert output.splitlines()[-1].startswith(
    'difference of the block done again'
  )
  assert ' 0 ' in output.splitlines()[-1]


def test_a_run_with_missing_draws_is_not_verified(tmp_path, settings, alone):
  share(tmp_path, alone, 'corpus', 'train')
  shutil.copytree(alone / 'rllc', tmp_path / 'rllc')
  next((tmp_path / 'rllc' / 'traces').iterdir()).unlink()
  last = finish(start('verify', tmp_path, *settings), status=1).splitlines()[-1]
  assert re.search(r'rllc must hold all .* got [1-9]\d* cells that lack', last)


@pytest.mark.long
def test_a_flipped_bit_is_detected_and_resampled(tmp_path, settings, alone):
  share(tmp_path, alone, 'corpus', 'train')
  shutil.copytree(alone / 'rllc', tmp_path / 'rllc')
  path = next((tmp_path / 'rllc' / 'traces').iterdir())
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)
  output = finish(start('verify', tmp_path, *settings), status=1)
  assert f'{path} must be as it was written' in output.splitlines()[-1]
  assert 'done again' in finish(start('estimate_rllc', tmp_path, *settings))
  finish(start('verify', tmp_path, *settings))
  assert_same(traces(tmp_path), traces(alone))


@pytest.mark.long
def test_draws_that_cannot_be_reproduced_are_detected(
  tmp_path, settings, alone
):
  """The store has invented draws with valid checksums."""
  share(tmp_path, alone, 'corpus', 'train')
  path = tmp_path / 'rllc'
  store = disk.open_store(path)
  original = disk.open_store(alone / 'rllc')
  true = original.read()
  run = json.loads((alone / 'rllc' / 'run.json').read_text())
  store.begin(run['identity'], original.extent, 'made up')
  for step in true.checkpoint.values.tolist():
    for name in true.refinement.values.tolist():
      cell = true.sel(checkpoint=[step], dataset='train', refinement=name)
      draws = {x: cell[x].values for x in cell if 'draw' in cell[x].dims}
      draws['loss'] = draws['loss'] + 0.01
      columns = [(name, chain) for chain in range(2)]
      rows, states = [(step, 'train')], [np.zeros((1, 2, 1))]
      baseline = cell.baseline_loss.values
      store.write(rows, columns, 0, draws, states, baseline)
      store.complete(rows, columns)
  store.end()
  output = finish(start('verify', tmp_path, *settings), status=1)
  assert re.search('difference of the block.* NO ', output.splitlines()[-1])
