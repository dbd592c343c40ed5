"""Commands on a real full disk that is enlarged step by step."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import rllc_jax
from rllc_jax.training import records
from tests import binaries
from tests.experiments import processes_test

# Names, with the flags of all of them after the directory and the size.
SCRIPT = r"""
disk=$1; size=$2; shift 2
mount -t tmpfs -o size=${size}k tmpfs $disk/small
for name in build_corpus train estimate_rllc; do
  until "$PYTHON" -m experiments.$name --workdir=$disk/small "$@" \
      > $disk/said/$name-$size 2>&1; do
    size=$((size * 5 / 4))
    mount -o remount,size=${size}k $disk/small
  done
done
cp -r $disk/small $disk/end
"""

settings = processes_test.settings
alone = processes_test.alone


def own_mounts(*command, **options):
  """Runs a command that may mount file systems for itself alone."""
  if not shutil.which('unshare'):
    pytest.skip('needs unshare')
  unshared = ['unshare', '--user', '--map-root-user', '--mount', *command]
  return subprocess.run(unshared, check=False, **options)


@pytest.fixture
def disk(tmp_path):
  for name in ('small', 'said'):
    (tmp_path / name).mkdir()
  mounted = own_mounts('mount', '-t', 'tmpfs', 'tmpfs', tmp_path / 'small')
  if mounted.returncode:
    pytest.skip('needs a system where every user may mount a tmpfs')
  return tmp_path


@pytest.mark.long
def test_commands_fail_on_a_full_disk_and_resume_on_a_larger_one(
  disk, settings, alone
):
  """Every command fails several times and then has the undisturbed result."""
  environment = {
    **os.environ,
    'PYTHON': sys.executable,
    'JAX_PLATFORMS': 'cpu',
    'JAX_NUM_CPU_DEVICES': '2',
  }
  own_mounts(
    *('bash', '-c', SCRIPT, 'bash', str(disk), '64', *settings),
    cwd=binaries.ROOT,
    env=environment,
    timeout=900,
  )
  refused = []
  for path in (disk / 'said').iterdir():
    name, output = path.name.split('-')[0], path.read_text()
    assert 'Traceback' not in output
    if f'{name}: error: ' in output:
      line = output[output.index(f'{name}: error: ') :].rstrip('\n')
      assert '\n' not in line
      assert str(disk / 'small') in line and 'the same command again' in line
      refused.append(name)
  for name, least in (('build_corpus', 5), ('train', 5), ('estimate_rllc', 1)):
    assert refused.count(name) >= least
  end, expected = disk / 'end', alone
  processes_test.assert_same(
    *(rllc_jax.open_store(path / 'rllc').read() for path in (end, expected))
  )
  np.testing.assert_array_equal(
    *(
      records.load_record(path / 'train' / 'training.zarr').loss
      for path in (end, expected)
    )
  )
