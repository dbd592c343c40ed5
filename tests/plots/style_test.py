"""Places of labels and colors."""

import numpy as np
import pytest
from scipy import optimize

from rllc_jax.plots import style


@pytest.mark.parametrize('seed', range(5))
def test_labels_are_moved_no_more_than_needed(seed):
  """Against scipy: the same least squares under the same constraints."""
  targets = np.random.default_rng(seed).uniform(0, 10, 6)
  placed = style.spread_apart(targets, 1.5, 0.0, 10.0)
  order = np.argsort(targets)
  assert (np.diff(placed[order]) >= 1.5 - 1e-9).all()
  assert placed.min() >= -1e-9 and placed.max() <= 10 + 1e-9
  best = optimize.minimize(
    lambda y: np.sum((y - targets[order]) ** 2),
    np.linspace(0, 10, 6),
    bounds=[(0, 10)] * 6,
    constraints={'type': 'ineq', 'fun': lambda y: np.diff(y) - 1.5},
  )
  np.testing.assert_allclose(placed[order], best.x, atol=1e-3)  # SLSQP's.


def test_labels_that_cannot_fit_share_the_space():
  placed = style.spread_apart([3.0, 3.0, 3.0], 9.0, 0.0, 10.0)
  np.testing.assert_allclose(placed, [0, 5, 10])


def test_shades_of_layers_and_heads_all_differ():
  colors = [c for layer in range(4) for c in style.shades(layer, 8)]
  distances = [
    np.abs(np.subtract(a, b)).sum()
    for i, a in enumerate(colors)
    for b in colors[:i]
  ]
  assert min(distances) > 0.05
