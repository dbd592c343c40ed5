"""A trajectory that is kept on disk is the one in memory, whatever happens."""

import functools
import pathlib
import shutil

from absl.testing import parameterized
import jax
import numpy as np
import pytest

import rllc_jax
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.samplers import sgld
from tests import binaries
from tests.estimators import toy


@functools.cache
def whole():
  return toy.run()


@functools.cache
def finished():
  path = toy.directory() / 'store'
  toy.run(store=rllc_jax.open_store(path))
  return path


def copy_of_finished():
  return pathlib.Path(shutil.copytree(finished(), toy.directory() / 'store'))


@pytest.mark.filterwarnings('ignore:Estimates by sgld.noise_scale')
class StoreTest(parameterized.TestCase):
  def test_a_store_holds_what_memory_holds(self):
    path = toy.directory() / 'store'
    expected = whole()
    result = toy.run(store=rllc_jax.open_store(path))
    toy.assert_same_traces(result, expected, rtol=0)
    read = rllc_jax.open_store(path).read()
    self.assertEqual(set(read.variables), set(expected.variables))
    for name in expected.variables:
      np.testing.assert_array_equal(read[name], expected[name], err_msg=name)

  def test_padding_is_not_stored(self):
    """6 rows in blocks of 4, 6 columns in chunks of 4."""
    result = toy.run(
      store=rllc_jax.open_store(toy.directory() / 'store'),
      mesh=grid.make_mesh(1, 1),
      rows_per_block=4,
      chunk_size=4,
    )
    toy.assert_same_traces(result, whole())
    self.assertEqual(result.baseline_loss.shape, (3, 2, 3, 4))
    self.assertTrue(np.isfinite(result.baseline_loss).all())

  def test_a_run_that_stopped_goes_on_bit_for_bit(self):
    """After every number of segments."""
    expected = whole()
    for last in (2, 8):
      path = toy.directory() / 'store'

      class Stop(Exception):
        pass

      calls = []

      def stop(done, total, last=last, calls=calls, Stop=Stop):
        calls.append(done)
        if len(calls) == last:
          raise Stop

      with self.assertRaises(Stop):
        toy.run(store=rllc_jax.open_store(path), segment=8, progress=stop)
      kept = rllc_jax.open_store(path).read()
      self.assertEqual(int(kept.recorded.sum()), calls[-1])
      result = toy.run(store=rllc_jax.open_store(path), segment=8)
      for name in toy.TRACES:
        np.testing.assert_array_equal(result[name], expected[name])

  def test_a_run_that_grew_in_every_direction_has_the_same_numbers(self):
    path = toy.directory() / 'store'
    first = {
      'num_chains': 1,
      'num_draws': 24,
      'burn_in': 0,
      'trajectory': toy.trajectory((20,)),
      'refinements': [toy.family(1)],
    }
    toy.run(store=rllc_jax.open_store(path), **first)
    result = toy.run(store=rllc_jax.open_store(path))
    toy.assert_same_traces(result, whole())

  @parameterized.parameters(
    ({'step_size': 2e-3}, 'step_size = 0.001, and this run has 0.002'),
    ({'nbeta': 10.0, 'localization': 50.0}, 'nbeta = 30.0'),
    ({'rng_key': jax.random.key(1)}, 'rng_key'),
    ({'minibatches': minibatches.uniform(toy.data(), 8)}, 'batch'),
    ({'minibatches': minibatches.uniform(1 + toy.data(), 4)}, 'data = '),
    ({'datasets': {'text': types.Window(0, 39)}}, r'windows.text = \[0, 40\]'),
    ({'provenance': {'loss': 'other'}}, 'provenance.loss'),
    ({'sampler': sgld.sgld(noise_scale=0.5)}, 'noise_scale=0.5'),
    (
      {
        'trajectory': types.Trajectory(
          (0,), lambda steps: toy.trajectory().load([9] * len(steps))
        )
      },
      'params.0',
    ),
  )
  def test_another_run_is_refused_with_the_first_difference(self, other, said):
    path = copy_of_finished()
    before = rllc_jax.open_store(path).read()
    options = {'num_draws': 30} | other
    with self.assertRaisesRegex(ValueError, said):
      toy.run(store=rllc_jax.open_store(path), **options)
    after = rllc_jax.open_store(path).read()
    np.testing.assert_array_equal(before.loss, after.loss.isel(draw=slice(30)))

  def test_a_complete_store_of_other_weights_is_refused(self):
    path = copy_of_finished()
    other = lambda steps: toy.trajectory().load([step + 1 for step in steps])
    with self.assertRaisesRegex(ValueError, 'params.0'):
      toy.run(
        store=rllc_jax.open_store(path),
        trajectory=types.Trajectory((0, 10, 20), other),
        num_chains=3,
      )
    self.assertEqual(rllc_jax.open_store(path).read().sizes['chain'], 2)

  def test_a_process_loads_its_own_checkpoints_if_they_have_fingerprints(self):
    path, loaded = toy.directory() / 'store', []
    steps = (0, 10, 20, 40)

    def load(steps):
      loaded.append(tuple(steps))
      return toy.trajectory().load(steps)

    known = toy.trajectory(steps)._replace(load=load, fingerprint=str)
    options = {'trajectory': known, 'datasets': {'text': types.Window(0, 40)}}
    store = rllc_jax.open_store(path, process=(0, 2))
    toy.run(store=store, mesh=grid.make_mesh(1, 1), **options)
    # The first, to try the lens; then every other one.
    self.assertEqual(loaded, [(0,), (0,), (20,)])
    with self.assertRaisesRegex(ValueError, 'params.10 = 10, and this .* 10!'):
      options['trajectory'] = known._replace(
        fingerprint=lambda step: '10!' if step == 10 else str(step)
      )
      toy.run(store=rllc_jax.open_store(path), **options)

  def test_a_killed_process_loses_one_segment_at_most(self):
    """A real process, a real SIGKILL, bit-equal in the end."""
    path = toy.directory() / 'store'
    code = """
      import jax; jax.config.update('jax_num_cpu_devices', 2)
      import rllc_jax, sys; from tests.estimators import toy
      say = lambda done, total: print(done, flush=True)
      toy.run(store=rllc_jax.open_store(sys.argv[1]), segment=3, progress=say)
    """
    process = binaries.Process(code, path)
    process.wait_for_lines(6)
    process.kill()
    process.communicate()
    kept = int(rllc_jax.open_store(path).read().recorded.sum())
    self.assertBetween(kept, 5 * 3 * 6, 3 * 2 * 3 * 2 * 30 - 1)
    result = toy.run(store=rllc_jax.open_store(path), segment=3)
    for name in toy.TRACES:
      np.testing.assert_array_equal(result[name], whole()[name])
