"""Scores of pairs and n-grams on tables and models that are known."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.analysis import ngram_scores
from rllc_jax.analysis import token_losses
from rllc_jax.models import transformer
from tests.models import small

MODEL = transformer.Architecture(
  num_layers=1,
  num_heads=2,
  d_model=16,
  d_head=4,
  context_length=12,
  vocab_size=10,
)


def pairs_model(table):
  """A model without attention, whose predictions are a table of pairs."""
  V, D = 10, 16
  shapes = MODEL.shapes()
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  params['embed']['W_E'][:, :V] = np.eye(V)
  params['ln_final']['w'] += 1
  # The norm of a unit vector: 1 less the mean, over the deviation.
  x = (np.eye(V, D) - 1 / D) / np.sqrt(1 / D - 1 / D**2 + 1e-5)
  params['unembed']['W_U'] = np.linalg.lstsq(x, np.log(table), rcond=None)[0]
  return params


class BigramTest(absltest.TestCase):
  def test_a_model_of_pairs_is_at_the_floor(self):
    rng = np.random.default_rng(0)
    table = rng.dirichlet(np.ones(10), size=10).astype(np.float32)
    tokens = jnp.asarray(rng.integers(10, size=(40, 12)))
    places = jnp.asarray(rng.integers(1, 12, size=(40, 3)))
    score = ngram_scores.bigram_score(
      MODEL, pairs_model(table), tokens, places, table
    )
    at = np.asarray(tokens)[np.arange(40)[:, None], np.asarray(places)]
    entropies = -np.sum(table * np.log(table), axis=1)[at]
    of_rows = entropies.mean(axis=1)
    error = of_rows.std(ddof=1) / np.sqrt(40)
    np.testing.assert_allclose(score.error, error, rtol=1e-2)
    np.testing.assert_allclose(score.floor, entropies.mean(), rtol=1e-4)
    np.testing.assert_allclose(score.cross_entropy, score.floor, rtol=1e-3)
    # Another model is above it, by the divergence at those places.
    other_table = rng.dirichlet(np.ones(10), size=10).astype(np.float32)
    worse = ngram_scores.bigram_score(
      MODEL, pairs_model(other_table), tokens, places, table
    )
    apart = np.sum(table * np.log(table / other_table), axis=1)[at].mean()
    np.testing.assert_allclose(
      worse.cross_entropy - worse.floor, apart, rtol=1e-2
    )

  def test_pairs_that_never_occur_add_nothing(self):
    table = np.zeros((10, 10), np.float32)
    table[:, 0] = 1
    params = small.random_params(MODEL)
    tokens = jnp.ones((4, 12), int)
    score = ngram_scores.bigram_score(
      MODEL, params, tokens, jnp.full((4, 2), 3), table
    )
    self.assertEqual(score.floor, 0)
    self.assertGreater(score.cross_entropy, 0.1)


class NgramTest(absltest.TestCase):
  def test_only_whole_words_are_counted(self):
    """Tokens 0 to 4 begin words, 5 to 9 go on with them."""
    is_start = np.arange(10) < 5
    tokens = np.array([[9, 0, 5, 1, 6, 7, 0, 5], [9, 5, 5, 0, 5, 2, 3, 8]])
    frequent = lambda length, count: ngram_scores.frequent_ngrams(
      tokens, length, is_start, count
    ).tolist()
    self.assertEqual(frequent(2, 9), [[0, 5], [3, 8]])
    self.assertEqual(frequent(2, 1), [[0, 5]])
    self.assertEqual(frequent(3, 9), [[1, 6, 7]])
    self.assertEqual(frequent(1, 9), [[2]])
    with self.assertRaisesRegex(ValueError, 'words of 4 tokens.*got none'):
      frequent(4, 9)

  def test_the_score_compares_losses_at_the_same_place(self):
    params = small.random_params(MODEL)
    ngrams = np.array([[1, 2, 3], [4, 5, 6]])
    rows = jnp.arange(24.0).reshape(2, 12)
    score = ngram_scores.ngram_score(MODEL, params, ngrams, rows, 8)
    batch = jnp.array([[8, 1, 2, 3], [8, 4, 5, 6]])
    last = token_losses.token_losses(MODEL, params, batch)[:, 2]
    np.testing.assert_allclose(
      score.mean, rows[:, 2].mean() / last.mean(), rtol=1e-6
    )
    relative = [
      x.std(ddof=1) / np.sqrt(2) / x.mean()
      for x in map(np.asarray, (rows[:, 2], last))
    ]
    np.testing.assert_allclose(
      score.error / score.mean, np.hypot(*relative), rtol=1e-5
    )


if __name__ == '__main__':
  absltest.main()
