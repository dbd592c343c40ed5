"""Changes of estimates where rows are said twice, and their figure."""

from matplotlib import colors
import numpy as np
import pytest
import xarray as xr

from rllc_jax.plots import said_twice
from tests.plots import figures_test

CLASSES = {'1:0': 'multigram', '1:1': 'induction'}


def estimates():
  """Heads 1, 2, 4, 4 on code; twice as much on code said twice for the last."""
  measured = figures_test.estimates(datasets=('code', 'code_twice'))
  measured.llc[:] = [1.0, 2.0, 4.0, 4.0]
  measured.llc.loc[{'dataset': 'code_twice', 'refinement': '1:1'}] = 8.0
  measured.llc.loc[{'dataset': 'code_twice', 'checkpoint': [0, 1]}] = np.nan
  error = xr.full_like(measured.llc, 0.03)
  error.loc[{'dataset': 'code_twice'}] = 0.04
  return measured.assign(standard_error=error)


def test_a_pair_is_a_data_set_and_itself_said_twice():
  assert said_twice.pair(['a', 'b', 'b_twice']) == ('b', 'b_twice')
  assert said_twice.pair(['a', 'b_twice']) is None


def test_changes_are_in_per_cent_with_errors_in_quadrature():
  change = said_twice.changes(estimates(), 'code', 'code_twice')
  assert change.checkpoint.values.tolist() == [10, 100]
  last = change.isel(checkpoint=-1)
  np.testing.assert_allclose(last.change, [0, 0, 0, 100], atol=1e-9)
  assert float(last.error[0]) == pytest.approx(5.0)
  expected = 100 * 2 * np.hypot(0.03 / 4, 0.04 / 8)
  assert float(last.error[3]) == pytest.approx(expected)


def test_heads_of_the_last_layer_are_drawn_and_induction_is_red():
  drawn = said_twice.parting(estimates(), CLASSES, 'code', ['code_twice'])
  left, right = drawn.axes
  curves = figures_test.lines(left)
  assert [curve[-1, 1] for curve in curves] == [4.0, 4.0]
  values = [bar.lines[0].get_ydata()[0] for bar in right.containers]
  np.testing.assert_allclose(values, [0, 100], atol=1e-9)
  marks = [bar.lines[0].get_color() for bar in right.containers]
  red, _, blue = colors.to_rgb(marks[1])
  assert red > 2 * blue and marks[0] != marks[1]
  ticks = [tick.get_text() for tick in right.get_xticklabels()]
  assert ticks == ['1:0', '1:1']


def test_intervals_are_those_of_seven_degrees_of_freedom():
  drawn = said_twice.parting(estimates(), CLASSES, 'code', ['code_twice'])
  (segment,) = drawn.axes[1].containers[0].lines[2][0].get_segments()
  error = 100 * np.hypot(0.03, 0.04) / 4
  assert segment[1, 1] == pytest.approx(2.365 * error, rel=1e-3)
