"""Contents of figures of known answers, read back from their artists."""

import numpy as np

from rllc_jax.plots import known_answers
from rllc_jax.plots import style


def record(**changes):
  return {
    'problem': 'x² · nβ = 100, γ = 0, ε = 0.001',
    'family': 'bowl',
    'restricted': False,
    'learning_coefficient': 0.5,
    'exact': 0.4,
    'llc': 0.41,
    'low': 0.39,
    'high': 0.43,
  } | changes


RECORDS = [
  record(),
  record(problem='y² · nβ = 7', restricted=True, learning_coefficient=2.0),
  record(problem='z⁴ · nβ = 8', family='powers', llc=0.4, exact=0.5),
  record(problem='unknown · nβ = 9', family='deep', exact=None),
]


def points(ax):
  """(x, y) of single points, and whether they are filled."""
  return [
    (*line.get_xydata()[0], line.get_markerfacecolor() != 'white')
    for line in ax.lines
    if len(line.get_xdata()) == 1
  ]


def test_each_problem_is_a_row_of_its_own_below_its_family():
  left, right = known_answers.ratios(RECORDS).axes
  # Row 0 and row 3 are titles of families.
  expected = [(1.025, 1, True), (1.025, 2, False), (0.8, 4, True)]
  np.testing.assert_allclose(points(left), expected)
  coefficients = [(x, y) for x, y, _ in points(right)]
  np.testing.assert_allclose(coefficients, [(1.25, 1), (5, 2), (1, 4)])
  names = [label.get_text() for label in left.get_yticklabels()]
  assert names == ['x²', 'y²', 'z⁴']
  assert [text.get_text() for text in left.texts] == ['bowl', 'powers']
  assert [text.get_text() for text in right.texts][1:] == ['nβ = 7', 'nβ = 8']


def test_intervals_are_drawn_and_fit():
  left = known_answers.ratios(RECORDS).axes[0]
  bars = [
    line.get_xydata()
    for line in left.lines
    if np.ptp(line.get_ydata()) == 0 and len(line.get_xdata()) == 2
  ]
  np.testing.assert_allclose(bars[0], [(0.975, 1), (1.075, 1)])
  low, high = left.get_xlim()
  assert low < 0.78 and high > 1.22  # The last starts at 0.39 / 0.5.


def test_problems_without_exact_values_are_counted():
  drawn = known_answers.ratios(RECORDS)
  assert '1 without an exact value' in drawn.get_supxlabel()
  assert 'without' not in known_answers.ratios(RECORDS[:3]).get_supxlabel()


def test_curves_towards_lambda_are_shares_of_it():
  curve = {
    'problem': 'x² y²',
    'learning_coefficient': 0.5,
    'multiplicity': 2,
    'localization': 10.0,
    'nbeta': [10.0, 100.0, 1000.0],
    'exact': [0.1, 0.2, 0.25],
  }
  drawn = known_answers.approach([curve, curve | {'problem': 'other'}])
  (ax,) = drawn.axes
  expected = [(10, 0.2), (100, 0.4), (1000, 0.5)]
  np.testing.assert_allclose(ax.lines[0].get_xydata(), expected)
  words = [text.get_text() for text in ax.texts]
  assert words == ['x² y²: λ = 0.5, m = 2', 'other: λ = 0.5, m = 2']
  assert 'γ = 10' in drawn.get_supxlabel()


def test_both_figures_become_files():
  assert style.image(known_answers.ratios(RECORDS), 'png').startswith(b'\x89')
