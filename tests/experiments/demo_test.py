"""The demo as a user runs it, with real text, processes and kills. Minutes."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from absl.testing import absltest
import numpy as np
import pytest

from experiments import estimate_rllc
from experiments.configs import smoke
import rllc_jax
from rllc_jax.data import packing
from rllc_jax.training import records

CONFIG = '--config=experiments/configs/smoke.py'
ROOT = pathlib.Path(__file__).parent.parent.parent


def command(name, workdir, *flags, **options):
  """Starts a command as a separate process."""
  return subprocess.Popen(
    [
      sys.executable,
      '-m',
      f'experiments.{name}',
      f'--workdir={workdir}',
      *flags,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    **options,
  )


@pytest.mark.long
class DemoTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    directory = cls.enterClassContext(tempfile.TemporaryDirectory())
    cls.workdir = pathlib.Path(directory) / 'smoke'
    process = command('demo', cls.workdir, CONFIG)
    cls.output = process.communicate(timeout=600)[0]
    assert process.returncode == 0, cls.output

  def test_the_last_line_is_the_path_of_the_report(self):
    path = self.output.strip().splitlines()[-1].split()[-1]
    self.assertGreater(pathlib.Path(path).stat().st_size, 50_000)

  def test_the_model_learned(self):
    """Held-out loss well below the unigram entropy of its corpus."""
    record = records.load_record(self.workdir / 'train' / 'training.zarr')
    last = float(record.held_out_loss[-1])
    self.assertLess(last, record.attrs['unigram_entropy'] - 0.5)
    self.assertGreater(float(record.held_out_loss[0]), last + 1)

  def test_heads_are_in_equilibrium(self):
    """E[d.grad U] - eps/4 E|grad U|^2 = d, minibatch noise included.

    On trained heads with minibatches of their own, within 4 standard errors
    that are themselves small.
    """
    config = smoke.get_config()
    config.sampling.update(
      {'share_batches': False, 'num_draws': 400, 'num_chains': 8}
    )
    workdir = self.workdir.parent / 'equilibrium'
    workdir.mkdir()
    for name in ('corpus', 'train'):
      (workdir / name).symlink_to(self.workdir / name)
    config.estimation.checkpoints = (500,)
    estimates = estimate_rllc.run(config, workdir)
    errors = estimates.equilibrium_ratio_error
    self.assertLess(float(errors.max()), 0.01)
    deviation = np.abs(estimates.equilibrium_ratio - 1) / errors
    self.assertLess(float(deviation.max()), 4)

  def test_a_second_call_changes_nothing(self):
    before = rllc_jax.open_store(self.workdir / 'rllc').read()
    process = command('demo', self.workdir, CONFIG)
    output = process.communicate(timeout=300)[0]
    self.assertEqual(process.returncode, 0, output)
    self.assertIn('already complete', output)
    after = rllc_jax.open_store(self.workdir / 'rllc').read()
    np.testing.assert_array_equal(before.loss, after.loss)

  def test_demo_killed_repeatedly_ends_bit_equal(self):
    """SIGKILL again and again, through corpus, training and estimates."""
    workdir = self.workdir.parent / 'killed'
    seconds, kills = 4.0, 0
    while True:
      process = command('demo', workdir, CONFIG)
      try:
        output = process.communicate(timeout=seconds)[0]
        break
      except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills, seconds = kills + 1, seconds * 1.3
    self.assertEqual(process.returncode, 0, output)
    self.assertGreater(kills, 2)
    undisturbed, resumed = (
      rllc_jax.open_store(path / 'rllc').read()
      for path in (self.workdir, workdir)
    )
    for name in ('loss', 'center_loss', 'squared_distance'):
      np.testing.assert_array_equal(undisturbed[name], resumed[name])
    corpora = (
      packing.load_corpus(p / 'corpus') for p in (self.workdir, workdir)
    )
    np.testing.assert_array_equal(*(corpus.tokens for corpus in corpora))

  def test_bad_input_is_one_line_and_exit_1(self):
    cases = {
      '--config.sampling.nbeta=-1.0': 'nbeta must be at least 0',
      '--config.sampling.step_size=0.0': 'step_size must be positive',
      '--config.sampling.num_draws=5': 'At least 24 draws',
      "--config.estimation.refinements=('0:9',)": '0:0, 0:1, 1:0, 1:1',
      "--config.estimation.datasets=('code',)": 'train/stdlib_code',
      '--config.sampling.step_size=0.002': 'made with step_size = 0.004',
      '--config.estimation.checkpoints=(7,)': '7',
      '--config.estimaton.nbeta=1': 'estimaton',
    }
    before = rllc_jax.open_store(self.workdir / 'rllc').read()
    for flag, expected in cases.items():
      with self.subTest(flag):
        process = command('estimate_rllc', self.workdir, CONFIG, flag)
        output = process.communicate(timeout=120)[0]
        self.assertNotEqual(process.returncode, 0)
        self.assertIn(expected, output)
        if 'estimaton' not in flag:
          self.assertRegex(output.splitlines()[-1], '^estimate_rllc: error: ')
          self.assertNotIn('Traceback', output)
    after = rllc_jax.open_store(self.workdir / 'rllc').read()
    np.testing.assert_array_equal(before.loss, after.loss)


if __name__ == '__main__':
  absltest.main()
