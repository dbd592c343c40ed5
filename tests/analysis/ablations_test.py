"""Ablations against models with the head's weights changed by hand."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.analysis import ablations
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer
from tests.analysis import known_heads
from tests.models import small

MODEL = transformer.Architecture(
  num_layers=2,
  num_heads=3,
  d_model=16,
  d_head=4,
  context_length=12,
  vocab_size=30,
)
PARAMS = jax.tree.map(np.asarray, small.random_params(MODEL))
# More predictions, 275, than a tile has tokens, and no multiple of it.
BATCH = np.random.default_rng(1).integers(0, 30, (25, 12)).astype(np.int32)


def changed(layer, head, **leaves):
  """The weights with some of a head's leaves replaced."""
  attention = dict(PARAMS[f'blocks_{layer}']['attn'])
  for name, value in leaves.items():
    attention[name] = attention[name].copy()
    attention[name][head] = value
  block = {**PARAMS[f'blocks_{layer}'], 'attn': attention}
  return {**PARAMS, f'blocks_{layer}': block}


@functools.partial(jax.jit, static_argnums=0)
def plain_values(layer, residual):
  """Values [H, B, T, E], and the residual stream after the layer."""
  block = PARAMS[f'blocks_{layer}']
  x = transformer.norm(MODEL, block['ln1'], residual)
  read = transformer.positioned(MODEL, PARAMS, x)
  values = transformer.head_values(MODEL, layer, block['attn'], x, read)
  return values, residual + transformer.write(block['attn'], values)


def values_of(layer, residual):
  return jax.tree.map(np.asarray, plain_values(layer, residual))


@jax.jit
def losses_after(residual, batch):
  normed = transformer.norm(MODEL, PARAMS['ln_final'], residual)
  return token_losses.of_normed(PARAMS, normed, batch[:, 1:])


def assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, rtol=2e-5, atol=2e-5)


class TokenLossesTest(absltest.TestCase):
  def test_losses_equal_the_plain_model_s(self):
    @jax.jit
    def expected(params, batch):
      logits = transformer.apply(MODEL, params, batch[:, :-1])
      log_odds = jax.nn.log_softmax(logits)
      return -jnp.take_along_axis(log_odds, batch[:, 1:, None], axis=2)[..., 0]

    actual = token_losses.token_losses(MODEL, PARAMS, BATCH)
    assert_close(actual, expected(PARAMS, BATCH))


class AblationTest(parameterized.TestCase):
  @parameterized.product(layer=(0, 1), head=(0, 2))
  def test_zero_ablation_equals_a_head_without_output(self, layer, head):
    """W_V and b_V of 0 are values of 0."""
    ablated = ablations.ablated_losses(MODEL, PARAMS, BATCH, 'zero')
    silent = changed(layer, head, W_V=0, b_V=0)
    expected = token_losses.token_losses(MODEL, silent, BATCH)
    assert_close(ablated[layer, head], expected)
    self.assertGreater(
      abs(expected - token_losses.token_losses(MODEL, PARAMS, BATCH)).max(),
      0.01,
    )

  @parameterized.parameters(0, 1)
  def test_mean_ablation_equals_a_head_of_constant_values(self, layer):
    residual = PARAMS['embed']['W_E'][BATCH[:, :-1]]
    for i in range(layer + 1):
      values, residual = values_of(i, residual)
    ablated = ablations.ablated_losses(MODEL, PARAMS, BATCH, 'mean')
    mean = values[1].mean(axis=(0, 1))
    constant = changed(layer, 1, W_V=0, b_V=mean)
    assert_close(
      ablated[layer, 1], token_losses.token_losses(MODEL, constant, BATCH)
    )

  def test_resampling_exchanges_sequences(self):
    """With two sequences, each gets the other's values."""
    batch = BATCH[:2]
    ablated = ablations.ablated_losses(
      MODEL, PARAMS, batch, 'resample', jax.random.key(0)
    )
    values, written = values_of(1, values_of(0, _embedded(batch))[1])
    W_O = PARAMS['blocks_1']['attn']['W_O'][2]
    residual = written + (values[2][::-1] - values[2]) @ W_O
    assert_close(ablated[1, 2], losses_after(residual, batch))

  def test_no_sequence_keeps_its_values(self):
    z = np.arange(7.0)[:, None, None]
    for seed in range(20):
      order = np.random.default_rng(seed).permutation(7)
      resampled = np.asarray(ablations._replacement('resample', order, z))
      self.assertTrue((resampled != z).all())
      np.testing.assert_array_equal(np.sort(resampled.ravel()), z.ravel())

  @parameterized.parameters(
    ('half', None, 'one of zero, mean, resample'),
    ('resample', None, 'needs a key'),
  )
  def test_unknown_kinds_and_missing_keys_are_refused(self, kind, key, message):
    with self.assertRaisesRegex(ValueError, message):
      ablations.ablated_losses(MODEL, PARAMS, BATCH, kind, key)


def _embedded(batch):
  return PARAMS['embed']['W_E'][batch[:, :-1]]


class JointCutTest(absltest.TestCase):
  def test_a_cut_changes_the_inputs_of_a_layer_and_nothing_else(self):
    """Layer 1 recomputed by hand, on a stream without heads 0:0 and 0:2."""
    writers = np.array([1.0, 0, 1])
    cut = ablations.joint_path_losses(MODEL, PARAMS, BATCH, writers, 1)
    values, read = values_of(0, _embedded(BATCH))
    W_O = PARAMS['blocks_0']['attn']['W_O']
    without = read - values[0] @ W_O[0] - values[2] @ W_O[2]
    _, written_without = values_of(1, without)
    residual = read + (written_without - without)
    assert_close(cut, losses_after(residual, BATCH))
    plain = token_losses.token_losses(MODEL, PARAMS, BATCH)
    self.assertGreater(abs(cut - plain).max(), 0.01)

  def test_a_cut_of_no_head_changes_nothing(self):
    cut = ablations.joint_path_losses(MODEL, PARAMS, BATCH, np.zeros(3), 1)
    assert_close(cut, token_losses.token_losses(MODEL, PARAMS, BATCH))

  def test_cutting_the_known_circuit_ends_induction(self):
    """Cuts each part: either head, or the path between them."""
    model, params = known_heads.circuit(vocab_size=20, context_length=32)
    rng = np.random.default_rng(0)
    half = np.stack([rng.permutation(19)[:15] for _ in range(8)])
    start = np.full((8, 1), 19)
    batch = np.concatenate([start, half, half], axis=1)
    second = slice(16, None)  # From the second symbol of the second half on.
    plain = token_losses.token_losses(model, params, batch)[:, second]
    self.assertLess(plain.max(), 0.01)
    loss = lambda writers: ablations.joint_path_losses(
      model, params, batch, np.array(writers), 1
    )[:, second].mean()
    self.assertGreater(loss([1, 0, 0]), 1)
    self.assertGreater(loss([1, 1, 1]), 1)
    self.assertLess(loss([0, 1, 1]), 0.01)
    zero = ablations.ablated_losses(model, params, batch, 'zero')
    zero = np.asarray(zero[..., second]).mean(axis=(2, 3))
    self.assertGreater(min(zero[0, 0], zero[1, 0]), 1)
    zero[:, 0] = 0
    self.assertLess(zero.max(), 0.01)

  def test_layers_in_the_wrong_order_are_refused(self):
    for layers in ((0, 0), (1, 1), (2, 0)):
      with self.assertRaisesRegex(ValueError, 'writer_layer < reader_layer'):
        ablations.joint_path_losses(MODEL, PARAMS, BATCH, np.ones(3), *layers)


if __name__ == '__main__':
  absltest.main()
