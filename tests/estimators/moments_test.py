"""Covariances from sums over batches, and their errors."""

import numpy as np
import pytest

from rllc_jax.estimators import errors
from rllc_jax.estimators import moments

MIX = np.array([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [-0.3, 0.2, 0.9]])


def series(rng, runs, chains, draws, rho=0.0):
  """A functional and two losses of unit variance, correlations .6 and -.3."""
  noise = rng.normal(size=(runs, chains, draws, 3))
  for t in range(1, draws):
    noise[:, :, t] *= np.sqrt(1 - rho**2)
    noise[:, :, t] += rho * noise[:, :, t - 1]
  mixed = noise @ (MIX / np.linalg.norm(MIX, axis=1, keepdims=True)).T
  return mixed[..., 0], mixed[..., 1:]


TRUTH = MIX[1:, 0] / np.linalg.norm(MIX[1:], axis=1)


def test_sums_do_not_depend_on_the_batches():
  phi, losses = series(np.random.default_rng(0), 1, 2, 96)
  made = moments.of_draws(phi[0], losses[0])
  assert made.count.shape == (2, 24) and (made.count == 4).all()
  np.testing.assert_allclose(made.functional.sum(-1), phi[0].sum(-1))
  np.testing.assert_allclose(made.losses.sum(1), losses[0].sum(1))
  products = (phi[0][..., None] * losses[0]).sum(1)
  np.testing.assert_allclose(made.products.sum(1), products)
  np.testing.assert_allclose(made.squares.sum(-1), (phi[0] ** 2).sum(-1))
  odd = moments.joined(moments.of_draws(phi[0, :, :31], losses[0, :, :31]))
  assert odd.count[0].tolist() == [2] * 15 + [1]


def test_a_response_is_minus_the_sample_covariance_of_each_chain():
  """Of independent draws with N - 1 below the line, but for the noise of it."""
  phi, losses = series(np.random.default_rng(1), 1, 500, 40)
  result = moments.response(moments.of_draws(phi[0], losses[0]))
  expected = np.stack(
    [
      np.cov(np.column_stack([phi[0, chain], losses[0, chain]]).T)[0, 1:]
      for chain in range(500)
    ]
  )
  np.testing.assert_allclose(result.by_chain, -expected, atol=0.1)
  # 0.3 % apart, where N instead of N - 1 would make 2.5 %.
  np.testing.assert_allclose(result.value, -expected.mean(axis=0), rtol=6e-3)


def test_responses_against_a_mean_add_up_to_0():
  phi, losses = series(np.random.default_rng(2), 1, 3, 96)
  made = moments.of_draws(phi[0], losses[0])
  shares = np.array([0.25, 0.75])
  result = moments.response(made, shares)
  np.testing.assert_allclose(result.by_chain @ shares, 0, atol=1e-12)
  plain = moments.response(made)
  np.testing.assert_allclose(
    result.value, plain.value - plain.value @ shares, rtol=1e-9
  )
  # A constant in a loss, and a shift of the functional, change nothing.
  moved = moments.of_draws(phi[0] + 3, losses[0] + np.array([5.0, 0.0]))
  np.testing.assert_allclose(moments.response(moved).value, plain.value)


@pytest.mark.parametrize('rho', [0.0, 0.5, 0.8])
def test_values_are_unbiased_and_errors_cover_them(rho):
  """400 runs of four chains; intervals of 7 degrees of freedom."""
  rng, runs, draws = np.random.default_rng(3), 400, 480
  phi, losses = series(rng, runs, 4, draws, rho)
  results = [
    moments.response(moments.of_draws(phi[i], losses[i])) for i in range(runs)
  ]
  values = np.stack([x.value for x in results])
  bias = values.mean(axis=0) + TRUTH
  assert (abs(bias) < 4 * values.std(axis=0) / np.sqrt(runs)).all()
  mean = errors.with_interval(
    values, np.stack([x.standard_error for x in results])
  )
  covered = np.mean((mean.low < -TRUTH) & (-TRUTH < mean.high))
  assert 0.92 < covered < 0.98


def test_the_sample_covariance_alone_is_too_small():
  """At rho .8 and 60 draws by a seventh: what is added back is seen."""
  rng = np.random.default_rng(4)
  phi, losses = series(rng, 600, 1, 60, 0.8)
  centered = phi - phi.mean(axis=-1, keepdims=True)
  naive = np.mean(centered[..., None] * losses, axis=2).mean(axis=(0, 1))
  values = np.mean(
    [
      moments.response(moments.of_draws(phi[i], losses[i])).value
      for i in range(600)
    ],
    axis=0,
  )
  assert (naive / TRUTH < 0.9).all()
  assert (abs(-values / TRUTH - 1) < abs(naive / TRUTH - 1) / 2).all()


def test_reliability_tells_signal_from_noise():
  rng = np.random.default_rng(5)
  pattern, noise = rng.normal(size=5_000), rng.normal(size=(4, 5_000))
  # Halves correlate by 1 / (1 + 1/2), all chains by 1 / (1 + 1/4).
  assert moments.reliability(pattern + noise) == pytest.approx(0.8, abs=0.02)
  assert abs(moments.reliability(noise)) < 0.05
  assert np.isnan(moments.reliability(noise[:1]))


def test_too_few_batches_are_refused():
  with pytest.raises(ValueError, match='At least 24 draws.*got 20'):
    moments.response(moments.of_draws(np.ones((2, 20)), np.ones((2, 20, 3))))
