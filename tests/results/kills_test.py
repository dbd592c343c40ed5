"""A run after a kill or a full disk ends with the same traces."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import sys
import textwrap
import threading

import numpy as np
import pytest

import rllc_jax
from tests.binaries import ROOT
from tests.estimators import toy
from tests.experiments import small_disk_test
from tests.results import numbers


def run(path, **options):
  """Two blocks of three or four segments each."""
  options = {'num_draws': 32, 'segment': 11, 'keep_chains': True} | options
  return numbers.run(
    rllc_jax.open_store(path, keep_chains=options.pop('keep_chains')),
    trajectory=toy.trajectory((0, 10)),
    datasets={'text': toy.DATASETS['text']},
    refinements=[toy.family(0, 1)],
    rows_per_block=1,
    **options,
  )


@pytest.fixture
def replacing(monkeypatch):
  """A hook on every file that is written: `replacing[0](move)` moves it."""
  real, hooks, lock = os.replace, [lambda move: move()], threading.Lock()

  def replace(source, target, **options):
    with lock:  # Zarr writes in threads.
      hooks[0](lambda: real(source, target, **options))

  monkeypatch.setattr(os, 'replace', replace)
  return hooks


def copy_unless_gone(source, target):
  """Copies a file; other threads may be at it."""
  with contextlib.suppress(FileNotFoundError):
    shutil.copy2(source, target)


@pytest.mark.parametrize(
  'keep_chains', [True, pytest.param(False, marks=pytest.mark.long)]
)
def test_a_kill_at_any_write_changes_no_draw(
  tmp_path, replacing, sample, keep_chains
):
  """Runs on copies of the directory, taken before every move, end the same.

  Each copy holds the temporary file of the move, and all files moved before.
  """
  path, number = tmp_path / 'store', itertools.count()
  fewer = {'num_draws': 24, 'keep_chains': keep_chains}
  more = {'num_draws': 32, 'keep_chains': keep_chains}

  def copy_before(move):
    copied = tmp_path / 'copies' / str(next(number))
    shutil.copytree(path, copied, copy_function=copy_unless_gone)
    move()

  replacing[0] = copy_before
  run(path, **fewer)
  expected = run(path, **more)
  replacing[0] = lambda move: move()
  copies = sorted((tmp_path / 'copies').iterdir(), key=lambda x: int(x.name))
  assert len(copies) > 20
  for killed in sample(copies, 12):
    traces = run(killed, **more)
    for name in expected.variables:
      np.testing.assert_array_equal(traces[name], expected[name], err_msg=name)
    chains = [*(killed / 'chains').glob('*.safetensors')]
    assert len(chains) == (2 if keep_chains else 0)


def refused(path, replacing, number, error):
  """True if the move with this number failed, and a second run ended."""
  calls = itertools.count()

  def fail(move):
    if next(calls) == number:
      raise error
    move()

  replacing[0] = fail
  try:
    run(path)
    return False
  except OSError as raised:
    message = f'{re.escape(str(path))}.*{error.strerror}.*run the same command'
    assert re.search(message, str(raised))
  replacing[0] = lambda move: move()
  run(path)
  return True


def assert_same(path, expected):
  traces = rllc_jax.open_store(path).read()
  for name in expected.variables:
    np.testing.assert_array_equal(traces[name], expected[name], err_msg=name)


def test_a_full_disk_at_any_write_is_named_and_loses_nothing(
  tmp_path, replacing, sample
):
  expected = run(tmp_path / 'whole')
  full = OSError(errno.ENOSPC, 'No space left on device')
  calls = itertools.count()
  replacing[0] = lambda move: (next(calls), move())
  run(tmp_path / 'counted')
  count = next(calls)
  assert count > 15
  for number in sample(range(count), 8):
    path = tmp_path / str(number)
    assert refused(path, replacing, number, full)
    assert_same(path, expected)


@pytest.mark.parametrize('number', [0, 9])
def test_a_read_only_disk_is_named_and_loses_nothing(
  tmp_path, replacing, number
):
  expected = run(tmp_path / 'whole')
  error = PermissionError(errno.EACCES, 'Permission denied')
  assert refused(tmp_path / 'store', replacing, number, error)
  assert_same(tmp_path / 'store', expected)


FULL = """
  import subprocess, sys
  import rllc_jax
  from tests.results import numbers
  path, size, refused = sys.argv[1], 16, 0
  mount = lambda how: subprocess.run(
    ['mount', '-o', f'{how}size={size}k', '-t', 'tmpfs', 'tmpfs', path],
    check=True)
  mount('')
  while True:
    try:
      traces = numbers.run(rllc_jax.open_store(f'{path}/store'))
      break
    except OSError as error:
      assert 'No space left' in str(error), error
      assert 'run the same command again' in str(error), error
      refused, size = refused + 1, size + 12
      mount('remount,')
  numbers.assert_same(traces, numbers.run())
  numbers.assert_same(rllc_jax.open_store(f'{path}/store').read(), traces)
  print(refused)
"""


def test_a_real_full_disk_that_grows_is_named_and_loses_nothing(tmp_path):
  own_mounts = small_disk_test.own_mounts
  if own_mounts('mount', '-t', 'tmpfs', 'tmpfs', tmp_path).returncode:
    pytest.skip('needs a system where every user may mount a tmpfs')
  code = textwrap.dedent(FULL)
  command = sys.executable, '-W', 'ignore', '-c', code, str(tmp_path)
  ended = own_mounts(*command, capture_output=True, text=True, cwd=ROOT)
  assert not ended.returncode, ended.stderr
  assert int(ended.stdout) > 3


def test_without_saved_chains_more_draws_start_from_the_checkpoint(tmp_path):
  path = tmp_path / 'store'
  calls = []
  record = lambda done, total: calls.append(done)
  run(path, num_draws=24, keep_chains=False)
  assert not [*(path / 'chains').iterdir()]
  traces = run(path, keep_chains=False, progress=record)
  assert calls[0] == 0
  expected = run(tmp_path / 'kept', progress=record)
  np.testing.assert_array_equal(traces.loss, expected.loss)
