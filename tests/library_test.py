"""The estimator in somebody else's code, and what it may not need."""

import subprocess
import sys

from absl.testing import absltest
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rllc_jax
from rllc_jax.refinement import masks

_BLOCKED = (
  'tensorflow_datasets',
  'tensorflow',
  'orbax',
  'zarr',
  'ml_collections',
  'flax',
  'tokenizers',
  'matplotlib',
  'tqdm',
)


class ImportTest(absltest.TestCase):
  def run_without(self, blocked, code):
    guard = f'import sys\nfor name in {blocked!r}: sys.modules[name] = None\n'
    result = subprocess.run(
      [sys.executable, '-c', guard + code], capture_output=True, text=True
    )
    self.assertEqual(result.returncode, 0, result.stderr)
    return result.stdout

  def test_estimates_in_memory_need_no_store_no_data_sets_and_no_model(self):
    """One checkpoint, then a trajectory, in a process of their own."""
    self.run_without(
      _BLOCKED,
      'import jax, jax.numpy as jnp, rllc_jax\n'
      'e = rllc_jax.estimate_llc(jax.random.key(0), lambda w, b: w**2,'
      ' jnp.zeros([]), jnp.zeros(1), nbeta=10., localization=1.,'
      ' step_size=1e-2, batch_size=1, num_draws=24, burn_in=0)\n'
      'assert e.llc > 0\n'
      'from tests.estimators import toy\n'
      'toy.run()',
    )

  def test_importing_the_package_imports_nothing_else(self):
    found = self.run_without(
      (), 'import rllc_jax\nprint("jax" in sys.modules)\n'
    )
    self.assertEqual(found.strip(), 'False')

  def test_the_public_surface_is_there(self):
    for name in rllc_jax.__all__:
      self.assertIsNotNone(getattr(rllc_jax, name), name)
    with self.assertRaises(AttributeError):
      rllc_jax.estimate  # noqa: B018


class NnxTest(absltest.TestCase):
  def test_an_nnx_model_is_a_loss_and_a_pytree(self):
    """The same estimate as of the same network written as a function."""
    model = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    graph, params = nnx.split(model, nnx.Param)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    noise = 0.1 * rng.normal(size=(40, 1)).astype(np.float32)
    data = np.concatenate([x, model(x) + noise], axis=1)

    def nnx_loss(params, batch):
      predicted = nnx.merge(graph, params)(batch[:, :3])
      return jnp.mean(optax.squared_error(predicted[:, 0], batch[:, 3]))

    def plain_loss(params, batch):
      predicted = batch[:, :3] @ params['kernel'] + params['bias'][None]
      return jnp.mean((predicted[:, 0] - batch[:, 3]) ** 2)

    options = {
      'nbeta': 20.0,
      'localization': 10.0,
      'step_size': 1e-2,
      'batch_size': 8,
      'num_draws': 100,
    }
    key = jax.random.key(1)
    found = rllc_jax.estimate_llc(key, nnx_loss, params, data, **options)
    plain = {'kernel': model.kernel[...], 'bias': model.bias[...]}
    expected = rllc_jax.estimate_llc(key, plain_loss, plain, data, **options)
    np.testing.assert_allclose(found.llc, expected.llc, rtol=1e-4)
    self.assertGreater(found.llc, 5 * found.standard_error)


class MaskTest(absltest.TestCase):
  def test_a_mask_of_the_upper_part_frees_all_below(self):
    params = {'a': {'u': jnp.zeros(3), 'v': jnp.zeros(4)}, 'b': jnp.zeros(2)}
    found = masks.mask_index({'a': True, 'b': False}, params)
    np.testing.assert_array_equal(found, np.arange(7))

  def test_one_weight_alone_does_not_fail_by_chance(self):
    """A chi-square of one degree of freedom passes 10 once in 600 draws."""
    found = rllc_jax.estimate_llc(
      jax.random.key(0),
      lambda w, batch: 0.5 * jnp.sum(w**2),
      jnp.zeros(1),
      jnp.zeros(1),
      nbeta=20.0,
      localization=200.0,
      step_size=1e-3,
      batch_size=1,
      num_chains=512,
      num_draws=1000,
      chunk_size=512,
    )
    self.assertFalse(found.failed.any())
    expected = 0.5 * 20 / 220
    self.assertLess(abs(found.llc - expected), 4 * found.standard_error)

  def test_a_mask_freezes_the_rest(self):
    """Of a bowl in 4 weights, the 2 that move; by the bowl's closed form."""
    h, nbeta, gamma, eps = np.array([1.0, 2.0, 3.0, 4.0]), 50.0, 20.0, 1e-2
    bowl = lambda w, batch: 0.5 * jnp.sum(jnp.asarray(h, jnp.float32) * w**2)
    found = rllc_jax.estimate_llc(
      jax.random.key(0),
      bowl,
      jnp.zeros(4),
      jnp.zeros(1),
      mask=np.array([0, 1, 0, 1]),
      nbeta=nbeta,
      localization=gamma,
      step_size=eps,
      batch_size=1,
      num_chains=64,
      num_draws=20_000,
      chunk_size=64,
    )
    a = nbeta * h[[1, 3]] + gamma
    expected = 0.5 * np.sum(nbeta * h[[1, 3]] / a)
    self.assertLess(found.standard_error, 0.01 * expected)
    self.assertLess(abs(found.llc - expected), 4 * found.standard_error)


if __name__ == '__main__':
  absltest.main()
