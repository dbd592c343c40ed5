"""Scores of a whole model on losses that are known."""

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from rllc_jax.analysis import stage_scores


class InContextTest(parameterized.TestCase):
  @parameterized.parameters(
    (1024, (40, 60), (400, 600)),
    (600, (40, 60), (400, 600)),
    (128, (4, 16), (65, 128)),
    (96, (3, 12), (49, 96)),
    (16, (2, 2), (9, 16)),
    (4, (2, 2), (3, 4)),
  )
  def test_bands_are_near_the_paper_s_tokens_or_in_the_row_s_parts(
    self, length, early, late
  ):
    self.assertEqual(stage_scores.bands(length), (early, late))

  def test_rows_too_short_are_refused(self):
    with self.assertRaisesRegex(ValueError, 'at least 4 tokens.*got 3'):
      stage_scores.bands(3)

  def test_the_score_is_of_tokens_4_to_16_and_65_to_128(self):
    """A loss is 7 before token 4, 3 to 16, 5 to 64 and 2 then, by row more."""
    numbers = np.arange(2, 129)
    steps = np.select(
      [numbers < 4, numbers <= 16, numbers <= 64], [7.0, 3, 5], 2.0
    )
    slopes = np.array([0.0, 1, 5])[:, None]  # Of the late band, by row.
    losses = steps + slopes * (numbers > 64)
    score = stage_scores.in_context_score(losses)
    np.testing.assert_allclose(score.mean, -1 + 2)
    expected = np.std([0, 1, 5], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose(score.error, expected)

  def test_the_error_is_that_of_the_score_over_texts(self):
    """300 texts of 64 rows with levels of their own."""
    rng = np.random.default_rng(0)
    levels = rng.normal(size=(300, 64, 1))
    losses = levels + rng.normal(size=(300, 64, 127))
    scores = [stage_scores.in_context_score(x) for x in losses]
    means, errors = np.array(scores).T
    self.assertBetween(np.std(means) / np.mean(errors), 0.9, 1.1)
    # A row's level cancels.
    self.assertLess(np.mean(errors), 0.05)


class PlacesTest(absltest.TestCase):
  def test_bigrams_are_scored_at_16_different_places_of_a_row(self):
    places = np.asarray(stage_scores._places(jax.random.key(0), 30, 40))
    self.assertEqual(places.shape, (30, 16))
    self.assertTrue(all(len(set(row)) == 16 for row in places.tolist()))
    self.assertEqual((places.min(), places.max()), (1, 39))


if __name__ == '__main__':
  absltest.main()
