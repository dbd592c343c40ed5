"""The next-token loss."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses


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
