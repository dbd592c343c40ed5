"""The transformer is the paper's, and attends to the past alone."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import trees
from rllc_jax.models import architecture
from rllc_jax.models import transformer
from tests.models import small

SMALL = transformer.Architecture(
  num_layers=2,
  num_heads=3,
  d_model=16,
  d_head=4,
  context_length=9,
  vocab_size=20,
)


class SizeTest(parameterized.TestCase):
  @parameterized.parameters((2, 3_355_016), (1, 3_091_336))
  def test_the_paper_s_model_has_its_number_of_weights(
    self, num_layers, expected
  ):
    model = transformer.Architecture(num_layers=num_layers)
    shapes = model.shapes()
    self.assertEqual(trees.size(shapes), expected)

  def test_names_and_shapes_are_those_of_transformer_lens(self):
    shapes = SMALL.shapes()
    attention = jax.tree.map(
      lambda leaf: leaf.shape, shapes['blocks_1']['attn']
    )
    self.assertEqual(
      attention,
      {
        'W_Q': (3, 16, 4),
        'W_K': (3, 16, 4),
        'W_V': (3, 16, 4),
        'W_O': (3, 4, 16),
        'b_Q': (3, 4),
        'b_K': (3, 4),
        'b_V': (3, 4),
        'b_O': (16,),
      },
    )


class ForwardTest(parameterized.TestCase):
  def test_logits_have_no_gradient_in_later_tokens(self):
    """Loss at one position against the embedding of every position."""
    params = small.random_params(SMALL)
    tokens = jnp.arange(9)[None]

    def logit(embedded, position):
      moved = {**params, 'embed': {'W_E': embedded}}
      return transformer.apply(SMALL, moved, tokens)[0, position].max()

    jacobian = jax.jit(jax.jacrev(jax.vmap(logit, (None, 0))))
    gradients = jacobian(params['embed']['W_E'], jnp.arange(9))
    reach = np.abs(gradients[:, :9]).sum(axis=-1)  # [position, embedding]
    np.testing.assert_array_equal(np.triu(reach, 1), 0)
    self.assertGreater(reach[np.tril_indices(9)].min(), 1e-6)

  def test_the_forward_pass_agrees_with_float64_numpy(self):
    """The forward pass of the paper, written out in float64."""
    params = jax.tree.map(
      lambda w: np.asarray(w, float), small.random_params(SMALL)
    )
    tokens = np.array([3, 1, 4, 1, 5])

    def norm(p, x):
      x = x - x.mean(-1, keepdims=True)
      return (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p['w'] + p['b']
      )

    r = params['embed']['W_E'][tokens]
    positions = params['pos_embed']['W_pos'][:5]
    for layer in range(2):
      block = params[f'blocks_{layer}']
      p, x = block['attn'], norm(block['ln1'], r)
      for h in range(3):
        q = (x + positions) @ p['W_Q'][h] + p['b_Q'][h]
        k = (x + positions) @ p['W_K'][h] + p['b_K'][h]
        scores = q @ k.T / np.sqrt(4)
        scores[np.triu_indices(5, 1)] = -np.inf
        pattern = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
        r = r + pattern @ (x @ p['W_V'][h] + p['b_V'][h]) @ p['W_O'][h]
      r = r + p['b_O']
    expected = norm(params['ln_final'], r) @ params['unembed']['W_U']
    expected += params['unembed']['b_U']
    with jax.default_matmul_precision('highest'):
      apply = jax.jit(functools.partial(transformer.apply, SMALL))
      logits = apply(small.random_params(SMALL), tokens[None])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)

  def test_the_loss_starts_near_the_logarithm_of_the_vocabulary(self):
    model = transformer.Architecture(context_length=32, vocab_size=1000)
    init = jax.jit(architecture.init_params, static_argnums=1)
    params = init(jax.random.key(0), model)
    batch = np.random.default_rng(1).integers(0, 1000, (8, 32))
    loss_fn = losses.next_token_loss(
      functools.partial(transformer.apply, model)
    )
    # Logits of variance 0.64 cost 0.32 nats over the uniform log V.
    np.testing.assert_allclose(
      jax.jit(loss_fn)(params, batch), np.log(1000) + 0.32, atol=0.1
    )

  def test_a_longer_sequence_is_refused(self):
    params = small.random_params(SMALL)
    with self.assertRaisesRegex(ValueError, '9 positions; got 10 tokens'):
      transformer.apply(SMALL, params, jnp.zeros((1, 10), int))


if __name__ == '__main__':
  absltest.main()
