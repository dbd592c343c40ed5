"""Clusters and turning points of synthetic curves."""

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
import pytest

from rllc_jax.analysis import curves

TIMES = np.linspace(0, 1, 30)
CLASSES = [0, 1, 2, 0, 1, 2, 0, 1]


def three_kinds(scale=0.05):
  """Rises, falls and bumps, with noise."""
  shapes = np.array([TIMES, 1 - TIMES, np.sin(np.pi * TIMES)])
  noise = scale * np.random.default_rng(0).normal(size=(8, 30))
  return shapes[CLASSES] + noise


class ClusterTest(parameterized.TestCase):
  @parameterized.product(
    method=('euclidean', 'hierarchical'), normalisation=curves.NORMALISATIONS
  )
  def test_kinds_of_curves_are_found(self, method, normalisation):
    self.check_kinds(method, normalisation)

  @pytest.mark.long
  def test_warping_finds_kinds_of_curves(self):
    self.check_kinds('dtw', 'standard')

  def check_kinds(self, method, normalisation):
    clusters = curves.cluster_curves(
      three_kinds(), 3, method=method, normalisation=normalisation
    )
    np.testing.assert_array_equal(clusters.labels, CLASSES)
    self.assertGreater(clusters.silhouette, 0.6)
    self.assertEqual(curves.agreement(clusters.labels, CLASSES), 1)

  @parameterized.parameters('minmax', 'standard')
  def test_normalised_curves_are_clustered_by_shape(self, normalisation):
    """At two levels and sizes, which alone decide without normalisation."""
    levels = np.array([0, 0, 50, 50])[:, None]
    sizes = np.array([1, 1, 9, 9])[:, None]
    shapes = np.array([TIMES, 1 - TIMES])[[0, 1, 0, 1]]
    labels = lambda how: curves.cluster_curves(
      levels + sizes * shapes, 2, normalisation=how
    ).labels.tolist()
    self.assertEqual(labels('none'), [0, 0, 1, 1])
    self.assertEqual(labels(normalisation), [0, 1, 0, 1])

  @parameterized.product(
    method=('euclidean', 'hierarchical'), normalisation=curves.NORMALISATIONS
  )
  def test_one_curve_is_one_group(self, method, normalisation):
    clusters = curves.cluster_curves(
      TIMES[None], 1, method=method, normalisation=normalisation
    )
    self.assertEqual(clusters.labels.tolist(), [0])
    self.assertTrue(np.isnan(clusters.silhouette))
    with self.assertRaisesRegex(ValueError, '2 clusters.*got 1 of 1'):
      curves.cluster_curves(TIMES[None], 2, method=method)

  @parameterized.parameters('euclidean', 'hierarchical')
  def test_all_curves_may_form_one_group(self, method):
    clusters = curves.cluster_curves(three_kinds(), 1, method=method)
    self.assertEqual(set(clusters.labels.tolist()), {0})

  def test_a_whole_number_of_any_type_is_a_number_of_groups(self):
    for count in (3, 3.0, np.int64(3)):
      for method in ('euclidean', 'hierarchical'):
        clusters = curves.cluster_curves(three_kinds(), count, method=method)
        np.testing.assert_array_equal(clusters.labels, CLASSES)

  @parameterized.parameters('none', 'standard')
  def test_shapes_are_found_at_any_level_and_size(self, normalisation):
    levels = np.array([0, 0, 0, 50, 50, 50])[:, None]
    sizes = np.array([1, 1, 1, 9, 9, 9])[:, None]
    shapes = np.array([np.sin(np.pi * TIMES), TIMES])[[0, 1, 0, 1, 0, 1]]
    noise = 0.01 * np.random.default_rng(0).normal(size=(6, 30))
    values = levels + sizes * (shapes + noise)
    clusters = curves.cluster_curves(
      values, 2, method='kshape', normalisation=normalisation
    )
    np.testing.assert_array_equal(clusters.labels, [0, 1] * 3)

  def test_a_flat_curve_has_no_shape(self):
    flat = np.stack([TIMES, np.ones(30), 1 - TIMES])
    with self.assertRaisesRegex(ValueError, 'must change.*got 1 of 3'):
      curves.cluster_curves(flat, 2, method='kshape')

  @pytest.mark.long
  def test_warping_forgives_a_shift(self):
    """A bump early, in the middle and late, against a dip."""
    bump = lambda at: np.exp(-(((TIMES - at) / 0.05) ** 2))
    mixed = np.array([bump(0.3), bump(0.5), -bump(0.5), -bump(0.7)])
    clusters = curves.cluster_curves(mixed, 2, method='dtw')
    np.testing.assert_array_equal(clusters.labels, [0, 0, 1, 1])

  @parameterized.parameters(
    (np.ones((4, 5)), 2, {}, '2 clusters need as many.*got 1 of 4'),
    (
      np.array([[0.0, 0], [0, 1]]),
      2,
      {'normalisation': 'minmax'},
      'must change.*got 1 of 2',
    ),
    (np.array([[0, np.nan]]), 1, {}, 'finite numbers'),
    (np.eye(3), 4, {}, '4 clusters.*got 3'),
    (np.eye(3), 0, {}, 'at least 1.*got 0'),
    (np.eye(3), -1, {}, 'at least 1.*got -1'),
    (np.eye(3), 1.5, {}, 'whole number.*got 1.5'),
    (np.zeros((0, 5)), 1, {}, r'at least one curve.*got shape \[0, 5\]'),
    (np.zeros((3, 0)), 1, {}, r'at least one curve.*got shape \[3, 0\]'),
    (np.arange(4.0), 1, {}, r'\[N, K\].*got shape \[4\]'),
    (np.eye(3), 2, {'method': 'kmeans'}, 'one of euclidean'),
    (np.eye(3), 2, {'normalisation': 'log'}, 'one of none'),
  )
  def test_impossible_clusterings_are_refused(
    self, values, count, how, message
  ):
    with self.assertRaisesRegex(ValueError, message):
      curves.cluster_curves(values, count, **how)


class StagesTest(parameterized.TestCase):
  def test_turns_of_a_known_curve_are_boundaries(self):
    """cos(2 x) in x = ln(1 + step) turns at pi / 2, pi, 3 pi / 2, ..."""
    steps = np.expm1(np.linspace(0, 6, 60))
    truth = 100 + 20 * np.cos(2 * np.log1p(steps))
    noise = np.random.default_rng(0).normal(size=60)
    stages = curves.stages(steps, truth + noise, np.ones(60))
    expected = np.array([np.pi / 2, np.pi, 3 * np.pi / 2])
    np.testing.assert_allclose(np.log1p(stages.boundaries), expected, atol=0.1)
    np.testing.assert_array_equal(stages.rises_to, [False, True, False])
    low, high = (
      np.log1p(x) for x in (stages.boundary_low, stages.boundary_high)
    )
    # Of three 95 % intervals one may miss by little.
    self.assertTrue(((low - 0.02 < expected) & (expected < high + 0.02)).all())
    self.assertBetween((high - low).max(), 0.01, 0.2)
    at_steps = 100 + 20 * np.cos(2 * np.log1p(stages.steps))
    self.assertLess(np.abs(stages.fit - at_steps).max(), 4)
    inside = np.abs(stages.fit - at_steps) < 3 * stages.error
    self.assertGreater(inside.mean(), 0.9)

  def test_a_rising_curve_has_one_stage(self):
    steps = np.expm1(np.linspace(0, 6, 20))
    llcs = 5 * np.log1p(steps)
    stages = curves.stages(steps, llcs, np.full(20, 0.1))
    self.assertEmpty(stages.boundaries)

  @parameterized.parameters('linear', 'saturating', 'logistic', 'late', 'flat')
  def test_monotone_curves_with_noise_have_no_turn(self, kind):
    """At 12 checkpoints, for 8 seeds."""
    times = np.linspace(0, 1, 12)
    truth = {
      'linear': times,
      'saturating': 1 - np.exp(-4 * times),
      'logistic': 1 / (1 + np.exp(-12 * (times - 0.5))),
      'late': times**3,
      'flat': 0 * times,
    }[kind]
    steps, errors = np.expm1(9 * times), np.full(12, 0.05)
    for seed in range(8):
      noise = 0.05 * np.random.default_rng(seed).normal(size=12)
      stages = curves.stages(steps, truth + noise, errors)
      self.assertEmpty(stages.boundaries)

  @parameterized.parameters(1, -1)
  def test_a_clear_hump_has_one_turn_in_its_middle(self, sign):
    times = np.linspace(0, 1, 12)
    errors = np.full(12, 0.05)
    covered = 0
    for seed in range(8):
      noise = 0.05 * np.random.default_rng(seed).normal(size=12)
      stages = curves.stages(
        np.expm1(9 * times), sign * np.sin(np.pi * times) + noise, errors
      )
      self.assertLen(stages.boundaries, 1)
      self.assertEqual(stages.rises_to[0], sign > 0)
      low, middle, high = (
        float(np.log1p(x)) / 9
        for x in (
          stages.boundary_low[0],
          stages.boundaries[0],
          stages.boundary_high[0],
        )
      )
      self.assertAlmostEqual(middle, 0.5, delta=0.08)
      self.assertLess(high - low, 0.2)
      covered += low < 0.5 < high
    self.assertGreaterEqual(covered, 6)

  def test_noise_alone_is_no_stage(self):
    """As wide as its errors: the fit is flat within its own error."""
    steps = np.expm1(np.linspace(0, 6, 40))
    noise = np.random.default_rng(1).normal(size=40)
    stages = curves.stages(steps, noise, np.ones(40))
    self.assertLess(np.ptp(stages.fit), 1)

  @parameterized.parameters(
    ([0, 10, 20], [1, 2, np.nan], [1, 1, 1], '5 checkpoints.*got 2'),
    ([7], [1.0], [1.0], '5 checkpoints.*got 1'),
    ([], [], [], '5 checkpoints.*got 0'),
    ([7] * 6, range(6), [1] * 6, 'ascend.*got 7 after 7'),
    ([0, 1, 2, 2, 5, 9], range(6), [1] * 6, 'ascend.*got 2 after 2'),
    ([9, 5, 4, 2, 1, 0], range(6), [1] * 6, 'ascend.*got 5 after 9'),
    ([-1, 0, 1, 2, 3], range(5), [1] * 5, 'at least 0.*got -1'),
    ([np.nan, 0, 1, 2, 3], range(5), [1] * 5, 'finite.*got nan'),
    ([0, 1, 2, 3, 4], range(5), [1, 1, -1, 1, 1], 'errors.*at least 0.*got -1'),
    ([0, 1, 2, 3, 4], range(4), [1] * 5, r'one length.*got \[5\], \[4\]'),
    (np.zeros((5, 1)), range(5), [1] * 5, r'one length.*got \[5, 1\]'),
  )
  def test_impossible_estimates_are_refused(self, steps, llcs, errors, message):
    with self.assertRaisesRegex(ValueError, message):
      curves.stages(steps, llcs, errors)

  def test_missing_estimates_are_skipped(self):
    steps = np.expm1(np.linspace(0, 6, 20))
    llcs, errors = 5 * np.log1p(steps), np.full(20, 0.1)
    llcs[[0, 7]], errors[19] = np.nan, np.inf
    stages = curves.stages(steps, llcs, errors)
    self.assertEmpty(stages.boundaries)
    np.testing.assert_allclose(stages.steps[[0, -1]], steps[[1, 18]])

  def test_a_flat_curve_without_error_has_no_stages(self):
    stages = curves.stages(np.arange(6), np.full(6, 3.0), np.zeros(6))
    np.testing.assert_allclose(stages.fit, 3, atol=1e-6)


if __name__ == '__main__':
  absltest.main()
