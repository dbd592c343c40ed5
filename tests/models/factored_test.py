"""Every two-half loss has the value and the gradient of the plain model."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.analysis import token_losses
from rllc_jax.models import factored
from rllc_jax.models import frozen_layers
from rllc_jax.models import targets
from rllc_jax.models import transformer
from rllc_jax.refinement import parts
from rllc_jax.refinement import weights
from tests.models import small

MODELS = {
  f'{num_layers}_layers': transformer.Architecture(
    num_layers=num_layers,
    num_heads=3,
    d_model=16,
    d_head=4,
    context_length=12,
    vocab_size=50,
  )
  for num_layers in (1, 2, 3)
}
# Tiles that divide neither the 11 queries nor the 44 tokens; one score a tile;
# all at once.
CASES = (
  *((name, frozen_layers.CPU_TILES) for name in MODELS),
  ('2_layers', frozen_layers.Tiles(scores=200, queries=3, tokens=10)),
  ('2_layers', frozen_layers.Tiles(scores=1, queries=4, tokens=7)),
  ('2_layers', frozen_layers.ACCELERATOR_TILES),
)
OTHER_NAMES = ('all', '0:1+1:2', 'embed', 'unembed', '0', '0:attn', '0:0+0:2')
BATCH = np.random.default_rng(5).integers(0, 50, (4, 12)).astype(np.int32)
SHARES = np.random.default_rng(6).uniform(size=BATCH.shape)
WEIGHTED = types.WeightedTokens(BATCH, SHARES.astype(np.float32))


@pytest.fixture(autouse=True)
def precise():
  with jax.default_matmul_precision('highest'):
    yield


@pytest.mark.sampled(2)
@pytest.mark.parametrize('kind', small.KINDS)
def test_losses_of_tokens_are_those_of_the_plain_model(kind):
  """Of every part of a model whose part has moved, whatever the tiles."""
  model = small.KINDS[kind]
  params = small.random_params(model)
  length = min(8, model.context_length)
  ids = np.random.default_rng(7).integers(0, model.vocab_size, (3, length))
  tiles = frozen_layers.Tiles(scores=20, queries=3, tokens=10, vocabulary=7)
  probes = factored.probe_losses(model, tiles=tiles)
  ids, other = jnp.asarray(ids), small.random_params(model, 9)
  plain = jax.jit(token_losses.token_losses, static_argnums=0)
  for family in weights.families(parts_of(model), params, None, probes):
    index = jax.tree.map(lambda leaf: leaf[-1], family.indices)
    position = family.lens.extract(other, index)
    moved = family.lens.insert(position, params, index)
    context = family.loss.context(params, ids)
    actual = jax.jit(family.loss.losses)(position, context, index)
    expected = plain(model, moved, ids).ravel()
    np.testing.assert_allclose(actual, expected, atol=2e-5)
    assert abs(expected - plain(model, params, ids).ravel()).max() > 1e-3


def applied(name):
  return functools.partial(transformer.apply, MODELS[name])


def random_params(name, seed=0):
  return small.random_params(MODELS[name], seed)


@functools.cache
def plain_loss(name):
  return losses.next_token_loss(applied(name))


@functools.cache
def plain_gradient(name):
  return jax.jit(jax.value_and_grad(plain_loss(name)))


def both_halves(family):
  """Compiles the context, and loss and gradient of the chain."""
  gradient = jax.jit(jax.value_and_grad(family.loss.loss))
  return jax.jit(family.loss.context), gradient


@functools.cache
def head_halves(layer):
  """Compiled halves of the default loss of a layer."""
  return both_halves(head_families('2_layers')[layer])


def head_families(name, **options):
  params = random_params(name)
  fast = factored.part_losses(MODELS[name], **options)
  names = parts.head_names(params)
  assert len(names) == 3 * MODELS[name].num_layers
  return weights.families(names, params, plain_loss(name), fast)


def relative_error(actual, expected):
  difference = trees.norm(trees.subtract(actual, expected))
  return float(difference / trees.norm(expected))


def check(families, loss, gradient, params, batch, atol=0.0, rtol=3e-7):
  """Compares all leaves of a refinement together, as b_K has no gradient."""
  for family in families:
    contexts, chains = both_halves(family)
    context, center_loss = contexts(params, batch)
    for place, name in enumerate(family.names):
      index = jax.tree.map(lambda leaf, i=place: leaf[i], family.indices)
      value, slope = chains(family.lens.extract(params, index), context, index)
      expected = family.lens.extract(gradient, index)
      assert relative_error(slope, expected) <= 1e-5, name
      np.testing.assert_allclose(
        center_loss, loss, rtol=1e-6, atol=atol, err_msg=name
      )
      # At w* both halves agree: a paired difference is rounding alone.
      np.testing.assert_allclose(
        value, center_loss, rtol=rtol, atol=atol, err_msg=name
      )


def check_next_tokens(name, families):
  batch = BATCH.copy()
  batch[1, 9:] = losses.IGNORED
  params = random_params(name)
  loss, gradient = plain_gradient(name)(params, batch)
  check(families, loss, gradient, params, batch)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(('name', 'tiles'), CASES)
def test_losses_of_heads_that_share_logits_are_exact(name, tiles):
  families = head_families(name, share_logits=True, tiles=tiles)
  check_next_tokens(name, families)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(('name', 'tiles'), CASES)
def test_losses_of_heads_that_stream_are_exact(name, tiles):
  families = head_families(name, share_logits=False, tiles=tiles)
  check_next_tokens(name, families)


def parts_of(model):
  """Every part of a model that has a loss of its own."""
  names = list(parts.head_names(model.shapes()))
  for layer in range(model.num_layers):
    names += [f'{layer}', f'{layer}:attn']
    names += [f'{layer}:mlp'] if model.d_mlp else []
    if model.group_size > 1:
      names += [f'{layer}:g{i}' for i in range(model.kv_heads)]
  return names


@pytest.mark.sampled(1)
@pytest.mark.parametrize('share_logits', [True, False])
@pytest.mark.parametrize('kind', small.KINDS)
def test_losses_of_all_parts_of_any_transformer_are_exact(kind, share_logits):
  model, params = small.KINDS[kind], small.random_params(small.KINDS[kind])
  plain = losses.next_token_loss(functools.partial(transformer.apply, model))
  fast = factored.part_losses(
    model,
    share_logits=share_logits,
    tiles=frozen_layers.Tiles(2**17, queries=5, tokens=10, vocabulary=18),
  )
  families = weights.families(parts_of(model), params, plain, fast)
  assert {family.loss for family in families} == {*fast.values()}
  loss, gradient = jax.jit(jax.value_and_grad(plain))(params, BATCH)
  check(families, loss, gradient, params, BATCH)


@pytest.mark.long
def test_losses_of_other_refinements_are_exact():
  families = weights.families(
    OTHER_NAMES, random_params('2_layers'), plain_loss('2_layers')
  )
  check_next_tokens('2_layers', families)


@pytest.mark.parametrize('layer', [0, 1])
def test_losses_are_exact_far_from_the_checkpoint(layer):
  """The low-rank update is exact, not a linearization."""
  params, other = random_params('2_layers'), random_params('2_layers', 9)
  lens, index = weights.attention_head(layer), np.int32(2)
  position = lens.extract(other, index)
  moved = lens.insert(position, params, index)
  contexts, chains = head_halves(layer)
  context, center_loss = contexts(params, BATCH)
  value, gradient = chains(position, context, index)
  expected, all_gradients = plain_gradient('2_layers')(moved, BATCH)
  assert abs(float(expected - center_loss)) > 0.01
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  expected_gradient = lens.extract(all_gradients, index)
  assert relative_error(gradient, expected_gradient) <= 1e-5


@pytest.mark.parametrize('layer', [0, 1])
def test_key_biases_have_no_gradient(layer):
  """b_K adds the same to all scores of a row, which softmax ignores."""
  params, index = random_params('2_layers'), np.int32(1)
  contexts, chains = head_halves(layer)
  position = weights.attention_head(layer).extract(params, index)
  _, gradient = chains(position, contexts(params, BATCH)[0], index)
  assert trees.norm(gradient['b_K']) < 1e-6 * trees.norm(gradient)
  assert trees.norm(gradient['b_Q']) > 1e-4


def test_the_streaming_head_loss_never_has_all_logits():
  """Its widest array is [chunk, V], not [B, T, V]."""
  model = transformer.Architecture(
    num_layers=2,
    num_heads=2,
    d_model=8,
    d_head=4,
    context_length=65,
    vocab_size=3000,
  )
  params = small.random_params(model)
  batch = jnp.zeros((32, 65), int)  # 2,048 predictions.
  loss = factored.part_losses(model, tiles=frozen_layers.CPU_TILES)['0:*']
  lens = weights.attention_head(0)
  context = jax.eval_shape(loss.context, params, batch)[0]
  position = lens.extract(params, 0)
  compiled = jax.jit(jax.grad(loss.loss)).lower(position, context, 0).compile()
  logits = 4 * 2048 * 3000
  assert compiled.memory_analysis().temp_size_in_bytes < logits


@functools.cache
def reference_loss(reference):
  return losses.reference_loss(applied('2_layers'), applied(reference))


@functools.cache
def reference_gradient(reference):
  return jax.jit(jax.value_and_grad(reference_loss(reference)))


def families_against(reference, params, **options):
  fast = factored.part_losses(
    MODELS['2_layers'],
    objective=targets.reference_model(MODELS[reference]),
    **options,
  )
  names = parts.head_names(params['model'])
  return weights.families(
    names, params['model'], reference_loss(reference), fast, path=('model',)
  )


@pytest.mark.sampled(1)
@pytest.mark.parametrize('batch', [BATCH, WEIGHTED], ids=['plain', 'weighted'])
@pytest.mark.parametrize('share_logits', [True, False])
def test_losses_against_a_reference_model_are_exact(share_logits, batch):
  """The plain loss, and its gradient, of every head."""
  params = {
    'model': random_params('2_layers'),
    'reference': random_params('1_layers', 3),
  }
  families = families_against('1_layers', params, share_logits=share_logits)
  loss, gradient = reference_gradient('1_layers')(params, batch)
  assert loss > 0.01
  # A few nats less a few nats: the rounding of both.
  check(families, loss, gradient, params, batch, atol=3e-6, rtol=1e-7)


@pytest.mark.long
def test_losses_of_weighted_tokens_are_exact():
  params = random_params('2_layers')
  loss, gradient = plain_gradient('2_layers')(params, WEIGHTED)
  families = head_families('2_layers')
  check(families, loss, gradient, params, WEIGHTED, atol=3e-6, rtol=1e-7)


def test_a_model_against_itself_has_no_loss_and_no_gradient():
  """At the checkpoint, streamed or low-rank."""
  params = random_params('2_layers')
  both = {'model': params, 'reference': params}
  usual = {'model': plain_gradient('2_layers')(params, BATCH)[1]}
  index = np.int32(1)
  for family in families_against('2_layers', both):
    contexts, chains = both_halves(family)
    context, center_loss = contexts(both, BATCH)
    _, slope = chains(family.lens.extract(both, index), context, index)
    assert abs(center_loss) < 3e-6
    scale = trees.norm(family.lens.extract(usual, index))
    assert trees.norm(slope) < 1e-5 * scale
