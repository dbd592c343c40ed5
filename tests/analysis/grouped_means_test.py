"""Errors of means against groups that are independent."""

import numpy as np

from rllc_jax.analysis import grouped_means


def test_groups_of_one_have_the_usual_standard_error():
  values = np.random.default_rng(0).normal(size=(3, 40))
  mean, error = grouped_means.grouped_mean(values, np.arange(40))
  np.testing.assert_allclose(mean, values.mean(axis=1))
  np.testing.assert_allclose(error, values.std(axis=1, ddof=1) / np.sqrt(40))


def test_equal_groups_have_the_error_of_their_means():
  values = np.random.default_rng(0).normal(size=(5, 20, 7))
  mean, error = grouped_means.mean_over_rows(values)
  of_rows = values.mean(axis=2)
  np.testing.assert_allclose(mean, of_rows.mean(axis=1))
  expected = of_rows.std(axis=1, ddof=1) / np.sqrt(20)
  np.testing.assert_allclose(error, expected)


def test_errors_cover_the_mean_of_rows_whose_tokens_are_alike():
  """400 data sets of 30 rows, of unlike numbers of tokens in the mask."""
  rng = np.random.default_rng(0)
  values = rng.normal(size=(400, 30, 1)) + 0.1 * rng.normal(size=(400, 30, 9))
  mask = rng.random((30, 9)) < 0.5
  mean, error = grouped_means.mean_where(values, mask)
  # Student's t with about 25 degrees: its deviation is 1.04.
  assert 0.9 < np.std(mean / error) < 1.25
  # If tokens were independent, errors would be half as large.
  assert np.mean(error) > 1.5 * np.mean(values.std((1, 2))) / mask.sum() ** 0.5


def test_too_few_values_have_no_error():
  mean, error = grouped_means.grouped_mean(np.ones((2, 3)), np.zeros(3, int))
  np.testing.assert_array_equal(mean, 1)
  assert np.isnan(error).all()
  none = grouped_means.mean_where(np.ones((2, 3, 4)), np.zeros((3, 4), bool))
  assert np.isnan(none.mean).all() and none.mean.shape == (2,)
