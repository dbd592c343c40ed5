"""Losses: next tokens, another model, weighted tokens."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import types


def apply(params, tokens):
  """Logits of the next token, by the current one."""
  return params[tokens]


class NextTokenTest(absltest.TestCase):
  def test_each_token_is_predicted_from_the_one_before(self):
    """A model that predicts t + 1 is right on a counting sequence alone."""

    def count(params, tokens):
      return 100 * jax.nn.one_hot(tokens + 1, 10)

    loss_fn = losses.next_token_loss(count)
    counting = jnp.arange(8, dtype=jnp.uint16)[None]
    np.testing.assert_allclose(loss_fn((), counting), 0, atol=1e-6)
    np.testing.assert_allclose(loss_fn((), counting[:, ::-1]), 100, rtol=1e-6)

  def test_a_weight_counts_the_prediction_of_the_token_that_bears_it(self):
    """And the loss divides by the number of predictions, not by weights."""
    table = jax.random.normal(jax.random.key(0), (5, 5))
    tokens = jnp.array([[0, 3, 1], [4, 4, 2]])
    weights = jnp.array([[9.0, 0.0, 2.0], [9.0, 0.5, 0.0]])
    loss_fn = losses.next_token_loss(apply)
    result = loss_fn(table, types.WeightedTokens(tokens, weights))
    log_odds = jax.nn.log_softmax(table)
    expected = -(2.0 * log_odds[3, 1] + 0.5 * log_odds[4, 4]) / 4
    np.testing.assert_allclose(result, expected, rtol=1e-6)


class PaddingTest(absltest.TestCase):
  def test_a_token_of_minus_100_is_not_predicted(self):
    """The mean is over the others, and nothing is learned from its place."""
    table = jax.random.normal(jax.random.key(0), (5, 5))
    loss_fn = losses.next_token_loss(apply)
    padded = jnp.array([[0, 3, 1, -100], [4, 2, -100, -100]])
    log_odds = jax.nn.log_softmax(table)
    expected = -(log_odds[0, 3] + log_odds[3, 1] + log_odds[4, 2]) / 3
    result, gradient = jax.value_and_grad(loss_fn)(table, padded)
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    # The rows of 1 and 2, which nothing follows, and of 0 beyond its one use.
    np.testing.assert_array_equal(gradient[jnp.array([1, 2])], 0)
    once = jax.nn.softmax(table[0]).at[3].add(-1) / 3
    np.testing.assert_allclose(gradient[0], once, rtol=1e-5)
    nothing = jnp.full((2, 4), -100)
    self.assertEqual(loss_fn(table, nothing), 0)
    in_numpy = loss_fn(table, np.asarray(padded))
    np.testing.assert_allclose(in_numpy, expected, rtol=1e-6)

  def test_weights_keep_their_scale(self):
    table = jax.random.normal(jax.random.key(0), (5, 5))
    weighted = types.WeightedTokens(
      jnp.array([[0, 3, -100]]), jnp.array([[9.0, 2.0, 5.0]])
    )
    result = losses.next_token_loss(apply)(table, weighted)
    expected = -2.0 * jax.nn.log_softmax(table)[0, 3] / 2
    np.testing.assert_allclose(result, expected, rtol=1e-6)

  def test_ids_outside_the_vocabulary_are_refused_by_place(self):
    tokens = np.array([[0, 3, 1, -100], [4, 2, 0, 0]])
    losses.check_tokens(tokens, 5)
    losses.check_tokens(tokens.astype(np.uint8)[1:], 5)
    for data in (tokens, types.ClassedTokens(tokens, tokens)):
      with self.assertRaisesRegex(ValueError, r'0 to 3.*got 4 at \[1, 0\]'):
        losses.check_tokens(data, 4)
    with self.assertRaisesRegex(ValueError, r'got -1 at \[0, 1\]'):
      losses.check_tokens(np.array([[0, -1]]), 5)

  def test_a_stream_of_tokens_is_told_to_be_cut(self):
    loss_fn = losses.next_token_loss(apply)
    with self.assertRaisesRegex(ValueError, r'shape \[6\]. Cut a stream'):
      loss_fn(jnp.zeros((5, 5)), jnp.arange(6))


class ReferenceTest(absltest.TestCase):
  def test_divergence_of_known_distributions(self):
    """KL((1/2, 1/2) || (1/4, 3/4)) = ln(2) - ln(3) / 2."""
    logits, reference = jnp.log(jnp.array([1.0, 3.0])), jnp.zeros(2)
    np.testing.assert_allclose(
      losses.kl_divergence(logits, reference),
      np.log(2) - np.log(3) / 2,
      rtol=1e-6,
    )

  def test_soft_cross_entropy_is_more_by_the_entropy_of_the_reference(self):
    keys = jax.random.split(jax.random.key(0))
    logits, reference = (jax.random.normal(key, (3, 7)) for key in keys)
    odds = jax.nn.softmax(reference)
    np.testing.assert_allclose(
      losses.soft_cross_entropy(logits, reference)
      - losses.kl_divergence(logits, reference),
      -jnp.sum(odds * jnp.log(odds), axis=1),
      rtol=1e-5,
    )

  def test_a_sure_reference_is_the_next_token(self):
    """The soft cross-entropy of a reference that knows is the hard one."""
    table = jax.random.normal(jax.random.key(0), (5, 5))
    tokens = jnp.array([[0, 1, 2, 3, 4, 0]])
    sure = lambda params, inputs: 1e3 * jax.nn.one_hot((inputs + 1) % 5, 5)
    loss_fn = losses.reference_loss(apply, sure, losses.soft_cross_entropy)
    result = loss_fn({'model': table, 'reference': ()}, tokens)
    expected = losses.next_token_loss(apply)(table, tokens)
    np.testing.assert_allclose(result, expected, rtol=1e-6)

  def test_a_model_is_at_no_distance_from_itself(self):
    table = jax.random.normal(jax.random.key(0), (5, 5))
    tokens = jnp.array([[0, 3, 1], [4, 4, 2]])
    loss_fn = losses.reference_loss(apply, apply)

    def of_model(model):
      return loss_fn({'model': model, 'reference': table}, tokens)

    value, gradient = jax.value_and_grad(of_model)(table)
    self.assertLess(abs(value), 1e-7)
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    self.assertGreater(of_model(table.T), 0.1)


if __name__ == '__main__':
  absltest.main()
