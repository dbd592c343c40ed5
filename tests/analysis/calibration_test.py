"""Sweeps against the estimator that they sweep, and against closed forms."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.analysis import calibration
from rllc_jax.data import minibatches
from rllc_jax.estimators import rllc
from tests.estimators import toy

COMPILED = toy.compile_counter()
KEY = jax.random.key(0)
GRID = {
  'step_sizes': (2e-3, 1e-3),
  'nbetas': (10.0, 30.0),
  'localizations': (50.0, 100.0),
}
OPTIONS = {'num_chains': 2, 'num_draws': 24, 'num_curvature_batches': 0}


def sweep(step=0, **changes):
  options = GRID | OPTIONS | changes
  return toy.calibrate(
    KEY,
    toy.family(0, 2),
    toy.checkpoint(step),
    minibatches.uniform(toy.data(), 4),
    **options,
  )


@functools.cache
def plain():
  """The sweep without changes, and its cache; no test changes them."""
  cache = {}
  return sweep(cache=cache), cache


class CalibrateTest(parameterized.TestCase):
  def test_a_cell_is_the_estimate_at_its_setting(self):
    """Compared with one call per setting, on one device and another buffer."""
    estimates, _ = plain()
    self.assertEqual(
      estimates.llc.dims, ('step_size', 'nbeta', 'localization', 'refinement')
    )
    point = calibration.Setting(2e-3, 30.0, 100.0)
    expected = toy.estimate(
      KEY,
      toy.family(0, 2),
      toy.checkpoint(0),
      minibatches.uniform(toy.data(), 4),
      nbeta=point.nbeta,
      localization=point.localization,
      step_size=point.step_size,
      num_chains=2,
      num_draws=24,
    )
    for name in ('llc', 'standard_error', 'low', 'equilibrium_ratio'):
      # Sums in float32 in another order: two devices, another program.
      np.testing.assert_allclose(
        estimates.sel(point._asdict())[name],
        getattr(expected, name),
        rtol=2e-4,
        err_msg=name,
      )
    self.assertLen(np.unique(estimates.llc), 16)

  def test_each_setting_has_its_own_burn_in(self):
    """10 / (epsilon gamma) steps, then as many draws as all others."""
    estimates, _ = plain()
    product = estimates.step_size * estimates.localization
    burn_in = np.ceil(10 / product - 1e-9)
    np.testing.assert_array_equal(
      estimates.num_draws, (24 + burn_in).broadcast_like(estimates.num_draws)
    )
    self.assertTrue((estimates.num_kept == 24).all())
    fixed = sweep(burn_in=7, num_steps_between_draws=2)
    self.assertTrue((fixed.num_draws == 24 + 4).all())
    self.assertTrue((fixed.num_kept == 24).all())

  def test_a_sweep_is_one_program(self):
    """Eight settings, two checkpoints, another grid of the same longest run."""
    COMPILED.clear()
    options = {'num_chains': 3, 'num_curvature_batches': 2}
    first = sweep(**options)
    sweep(step=10, **options)
    sweep(**{**options, 'nbetas': (20.0,), 'step_sizes': (1e-3, 2e-3, 4e-3)})
    self.assertEqual(COMPILED['jit(run)'], 1, dict(COMPILED))
    self.assertEqual(COMPILED['jit(product)'], 1, dict(COMPILED))
    self.assertTrue((first.num_failed == 0).all())

  def test_cached_settings_are_not_sampled_again(self):
    calls = []
    full, cache = plain()
    self.assertLen(cache, 8)
    cache = {name: x.copy(deep=True) for name, x in cache.items()}
    for name in list(cache)[3:]:
      cache[name] = None if name == list(cache)[-1] else cache[name]
    del cache[list(cache)[-1]]
    cache[min(cache)]['llc'] += 100
    wider = {**GRID, 'nbetas': (10.0, 30.0, 90.0)}
    estimates = sweep(
      cache=cache, progress=lambda *x: calls.append((*x, len(cache))), **wider
    )
    self.assertEqual(calls[0], (0, 12, 7))
    self.assertEqual(calls[-1], (12, 12, 12))
    difference = estimates.llc.sel(nbeta=[10.0, 30.0]) - full.llc
    self.assertEqual(int((abs(difference) > 1e-5).sum()), 2)
    np.testing.assert_allclose(difference.max(), 100, rtol=1e-5)

  @parameterized.parameters(
    ({'step_sizes': (1e-3,)}, 'at least two step sizes'),
    ({'step_sizes': (1e-3, 3e-3)}, 'each twice the one before'),
    ({'step_sizes': (1e-3, 1e-3)}, 'each once.*got .0.001, 0.001'),
    ({'step_sizes': (1e-3, 2e-3, 8e-3)}, 'each twice the one before'),
    ({'nbetas': ()}, 'values of nbeta'),
    ({'localizations': (50.0, 50.0)}, 'values of localization, each once'),
    ({'nbetas': (-1.0, 30.0)}, 'nbeta must be at least 0'),
    ({'nbetas': (0.0, 30.0)}, 'estimator_nbeta must be given'),
    ({'localizations': (0.0, 50.0)}, 'burn_in must be given'),
    ({'localizations': (50.0, 2000.0)}, 'under 4'),
    ({'step_sizes': (0.0, 1e-3)}, 'each twice|must be positive'),
    ({'num_draws': 23}, 'At least 24 draws'),
    ({'window': types.Window(60, 10)}, 'window of data set'),
  )
  def test_a_bad_grid_is_refused_before_anything_runs(self, changes, message):
    COMPILED.clear()
    with self.assertRaisesRegex(ValueError, message):
      sweep(**changes)
    self.assertEqual(COMPILED['jit(run)'], 0)

  def test_failed_chains_are_counted_and_other_cells_stay(self):
    """Two directions of curvature: past 4 / epsilon only the steep one goes."""
    lens = types.Lens(lambda w, i: w[i], lambda u, w, i: w.at[i].set(u))
    loss_fn = lambda w, batch: 0.5 * jnp.sum(jnp.array([1.0, 40.0]) * w**2)
    family = types.Refinements(
      ('flat', 'steep'),
      lens,
      jnp.arange(2),
      calibration.weights.refine(loss_fn, lens),
    )
    options = {'nbetas': (100.0,), 'localizations': (100.0,), 'num_draws': 400}
    data = minibatches.uniform(jnp.zeros(1), 1)
    estimates = toy.calibrate(
      KEY,
      family,
      jnp.zeros(2),
      data,
      step_sizes=(2.5e-4, 5e-4, 1e-3),  # epsilon a, the steep one: 4.1 at last.
      **options,
    )
    np.testing.assert_array_equal(
      estimates.num_failed.squeeze(), [[0, 0], [0, 0], [0, 4]]
    )
    self.assertTrue(np.isfinite(estimates.llc.sel(refinement='flat')).all())
    self.assertTrue(np.isnan(estimates.llc.sel(refinement='steep')[-1]).all())
    self.assertIn(
      'all 4 chains failed', str(estimates.verdict.values[-1, 0, 0, 1])
    )
    steep = family._replace(names=('steep',), indices=jnp.arange(1, 2))
    with self.assertRaisesRegex(
      ValueError, 'Some chain.*step sizes under 0.00'
    ):
      toy.calibrate(
        KEY, steep, jnp.zeros(2), data, step_sizes=(1e-3, 2e-3), **options
      )

  def test_no_setting_takes_more_steps_than_its_own(self):
    """Counts minibatches: room in a buffer costs no steps."""
    drawn = []

    def draw(rng_key, step, data, window):
      del rng_key, window
      jax.debug.callback(lambda step: drawn.append(int(step)), step)
      return data

    estimates = toy.calibrate(
      KEY,
      rllc.one_refinement(
        lambda w, x: jnp.sum((w - x) ** 2), jnp.zeros(1), None
      ),
      jnp.zeros(1),
      types.Minibatches(jnp.zeros(1), draw),
      window=(),
      **{**GRID, **OPTIONS, 'num_chains': 1},
    )
    jax.effects_barrier()
    # Once: the second device has no column and draws nothing. Step 0 is drawn
    # at the door, too, and two steps come before it.
    steps = int((estimates.num_draws - 1).sum())
    self.assertLen([step for step in drawn if step > 0], steps)
    before = 2 * estimates.num_draws.size
    self.assertLen([step for step in drawn if step < 0], before)
    self.assertLess(steps, 8 * int(estimates.num_draws.max() - 1))

  def test_curvature_is_that_of_the_plain_loss(self):
    """A fast loss may have a gradient of its own that holds only once."""

    @jax.custom_vjp
    def fast(w):
      return 0.5 * jnp.sum(w**2)

    backward = lambda w, cotangent: (cotangent * jax.lax.stop_gradient(w),)
    fast.defvjp(lambda w: (fast(w), w), backward)
    estimates = toy.calibrate(
      KEY,
      rllc.one_refinement(lambda w, batch: fast(w), jnp.zeros(3), None),
      jnp.zeros(3),
      minibatches.uniform(jnp.zeros(1), 1),
      plain_loss=lambda w, batch: 0.5 * jnp.sum(w**2),
      **{**GRID, **OPTIONS, 'num_curvature_batches': 2},
    )
    a = (estimates.nbeta + estimates.localization).broadcast_like(
      estimates.curvature
    )
    np.testing.assert_allclose(estimates.curvature, a, rtol=1e-6)


class FrontDoorTest(absltest.TestCase):
  def test_a_masked_bowl_is_exact_at_every_setting(self):
    """Bias of the step size included; 128 directions that move, of 192.

    1/2 nbeta h / (a (1 - epsilon a / 4)) each, a = nbeta h + gamma.
    """
    h = np.where(np.arange(192) < 128, 1.0, 50.0).astype(np.float32)
    loss_fn = lambda w, batch: 0.5 * jnp.sum(jnp.asarray(h) * w**2)
    estimates = calibration.calibrate_llc(
      jax.random.key(1),
      loss_fn,
      jnp.zeros(192),
      jnp.zeros(1),
      mask=h == 1,
      step_sizes=(4e-3, 8e-3, 1.6e-2),
      nbetas=(20.0, 80.0),
      localizations=(20.0,),
      batch_size=1,
      sampler='sgld',
      num_chains=8,
      num_draws=3000,
      chunk_size=4,
    )
    self.assertEqual(estimates.llc.dims, calibration.GRID_DIMS)
    a = estimates.nbeta + estimates.localization  # h = 1 where weights move.
    np.testing.assert_allclose(estimates.curvature, a, rtol=1e-6)
    share = estimates.nbeta / (a * (1 - estimates.step_size * a / 4))
    expected = 128 / 2 * share.transpose(*estimates.llc.dims)
    self.assertLess(float((estimates.standard_error / expected).max()), 0.01)
    deviation = abs(estimates.llc - expected) / estimates.standard_error
    self.assertLess(float(deviation.max()), 4)
    # The bias is seen: at the largest step 47 % (a = 100).
    self.assertGreater(
      float(estimates.llc[-1, -1, 0] / estimates.llc[0, -1, 0]), 1.4
    )


if __name__ == '__main__':
  absltest.main()
