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
  """The sweep without changes, and what it keeps; no test changes them."""
  kept = {}
  return sweep(kept=kept), kept


class CalibrateTest(parameterized.TestCase):
  def test_a_cell_is_the_estimate_at_its_setting(self):
    """Another route: one call a setting, one device, a buffer of its own."""
    found, _ = plain()
    self.assertEqual(
      found.llc.dims, ('step_size', 'nbeta', 'localization', 'refinement')
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
        found.sel(point._asdict())[name],
        getattr(expected, name),
        rtol=2e-4,
        err_msg=name,
      )
    self.assertLen(np.unique(found.llc), 16)

  def test_each_setting_has_its_own_burn_in(self):
    """10 / (epsilon gamma) steps, then as many draws as all others."""
    found, _ = plain()
    product = found.step_size * found.localization
    burn_in = np.ceil(10 / product - 1e-9)
    np.testing.assert_array_equal(
      found.num_draws, (24 + burn_in).broadcast_like(found.num_draws)
    )
    self.assertTrue((found.num_kept == 24).all())
    given = sweep(burn_in=7, num_steps_between_draws=2)
    self.assertTrue((given.num_draws == 24 + 4).all())
    self.assertTrue((given.num_kept == 24).all())

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

  def test_what_is_kept_is_not_done_again(self):
    seen = []
    whole, kept = plain()
    self.assertLen(kept, 8)
    kept = {name: x.copy(deep=True) for name, x in kept.items()}
    for name in list(kept)[3:]:
      kept[name] = None if name == list(kept)[-1] else kept[name]
    del kept[list(kept)[-1]]
    kept[min(kept)]['llc'] += 100
    wider = {**GRID, 'nbetas': (10.0, 30.0, 90.0)}
    found = sweep(
      kept=kept, progress=lambda *x: seen.append((*x, len(kept))), **wider
    )
    self.assertEqual(seen[0], (0, 12, 7))
    self.assertEqual(seen[-1], (12, 12, 12))
    difference = found.llc.sel(nbeta=[10.0, 30.0]) - whole.llc
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

  def test_chains_that_fail_are_counted_and_the_rest_is_kept(self):
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
    found = toy.calibrate(
      KEY,
      family,
      jnp.zeros(2),
      data,
      step_sizes=(2.5e-4, 5e-4, 1e-3),  # epsilon a, the steep one: 4.1 at last.
      **options,
    )
    np.testing.assert_array_equal(
      found.num_failed.squeeze(), [[0, 0], [0, 0], [0, 4]]
    )
    self.assertTrue(np.isfinite(found.llc.sel(refinement='flat')).all())
    self.assertTrue(np.isnan(found.llc.sel(refinement='steep')[-1]).all())
    self.assertIn('all 4 chains failed', str(found.verdict.values[-1, 0, 0, 1]))
    steep = family._replace(names=('steep',), indices=jnp.arange(1, 2))
    with self.assertRaisesRegex(
      ValueError, 'Some chain.*step sizes under 0.00'
    ):
      toy.calibrate(
        KEY, steep, jnp.zeros(2), data, step_sizes=(1e-3, 2e-3), **options
      )

  def test_no_setting_takes_more_steps_than_its_own(self):
    """Minibatches drawn are counted: what a buffer could hold costs nothing."""
    drawn = []

    def draw(rng_key, step, data, window):
      del rng_key, window
      jax.debug.callback(lambda step: drawn.append(int(step)), step)
      return data

    found = toy.calibrate(
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
    # Twice: each of the two devices draws for its own columns. Step 0 is drawn
    # at the door, too.
    steps = 2 * int((found.num_draws - 1).sum())
    self.assertLen([step for step in drawn if step], steps)
    self.assertLess(steps, 2 * 8 * int(found.num_draws.max() - 1))

  def test_curvature_is_that_of_the_plain_loss(self):
    """A fast loss may have a gradient of its own that holds only once."""

    @jax.custom_vjp
    def fast(w):
      return 0.5 * jnp.sum(w**2)

    backward = lambda w, cotangent: (cotangent * jax.lax.stop_gradient(w),)
    fast.defvjp(lambda w: (fast(w), w), backward)
    found = toy.calibrate(
      KEY,
      rllc.one_refinement(lambda w, batch: fast(w), jnp.zeros(3), None),
      jnp.zeros(3),
      minibatches.uniform(jnp.zeros(1), 1),
      plain_loss=lambda w, batch: 0.5 * jnp.sum(w**2),
      **{**GRID, **OPTIONS, 'num_curvature_batches': 2},
    )
    a = (found.nbeta + found.localization).broadcast_like(found.curvature)
    np.testing.assert_allclose(found.curvature, a, rtol=1e-6)


class FrontDoorTest(absltest.TestCase):
  def test_a_masked_bowl_is_exact_at_every_setting(self):
    """Bias of the step size included; 128 directions that move, of 192.

    1/2 nbeta h / (a (1 - epsilon a / 4)) each, a = nbeta h + gamma.
    """
    h = np.where(np.arange(192) < 128, 1.0, 50.0).astype(np.float32)
    loss_fn = lambda w, batch: 0.5 * jnp.sum(jnp.asarray(h) * w**2)
    found = calibration.calibrate_llc(
      jax.random.key(1),
      loss_fn,
      jnp.zeros(192),
      jnp.zeros(1),
      mask=h == 1,
      step_sizes=(4e-3, 8e-3, 1.6e-2),
      nbetas=(20.0, 80.0),
      localizations=(20.0,),
      batch_size=1,
      num_chains=8,
      num_draws=800,
      chunk_size=4,
    )
    self.assertEqual(found.llc.dims, calibration.GRID_DIMS)
    a = found.nbeta + found.localization  # h = 1 where weights move.
    np.testing.assert_allclose(found.curvature, a, rtol=1e-6)
    share = found.nbeta / (a * (1 - found.step_size * a / 4))
    expected = 128 / 2 * share.transpose(*found.llc.dims)
    self.assertLess(float((found.standard_error / expected).max()), 0.02)
    deviation = abs(found.llc - expected) / found.standard_error
    self.assertLess(float(deviation.max()), 4)
    # The bias is seen: at the largest step 47 % (a = 100).
    self.assertGreater(float(found.llc[-1, -1, 0] / found.llc[0, -1, 0]), 1.4)


if __name__ == '__main__':
  absltest.main()
