"""The streaming loss is the plain loss, value and gradient."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses


class StreamingTest(parameterized.TestCase):
  @parameterized.parameters(1, 4, 7, 12, 100)
  def test_any_chunk_is_the_plain_loss(self, chunk_size):
    keys = jax.random.split(jax.random.key(0), 4)
    x = jax.random.normal(keys[0], (3, 4, 5))
    W_U = 3 * jax.random.normal(keys[1], (5, 11))
    b_U = jax.random.normal(keys[2], (11,))
    targets = jax.random.randint(keys[3], (3, 4), 0, 11)

    def plain(x):
      return losses.cross_entropy(x @ W_U + b_U[None, None], targets)

    def streamed(x):
      return losses.frozen_unembed_cross_entropy(
        x, W_U, b_U, targets, chunk_size=chunk_size
      )

    with jax.default_matmul_precision('highest'):
      value, gradient = jax.value_and_grad(streamed)(x)
      expected, expected_gradient = jax.value_and_grad(plain)(x)
      alone = streamed(x)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(alone, expected, rtol=1e-6)
    # Twenty roundings of numbers near 1.
    np.testing.assert_allclose(gradient, expected_gradient, atol=2e-6)

  def test_far_logits_do_not_overflow(self):
    """exp(1000) is infinite; the loss of a sure and right model is 0."""
    x, targets = jnp.ones((1, 1)), jnp.array([0])
    W_U, b_U = jnp.array([[1000.0, -1000.0]]), jnp.zeros(2)
    value = losses.frozen_unembed_cross_entropy(x, W_U, b_U, targets)
    self.assertEqual(value, 0.0)


class NextTokenTest(absltest.TestCase):
  def test_each_token_is_predicted_from_the_one_before(self):
    """A model that predicts t + 1 is right on a counting sequence alone."""

    def apply(params, tokens):
      return 100 * jax.nn.one_hot(tokens + 1, 10)

    loss_fn = losses.next_token_loss(apply)
    counting = jnp.arange(8, dtype=jnp.uint16)[None]
    np.testing.assert_allclose(loss_fn((), counting), 0, atol=1e-6)
    np.testing.assert_allclose(loss_fn((), counting[:, ::-1]), 100, rtol=1e-6)


if __name__ == '__main__':
  absltest.main()
