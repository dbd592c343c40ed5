"""Properties of tokens, and the weights that single them out."""

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


def has(found, name):
  return (found & BITS[name]) != 0


def by_loops(tokens):
  """Where a pair of neighbours comes again: the definition."""
  found = np.zeros(tokens.shape, bool)
  N, T = tokens.shape
  for row, i in itertools.product(range(N), range(1, T)):
    pair = tuple(tokens[row, i - 1 : i + 1])
    before = [tuple(tokens[row, j - 1 : j + 1]) for j in range(1, i)]
    found[row, i] = pair in before
  return found


class ClassifyTest(parameterized.TestCase):
  def test_what_a_text_tells(self):
    tokens = np.arange(8)[None]
    found = token_classes.classify(tokens, TEXTS, [])[0]
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
      np.testing.assert_array_equal(np.flatnonzero(has(found, name)), places)

  def test_what_a_data_set_tells(self):
    tokens = np.zeros((5, 4), int)
    windows = [types.Window(0, 1), types.Window(3, 2)]
    found = token_classes.classify(tokens, TEXTS, windows)
    np.testing.assert_array_equal(
      has(found, 'code').all(axis=1), [True, False, False, True, True]
    )

  @parameterized.parameters(2, 3, 20)
  def test_pairs_that_come_again(self, vocab_size):
    rng = np.random.default_rng(vocab_size)
    tokens = rng.integers(vocab_size, size=(50, 17)).astype(np.uint16)
    np.testing.assert_array_equal(
      token_classes.repeated(tokens), by_loops(tokens)
    )

  def test_rows_are_classified_in_any_chunk(self):
    """More rows than are sorted at once."""
    tokens = np.random.default_rng(0).integers(3, size=(5_000, 4))
    found = token_classes.classify(tokens, TEXTS, [])
    np.testing.assert_array_equal(
      has(found, 'repeated'), token_classes.repeated(tokens)
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
  def test_weights_average_one_over_what_is_predicted(self, names):
    place = types.Window(10, 20)
    window = token_classes.window(place, self.classes, names)
    weights = window.table[self.classes[10:30, 1:]]
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-6)
    chosen = np.zeros(weights.shape, bool) | (not names)
    for name in names:
      chosen |= has(self.classes[10:30, 1:], name)
    np.testing.assert_array_equal(weights > 0, chosen)

  def test_minibatches_carry_the_weights(self):
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
      own = jax.numpy.asarray(losses)[batch.tokens[:, 1:]]
      return jax.numpy.mean(batch.weights[:, 1:] * own)

    found = np.asarray(mean(jax.random.split(jax.random.key(0), 4_000)))
    chosen = has(self.classes[10:30, 1:], 'repeated')
    expected = losses[self.tokens[10:30, 1:]][chosen].mean()
    error = found.std() / np.sqrt(len(found))
    self.assertLess(abs(found.mean() - expected), 5 * error)
    self.assertGreater(abs(losses[self.tokens].mean() - expected), 10 * error)

  def test_what_is_not_there_is_refused(self):
    place = types.Window(0, 5)
    with self.assertRaisesRegex(ValueError, "be one of code, .*got 'verb'"):
      token_classes.window(place, self.classes, ['verb'])
    with self.assertRaisesRegex(ValueError, 'must be code.*none in 5 seq'):
      token_classes.window(place, self.classes, ['code'])


if __name__ == '__main__':
  absltest.main()
