"""Properties of tokens, and the weights that select them."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import token_classes

TEXTS = ('the', ' cat', ')', '\n', ' 12', 's', ' {', '<eos>')
BITS = token_classes.BITS


def has(classes, name):
  return (classes & BITS[name]) != 0


def by_loops(tokens):
  """Marks repeated pairs of neighbours by the definition."""
  is_repeated = np.zeros(tokens.shape, bool)
  N, T = tokens.shape
  for row, i in itertools.product(range(N), range(1, T)):
    pair = tuple(tokens[row, i - 1 : i + 1])
    before = [tuple(tokens[row, j - 1 : j + 1]) for j in range(1, i)]
    is_repeated[row, i] = pair in before
  return is_repeated


class ClassifyTest(parameterized.TestCase):
  def test_properties_of_a_token_s_text_and_place(self):
    tokens = np.arange(8)[None]
    classes = token_classes.classify(tokens, TEXTS, [])[0]
    expected = {
      'bracket': [2, 7],
      'inside_word': [0, 5],
      'number': [4],
      'space': [3],
      'late': [4, 5, 6, 7],
      'repeated': [],
      'code': [],
    }
    for name, places in expected.items():
      np.testing.assert_array_equal(np.flatnonzero(has(classes, name)), places)

  def test_tokens_in_code_windows_are_code(self):
    tokens = np.zeros((5, 4), int)
    windows = [types.Window(0, 1), types.Window(3, 2)]
    classes = token_classes.classify(tokens, TEXTS, windows)
    np.testing.assert_array_equal(
      has(classes, 'code').all(axis=1), [True, False, False, True, True]
    )

  @parameterized.parameters(2, 3, 20)
  def test_repeated_agrees_with_the_definition(self, vocab_size):
    rng = np.random.default_rng(vocab_size)
    tokens = rng.integers(vocab_size, size=(50, 17)).astype(np.uint16)
    np.testing.assert_array_equal(
      token_classes.repeated(tokens), by_loops(tokens)
    )

  def test_rows_are_classified_in_any_chunk(self):
    """There are more rows than are sorted at once."""
    tokens = np.random.default_rng(0).integers(3, size=(5_000, 4))
    classes = token_classes.classify(tokens, TEXTS, [])
    np.testing.assert_array_equal(
      has(classes, 'repeated'), token_classes.repeated(tokens)
    )


class WindowTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.tokens = rng.integers(8, size=(40, 12))
    self.classes = token_classes.classify(
      self.tokens, TEXTS, [types.Window(20, 5)]
    )

  @parameterized.parameters(
    ((),), (('repeated',),), (('late', 'number'),), (('code',),), (tuple(BITS),)
  )
  def test_weights_average_one_over_predicted_tokens(self, names):
    place = types.Window(10, 20)
    window = token_classes.window(place, self.classes, names)
    weights = window.table[self.classes[10:30, 1:]]
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)
    chosen = np.zeros(weights.shape, bool) | (not names)
    for name in names:
      chosen |= has(self.classes[10:30, 1:], name)
    np.testing.assert_array_equal(weights > 0, chosen)

  def test_weighted_minibatches_average_to_the_chosen_tokens(self):
    """On average over minibatches, the loss over the chosen tokens alone."""
    data = types.ClassedTokens(self.tokens, self.classes)
    batches = minibatches.weighted(data, 4)
    place = types.Window(10, 20)
    window = token_classes.window(place, self.classes, ['repeated'])
    losses = np.random.default_rng(1).normal(size=8)  # Of a token, say.

    @jax.jit
    @jax.vmap
    def mean(key):
      batch = batches.draw(key, 0, batches.data, window)
      token_losses = jax.numpy.asarray(losses)[batch.tokens[:, 1:]]
      return jax.numpy.mean(batch.weights[:, 1:] * token_losses)

    means = np.asarray(mean(jax.random.split(jax.random.key(0), 4_000)))
    chosen = has(self.classes[10:30, 1:], 'repeated')
    expected = losses[self.tokens[10:30, 1:]][chosen].mean()
    error = means.std() / np.sqrt(len(means))
    self.assertLess(abs(means.mean() - expected), 5 * error)
    self.assertGreater(abs(losses[self.tokens].mean() - expected), 10 * error)

  def test_unknown_and_absent_properties_are_refused(self):
    place = types.Window(0, 5)
    with self.assertRaisesRegex(ValueError, "be one of code, .*got 'verb'"):
      token_classes.window(place, self.classes, ['verb'])
    with self.assertRaisesRegex(ValueError, 'must be code.*none in 5 seq'):
      token_classes.window(place, self.classes, ['code'])


if __name__ == '__main__':
  absltest.main()
