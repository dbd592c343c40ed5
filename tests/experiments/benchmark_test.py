"""Rows of the benchmark from invented times."""

import functools
import json
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
import jax
import numpy as np
import pytest

from experiments.checks.benchmarks import generic
from experiments.checks.benchmarks import gpu
from experiments.checks.benchmarks import problem as problems
from experiments.checks.benchmarks import speed
from experiments.checks.benchmarks import yardstick
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer
from tests.models import small


def timing(ours, theirs):
  """Layers take 1 and 4 times as long, on both sides."""
  by_case = lambda seconds: {
    ((8, 256), layer): [factor * s for s in seconds]
    for layer, factor in enumerate((1, 4))
  }
  compilation = {((8, 256), layer): 1.0 for layer in range(2)}
  return speed.Timing(by_case(ours), by_case(theirs), compilation)


class SpeedTest(absltest.TestCase):
  def test_the_ratio_is_of_minima(self):
    rows = list(speed.rows(timing([0.02, 0.01, 0.05], [0.3, 0.06, 0.1])))
    self.assertAlmostEqual(rows[-1].value, 6)
    self.assertTrue(rows[-1].holds)
    self.assertIn('5.00 of medians', rows[-1].note)

  def test_ratio_below_target_does_not_hold(self):
    self.assertFalse(list(speed.rows(timing([0.02], [0.09])))[-1].holds)

  def test_ratio_is_geometric_mean_of_layers(self):
    """Three times faster in one and 27 in the other is nine times."""
    measured = timing([0.01], [0.03])
    measured.theirs[(8, 256), 1][0] *= 9
    self.assertAlmostEqual(list(speed.rows(measured))[-1].value, 9)

  def test_without_a_peer_nothing_is_judged(self):
    measured = timing([0.01], [])._replace(theirs={})
    rows = list(speed.rows(measured))
    self.assertLen(rows, 2)
    self.assertTrue(all(row.holds is None for row in rows))


class YardstickTest(absltest.TestCase):
  def test_pattern_size_equals_the_traced_products(self):
    """By the products that JAX traces: T^2 / 2 and half a block a row."""
    queries, length = frozen_layers.CPU_TILES.queries, 1023
    block_sizes = [queries] * 7 + [length - 7 * queries]
    seen = np.cumsum(block_sizes)
    expected = int(np.dot(block_sizes, seen))
    self.assertEqual(yardstick._pattern_size(length), expected)
    self.assertBetween(expected, length**2 / 2, 0.6 * length**2)


class GenericTest(absltest.TestCase):
  def test_the_ratio_is_of_minima_after_a_first_call(self):
    """With a fake clock: the first calls, which compile, do not count."""
    took = {'a': iter((90.0, 3.0, 9.0)), 'b': iter((80.0, 7.0, 2.0))}
    clock = [0.0]

    def call(name):
      clock[0] += next(took[name])

    a, b = (functools.partial(call, name) for name in 'ab')
    with mock.patch.object(time, 'perf_counter', lambda: clock[0]):
      self.assertEqual(generic.ratio_of_minima(a, b, 2), 1.5)

  def test_masks_are_compared_with_lenses_of_the_same_leaves(self):
    """Compares the masks of the families that both calls would run."""
    params = small.random_params(transformer.Architecture(2, 2, 8, 4, 6, 9))
    problem = problems.Problem(params, np.zeros((4, 6), np.int32))
    sizes = lambda problem, lens, index: [
      x.size for x in jax.tree.leaves(lens.extract(problem.params, index))
    ]
    with mock.patch.object(generic, 'steps', sizes):
      pairs = generic.masked_and_lens(problem)
    self.assertCountEqual(*pairs['one head'])
    masked, lens = pairs['scattered weights']
    self.assertLen(masked, len(lens))
    self.assertBetween(sum(masked) / sum(lens), 0.3, 0.7)


class AcceleratorTest(absltest.TestCase):
  @pytest.mark.long
  def test_gradient_error_detects_other_weights(self):
    """A context of other weights is a gradient of another model."""
    model, tokens = gpu.SMALL.model, np.arange(64).reshape(2, 32)
    params = small.random_params(model)
    family = gpu.head_family(model, 1)
    error = functools.partial(gpu.gradient_error, model)
    self.assertLess(error(family, params, tokens), 1e-5)

    def context(params, batch):
      other = jax.tree.map(lambda leaf: 1.01 * leaf, params)
      return family.loss.context(other, batch)

    wrong = family._replace(loss=family.loss._replace(context=context))
    self.assertGreater(error(wrong, params, tokens), 1e-3)


@pytest.mark.long
def test_accelerator_script_runs_to_the_end(tmp_path):
  """Started from the command line, on the default device."""
  tokens = np.random.default_rng(0).integers(0, 5000, (64, 32))
  np.save(tmp_path / 'tokens.npy', tokens.astype(np.uint16))
  command = [
    sys.executable,
    '-m',
    'experiments.checks.benchmarks.gpu',
    '--small',
  ]
  command += [
    '--small',
    f'--tokens={tmp_path}/tokens.npy',
    f'--out={tmp_path}/out',
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  rows = json.loads((tmp_path / 'out' / 'gpu.json').read_text())
  names = [row['name'] for row in rows]
  assert 'float32, 107 checkpoints' in names, done.stderr
  assert done.returncode == any(row['holds'] is False for row in rows)
  assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [
    'gpu.json',
    'gpu.txt',
  ]


if __name__ == '__main__':
  absltest.main()
