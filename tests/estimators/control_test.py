"""Controls: what must come out whatever the model is, and what must not matter.

On a transformer's heads with the losses that the binaries use, and on the toy.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import errors
from rllc_jax.estimators import rllc
from rllc_jax.models import factored
from rllc_jax.models import transformer
from rllc_jax.refinement import parts
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld
from tests.estimators import toy
from tests.models import small

MODEL = transformer.Architecture(
  num_layers=2,
  num_heads=3,
  d_model=16,
  d_head=4,
  context_length=12,
  vocab_size=50,
)
PERMUTATION = np.array([2, 0, 1])
NOISE_OFF = sgld.sgld(noise_scale=0.0)


@functools.cache
def subject():
  """Weights, tokens, the plain loss and the families of heads."""
  params = small.random_params(MODEL)
  tokens = jax.random.randint(jax.random.key(1), (40, 12), 0, 50)
  loss_fn = losses.next_token_loss(functools.partial(transformer.apply, MODEL))
  names = parts.head_names(params)
  fast = factored.part_losses(MODEL)
  return params, tokens, loss_fn, weights.families(names, params, loss_fn, fast)


def sample(family, params, data, **changes):
  options = {
    'nbeta': 30.0,
    'localization': 50.0,
    'step_size': 1e-3,
    'num_chains': 2,
    'num_draws': 30,
    'burn_in': 0,
  } | changes
  return toy.estimate(
    jax.random.key(0), family, params, minibatches.uniform(data, 4), **options
  )


class ControlTest(parameterized.TestCase):
  @parameterized.parameters(
    (50.0, 'sgld'), (2000.0, 'sgld'), (2000.0, 'leimkuhler_matthews')
  )
  def test_without_drift_from_the_loss_the_distance_is_known(
    self, localization, sampler
  ):
    """At n beta 0 E|u - u*|^2 = d / (gamma (1 - eps gamma / 4)) exactly.

    The second case has a factor of 2 from the step size; Leimkuhler and
    Matthews have none.
    """
    step_size = 1e-3
    result = sample(
      toy.family(0, 1, 2),
      toy.checkpoint(0),
      toy.data(),
      nbeta=0.0,
      localization=localization,
      step_size=step_size,
      sampler=sampler,
      estimator_nbeta=30.0,
      num_draws=4_000,
      num_chains=8,
      chunk_size=24,
      burn_in=None,
    )
    d = 12
    expected = d / localization
    if sampler == 'sgld':
      expected /= 1 - step_size * localization / 4
    kept = result.traces['squared_distance'][..., -4_000:].mean(axis=1)
    mean = errors.mean_with_error(kept)
    with self.subTest('sharp'):
      np.testing.assert_array_less(mean.standard_error, 0.03 * expected)
    with self.subTest('right'):
      error = abs(mean.value - expected)
      np.testing.assert_array_less(error, 4 * mean.standard_error)
    with self.subTest('the factor is kept'):
      self.assertTrue((result.llc != 0).all())

  def test_a_tight_localization_leaves_nothing(self):
    """llc ~ n beta tr H / (2 gamma) + linear noise ~ gamma^-1/2, both to 0."""
    sizes = []
    for localization in (1e2, 1e4, 1e6):
      result = sample(
        toy.family(0, 1, 2),
        toy.checkpoint(0),
        toy.data(),
        nbeta=30.0,
        localization=localization,
        step_size=0.2 / localization,
        num_draws=200,
        burn_in=None,
        chunk_size=6,
      )
      sizes.append(np.abs(result.llc).max())
    self.assertLess(sizes[1], 0.2 * sizes[0])
    self.assertLess(sizes[2], 0.2 * sizes[1])
    self.assertLess(sizes[2], 0.02)

  def test_a_loss_in_other_units_is_the_same_to_the_bit(self):
    """Powers of 2 only shift exponents, in the loss and in n beta."""
    factor = 1024.0
    loss_fn = lambda params, batch: factor * toy.loss_fn(params, batch)
    family = toy.family(0, 1, 2)
    scaled = family._replace(loss=weights.refine(loss_fn, family.lens))
    there = toy.checkpoint(0), toy.data()
    plain = sample(family, *there)
    result = sample(scaled, *there, nbeta=30.0 / factor, localization=50.0)
    np.testing.assert_array_equal(result.llc, plain.llc)
    np.testing.assert_array_equal(result.standard_error, plain.standard_error)
    for name in ('squared_distance', 'virial', 'squared_gradient'):
      np.testing.assert_array_equal(result.traces[name], plain.traces[name])

  @parameterized.parameters(0, 1)
  def test_permuting_heads_permutes_results(self, layer):
    """A head keeps its name, hence its noise, wherever it is stored."""
    params, tokens, _, families = subject()
    family = families[layer]
    self.assertEqual(family.names, tuple(f'{layer}:{h}' for h in range(3)))
    path = f'blocks_{layer}', 'attn'
    attention = dict(params[path[0]][path[1]])
    for name in parts.HEAD_WEIGHTS:
      moved = attention[name].at[PERMUTATION].set(attention[name])
      attention[name] = moved  # Head h is now at PERMUTATION[h].
    block = {**params[path[0]], path[1]: attention}
    permuted = {**params, path[0]: block}
    renamed = family._replace(indices=jnp.asarray(PERMUTATION, jnp.int32))
    plain = sample(family, params, tokens)
    result = sample(renamed, permuted, tokens)
    for name, trace in plain.traces.items():
      # Sums over heads are taken in another order.
      scale = np.abs(trace).max()
      np.testing.assert_allclose(
        result.traces[name], trace, rtol=1e-3, atol=1e-4 * scale
      )
    stale = sample(family, permuted, tokens)
    with self.subTest('or else it could be that all heads are alike'):
      apart = np.abs(stale.llc - plain.llc)
      self.assertGreater(apart.min(), 10 * np.abs(result.llc - plain.llc).max())


@pytest.mark.filterwarnings('ignore:Estimates by sgld.noise_scale')
class NoiseOffTest(parameterized.TestCase):
  """What moves decides the chain, not how that was said."""

  @pytest.mark.long
  def test_a_mask_of_a_head_is_the_head(self):
    params, tokens, loss_fn, families = subject()
    name, head, family = '0:1', 1, families[0]
    lens = family.lens
    mask = weights.mask_of(lens, jnp.int32(head), params)
    masked = rllc.one_refinement(loss_fn, params, mask)
    one = family._replace(names=(name,), indices=jnp.asarray([head], jnp.int32))
    self.assert_same_chains(one, masked, params, tokens)

  @pytest.mark.long
  def test_a_mask_of_ones_is_no_mask(self):
    params, tokens, loss_fn, _ = subject()
    every = weights.all_weights()
    whole = types.Refinements(
      ('all',), every, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, every)
    )
    ones = jax.tree.map(np.ones_like, params)
    masked = rllc.one_refinement(loss_fn, params, ones)
    self.assert_same_chains(whole, masked, params, tokens)

  def assert_same_chains(self, a, b, params, tokens):
    a, b = (
      sample(family, params, tokens, sampler=NOISE_OFF) for family in (a, b)
    )
    for name in ('loss', 'squared_distance', 'squared_gradient'):
      # Two ways to compute one gradient, over 30 steps.
      np.testing.assert_allclose(
        a.traces[name], b.traces[name], rtol=1e-3, atol=1e-9
      )
    self.assertGreater(a.traces['squared_distance'].max(), 1e-4)


if __name__ == '__main__':
  absltest.main()
