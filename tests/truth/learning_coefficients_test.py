"""Closed forms of three papers agree wherever they overlap."""

import itertools

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from rllc_jax.truth import learning_coefficients as closed_forms

SIZES = [
  (M, H, N, r)
  for M, H, N in itertools.product(range(1, 6), repeat=3)
  for r in range(min(M, H, N) + 1)
]


def possible_ranks(inputs, hidden, outputs, rank):
  """Ranks (a, b) of layers whose product has the given rank."""
  return [
    (a, b)
    for a in range(rank, min(inputs, hidden) + 1)
    for b in range(rank, min(hidden, outputs) + 1)
    if a + b - rank <= hidden
  ]


class LinearNetworkTest(parameterized.TestCase):
  def assert_same(self, actual, expected, case=None):
    self.assertAlmostEqual(actual.value, expected.value, 9, msg=case)
    self.assertEqual(actual.multiplicity, expected.multiplicity, msg=case)

  def test_three_formulas_agree_on_all_small_sizes(self):
    """Aoyagi & Watanabe 2005, Aoyagi 2024, and the local form at (r, r)."""
    self.assertLen(SIZES, 350)
    for case in SIZES:
      M, H, N, r = case
      two = closed_forms.reduced_rank_regression(M, H, N, r)
      self.assert_same(
        closed_forms.deep_linear_network((M, H, N), r), two, case
      )
      local = closed_forms.local_reduced_rank_regression(
        M, H, N, ranks=(r, r), rank=r
      )
      self.assert_same(local, two, case)

  def test_the_global_coefficient_is_the_least_local_one(self):
    for case in SIZES:
      M, H, N, r = case
      local = [
        closed_forms.local_reduced_rank_regression(M, H, N, ranks=ranks, rank=r)
        for ranks in possible_ranks(M, H, N, r)
      ]
      least = min(coefficient.value for coefficient in local)
      self.assertEqual(
        least, closed_forms.reduced_rank_regression(M, H, N, r).value, msg=case
      )

  def test_the_local_form_is_regular_directions_plus_a_network_at_zero(self):
    """The network has the remaining widths and rank 0."""
    count = 0
    for case in SIZES:
      M, H, N, r = case
      for a, b in possible_ranks(M, H, N, r):
        n, h, p = M - a, H - a - b + r, N - b
        if min(n, h, p):
          remainder = closed_forms.reduced_rank_regression(n, h, p, 0)
          regular = (N * a + b * M - a * b) / 2
          local = closed_forms.local_reduced_rank_regression(
            M, H, N, ranks=(a, b), rank=r
          )
          self.assert_same(
            local,
            remainder._replace(value=regular + remainder.value),
            (case, a, b),
          )
          count += 1
    self.assertGreater(count, 500)

  @parameterized.parameters(
    # Widths, then (lambda, m) at rank 0 and at rank 1.
    ((2, 2, 2), (1.5, 1), (2, 2)),
    ((3, 2, 3), (2.5, 1), (3.5, 2)),
    ((4, 4, 4), (6, 1), (7, 2)),
    ((5, 3, 5), (6.5, 2), (8, 1)),
    ((5, 4, 5), (8, 1), (9.5, 2)),
    ((4, 3, 8), (6, 1), (8.5, 1)),
    ((3, 8, 4), (6, 1), (6, 1)),
    ((2, 2, 2, 2), (1.5, 3), (2, 3)),
    ((4, 4, 4, 4), (5.5, 3), (6.5, 1)),
    ((6, 5, 4, 5, 6), (8, 5), (10.5, 4)),
  )
  def test_deep_linear_networks_agree_with_the_table(self, widths, *expected):
    coefficients = [
      closed_forms.deep_linear_network(widths, rank) for rank in (0, 1)
    ]
    np.testing.assert_allclose(coefficients, expected, rtol=1e-12)

  def test_full_rank_is_regular(self):
    """Any depth: the product moves in every direction of the true matrix."""
    for depth in range(2, 8):
      coefficient = closed_forms.deep_linear_network((depth + 1) * (6,), 6)
      self.assertEqual(coefficient, (18.0, 1))

  def test_transposing_the_network_changes_nothing(self):
    for M, H, N, r in SIZES:
      self.assertEqual(
        closed_forms.reduced_rank_regression(M, H, N, r),
        closed_forms.reduced_rank_regression(N, H, M, r),
      )
      for a, b in possible_ranks(M, H, N, r):
        self.assertEqual(
          closed_forms.local_reduced_rank_regression(
            M, H, N, ranks=(a, b), rank=r
          ),
          closed_forms.local_reduced_rank_regression(
            N, H, M, ranks=(b, a), rank=r
          ),
        )

  def test_another_layer_never_raises_the_coefficient(self):
    for M, H, N, r in SIZES:
      deeper = closed_forms.deep_linear_network((M, H, max(M, H, N), N), r)
      shallow = closed_forms.deep_linear_network((M, H, N), r)
      self.assertLessEqual(deeper.value, shallow.value)

  @parameterized.parameters(
    (
      lambda: closed_forms.reduced_rank_regression(2, 2, 2, 3),
      'rank must lie .*3',
    ),
    (
      lambda: closed_forms.deep_linear_network((2, 0, 2), 0),
      'two positive numbers',
    ),
    (
      lambda: closed_forms.local_reduced_rank_regression(
        2, 2, 2, ranks=(2, 1), rank=0
      ),
      r'at most hidden \+ rank.*got \(2, 1\)',
    ),
    (lambda: closed_forms.normal_crossing((0, 0)), 'not all 0'),
    (lambda: closed_forms.weighted_homogeneous((0.5, 0)), 'must be positive'),
    (
      lambda: closed_forms.leading_order(
        closed_forms.LearningCoefficient(1, 2), 1.0
      ),
      'nbeta must be over 1',
    ),
  )
  def test_impossible_arguments_are_refused(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
