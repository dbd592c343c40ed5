"""Every two-half loss has the loss and the gradient of the plain model."""

import functools
import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import factored
from rllc_jax.models import frozen_layers
from rllc_jax.models import targets
from rllc_jax.refinement import weights
from tests.models import attention_only_test

MODELS = {
  f'{num_layers}_layers': attention_only.AttentionOnly(
    num_layers=num_layers,
    num_heads=3,
    d_model=16,
    d_head=4,
    context_length=12,
    vocab_size=50,
  )
  for num_layers in (1, 2, 3)
}
CASES = (
  ('2_layers', True, frozen_layers.CPU_TILES),
  ('2_layers', False, frozen_layers.CPU_TILES),
  # Tiles that divide neither the 11 queries nor the 44 tokens; all at once.
  ('2_layers', False, frozen_layers.Tiles(scores=200, queries=3, tokens=10)),
  ('2_layers', True, frozen_layers.ACCELERATOR_TILES),
)
FURTHER_CASES = (
  ('2_layers', True, frozen_layers.Tiles(scores=1, queries=4, tokens=7)),
  *itertools.product(
    ('1_layers', '3_layers'), (True, False), (frozen_layers.CPU_TILES,)
  ),
)
OTHER_NAMES = ('all', '0:1+1:2', 'embed', 'unembed', '0', '0:attn', '0:0+0:2')


def plain_loss(model):
  return losses.next_token_loss(functools.partial(attention_only.apply, model))


def both_halves(family, params, batch, index):
  """Loss at w* by the context, and loss and gradient there by the chain."""
  context, center_loss = family.loss.context(params, batch)
  position = family.lens.extract(params, index)
  loss = jax.value_and_grad(family.loss.loss)
  return center_loss, *loss(position, context, index)


def relative_error(found, expected):
  difference = trees.norm(trees.subtract(found, expected))
  return float(difference / trees.norm(expected))


class IdentityCase(parameterized.TestCase):
  """Over all leaves of a refinement together: b_K alone has no gradient."""

  def check_heads(self, model, share_logits, tiles):
    model = MODELS[model]
    fast = factored.head_losses(model, share_logits=share_logits, tiles=tiles)
    params = attention_only_test.random_params(model)
    names = weights.head_names(params)
    self.assertLen(names, 3 * model.num_layers)
    self.check(model, weights.families(names, params, plain_loss(model), fast))

  def check_lenses(self, names):
    model = MODELS['2_layers']
    params = attention_only_test.random_params(model)
    self.check(model, weights.families(names, params, plain_loss(model)))

  def check(self, model, families):
    batch = jax.random.randint(jax.random.key(5), (4, 12), 0, 50)
    batch = batch.at[1, 9:].set(losses.IGNORED)
    params = attention_only_test.random_params(model)
    plain = jax.jit(jax.value_and_grad(plain_loss(model)))
    with jax.default_matmul_precision('highest'):
      loss, gradient = plain(params, batch)
    for family in families:
      halves = jax.jit(functools.partial(both_halves, family))
      for place, name in enumerate(family.names):
        index = jax.tree.map(lambda leaf, i=place: leaf[i], family.indices)
        with jax.default_matmul_precision('highest'):
          center_loss, value, found = halves(params, batch, index)
        expected = family.lens.extract(gradient, index)
        with self.subTest(name):
          self.assertLessEqual(relative_error(found, expected), 1e-5)
          np.testing.assert_allclose(center_loss, loss, rtol=1e-6)
          # At w* both halves say the same: a paired difference of rounding.
          np.testing.assert_allclose(value, center_loss, rtol=3e-7)


class GradientIdentityTest(IdentityCase):
  @parameterized.parameters(*CASES)
  def test_heads(self, model, share_logits, tiles):
    self.check_heads(model, share_logits, tiles)

  @parameterized.parameters(0, 1)
  def test_far_from_the_checkpoint_too(self, layer):
    """The low-rank update is exact, not a linearization."""
    model = MODELS['2_layers']
    params = attention_only_test.random_params(model)
    other = attention_only_test.random_params(model, seed=9)
    batch = jax.random.randint(jax.random.key(5), (4, 12), 0, 50)
    lens = weights.attention_head(layer)
    moved = lens.insert(lens.extract(other, 2), params, 2)
    loss = factored.head_losses(model)[f'{layer}:*']
    with jax.default_matmul_precision('highest'):
      context, center_loss = jax.jit(loss.context)(params, batch)
      found, gradient = jax.jit(jax.value_and_grad(loss.loss))(
        lens.extract(other, 2), context, 2
      )
      expected, all_gradients = jax.jit(jax.value_and_grad(plain_loss(model)))(
        moved, batch
      )
    self.assertGreater(abs(float(expected - center_loss)), 0.01)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    expected_gradient = lens.extract(all_gradients, 2)
    self.assertLessEqual(relative_error(gradient, expected_gradient), 1e-5)

  @parameterized.parameters(0, 1)
  def test_key_biases_have_no_gradient(self, layer):
    """b_K adds the same to all scores of a row, which softmax ignores."""
    model = MODELS['2_layers']
    params = attention_only_test.random_params(model)
    batch = jax.random.randint(jax.random.key(5), (4, 12), 0, 50)
    lens, loss = weights.attention_head(layer), factored.head_losses(model)
    with jax.default_matmul_precision('highest'):
      context, _ = jax.jit(loss[f'{layer}:*'].context)(params, batch)
      position = lens.extract(params, 1)
      gradient = jax.jit(jax.grad(loss[f'{layer}:*'].loss))(
        position, context, 1
      )
    self.assertLess(trees.norm(gradient['b_K']), 1e-6 * trees.norm(gradient))
    self.assertGreater(trees.norm(gradient['b_Q']), 1e-4)

  def test_the_streaming_head_loss_holds_no_logits(self):
    """The widest thing it makes is [chunk, V], not [B, T, V]."""
    model = attention_only.AttentionOnly(
      num_layers=2,
      num_heads=2,
      d_model=8,
      d_head=4,
      context_length=65,
      vocab_size=3000,
    )
    params = attention_only_test.random_params(model)
    batch = jnp.zeros((32, 65), int)  # 2,048 predictions.
    loss = factored.head_loss(
      model, targets.next_tokens(), 0, frozen_layers.CPU_TILES
    )
    lens = weights.attention_head(0)
    context = jax.eval_shape(loss.context, params, batch)[0]
    position = lens.extract(params, 0)
    compiled = (
      jax.jit(jax.grad(loss.loss)).lower(position, context, 0).compile()
    )
    logits = 4 * 2048 * 3000
    self.assertLess(compiled.memory_analysis().temp_size_in_bytes, logits)


@pytest.mark.long
class FurtherIdentityTest(IdentityCase):
  @parameterized.parameters(*FURTHER_CASES)
  def test_heads_of_other_depths_and_tiles(self, model, share_logits, tiles):
    self.check_heads(model, share_logits, tiles)

  def test_every_other_lens(self):
    self.check_lenses(OTHER_NAMES)


def applied(name):
  return functools.partial(attention_only.apply, MODELS[name])


class ObjectiveTest(parameterized.TestCase):
  """Against another model, and with tokens weighted."""

  @parameterized.parameters((True, True), (False, False))
  def test_another_model(self, share_logits, weighted):
    """The plain loss, and its gradient, of every head."""
    params = {
      'model': attention_only_test.random_params(MODELS['2_layers']),
      'reference': attention_only_test.random_params(MODELS['1_layers'], 3),
    }
    plain = losses.reference_loss(applied('2_layers'), applied('1_layers'))
    fast = factored.head_losses(
      MODELS['2_layers'],
      objective=targets.reference_model(MODELS['1_layers']),
      share_logits=share_logits,
    )
    names = weights.head_names(params['model'])
    families = weights.families(
      names, params['model'], plain, fast, path=('model',)
    )
    self.check(families, plain, params, batch_of_tokens(weighted))

  @pytest.mark.long
  def test_weighted_next_tokens(self):
    params = attention_only_test.random_params(MODELS['2_layers'])
    plain = plain_loss(MODELS['2_layers'])
    fast = factored.head_losses(MODELS['2_layers'])
    names = weights.head_names(params)
    families = weights.families(names, params, plain, fast)
    self.check(families, plain, params, batch_of_tokens(weighted=True))

  def check(self, families, plain, params, batch):
    with jax.default_matmul_precision('highest'):
      loss, gradient = jax.jit(jax.value_and_grad(plain))(params, batch)
    self.assertGreater(loss, 0.01)
    for family in families:
      halves = jax.jit(functools.partial(both_halves, family))
      for i, name in enumerate(family.names):
        with jax.default_matmul_precision('highest'):
          center_loss, value, found = halves(params, batch, jnp.int32(i))
        expected = family.lens.extract(gradient, i)
        with self.subTest(name):
          self.assertLessEqual(relative_error(found, expected), 1e-5)
          # A few nats less a few nats: the rounding of both.
          np.testing.assert_allclose(center_loss, loss, atol=3e-6)
          np.testing.assert_allclose(value, center_loss, atol=3e-6)

  def test_a_model_is_its_own_reference(self):
    """No loss at the checkpoint and no gradient, streamed or low-rank."""
    model = MODELS['2_layers']
    params = attention_only_test.random_params(model)
    both = {'model': params, 'reference': params}
    batch = batch_of_tokens(weighted=False)
    fast = factored.head_losses(model, objective=targets.reference_model(model))
    plain = losses.reference_loss(applied('2_layers'), applied('2_layers'))
    usual = {'model': jax.jit(jax.grad(plain_loss(model)))(params, batch)}
    names = weights.head_names(params)
    for family in weights.families(names, params, plain, fast, path=['model']):
      halves = jax.jit(functools.partial(both_halves, family))
      with jax.default_matmul_precision('highest'):
        center_loss, _, found = halves(both, batch, jnp.int32(1))
      self.assertLess(abs(center_loss), 3e-6)
      scale = trees.norm(family.lens.extract(usual, 1))
      self.assertLess(trees.norm(found), 1e-5 * scale)


def batch_of_tokens(weighted):
  tokens = jax.random.randint(jax.random.key(5), (4, 12), 0, 50)
  if not weighted:
    return tokens
  shares = jax.random.uniform(jax.random.key(6), tokens.shape)
  return types.WeightedTokens(tokens, shares)


if __name__ == '__main__':
  absltest.main()
