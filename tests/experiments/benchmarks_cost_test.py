"""Cheapest settings by bias and error, on made-up draws."""

import numpy as np
import pytest

from experiments.checks.benchmarks import cost

EXACT = np.array([1.0, 4.0])


def draws(bias, spread, *, num_draws=100, start=0):
  """Uncorrelated draws [8, 2, 2, D]; 0 until `start`."""
  rng = np.random.default_rng(0)
  noise = rng.normal(size=(8, 2, 2, num_draws))
  values = EXACT[:, None, None] * (1 + bias + spread * noise)
  values[..., :start] = 0
  return values


def test_the_total_error_is_bias_and_two_errors_of_a_run():
  errors = cost._total_errors(draws(0.02, 0.4), EXACT, 0, 50)
  # Of 2 x 50 draws; known to a quarter from eight runs.
  assert errors == pytest.approx(0.02 + 2 * 0.4 / 10, rel=0.5)
  assert cost._total_errors(draws(0.02, 0.4), EXACT, 0, None) == pytest.approx(
    0.02, abs=0.03
  )


def test_beyond_the_recorded_draws_errors_fall_with_the_root():
  recorded, four = (
    cost._total_errors(draws(0.0, 0.4), EXACT, 0, n) for n in (100, 400)
  )
  bias = cost._total_errors(draws(0.0, 0.4), EXACT, 0, None)
  np.testing.assert_allclose(four - bias, (recorded - bias) / 2)


def test_the_cheapest_setting_has_the_fewest_chain_steps():
  quick, slow = draws(0.01, 0.05), draws(0.0, 0.3)
  best = cost.cheapest({1e-3: slow, 4e-3: quick}, EXACT)
  assert best.step_size == 4e-3
  assert best.chain_steps == best.num_chains * best.num_draws <= 24
  assert best.total_error <= 0.05


def test_a_cold_start_is_left_out_by_a_burn_in():
  best = cost.cheapest({1e-3: draws(0.0, 0.1, start=10)}, EXACT)
  assert best.burn_in >= 10


def test_a_bias_over_the_limit_is_reached_by_no_draws():
  assert cost.cheapest({1e-3: draws(0.2, 0.01)}, EXACT) is None
