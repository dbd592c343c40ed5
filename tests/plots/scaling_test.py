"""Contents of the figure of cost against work, read back from its artists."""

import numpy as np
import pytest

from rllc_jax.plots import scaling
from rllc_jax.plots import style

AFFINE = ('checkpoints', 'data sets', 'chains', 'draws', 'batch')


def record(**changes):
  work = np.array([1.0, 2.0, 4.0, 8.0])
  seconds = (0.5 + 0.25 * work) * [1.01, 0.98, 1.02, 0.99]
  return {
    'knob': 'chains',
    'law': 'affine',
    'tolerance': 10.0,
    'values': [1, 2, 4, 8],
    'work': work.tolist(),
    'seconds': seconds.tolist(),
    'rounds': [[time, 1.1 * time] for time in seconds],
    'fixed': 0.5,
    'per_work': 0.25,
    'residuals': [1.0, -2.0, 2.0, -1.0],
    'share': 80.0,
  } | changes


def counted(knob, layer, **changes):
  changes = {'tolerance': 15.0, 'values': [128, 256, 512, 1024]} | changes
  return record(knob=f'{knob}, layer {layer}', law='multiply-adds', **changes)


def records(layers=(0, 1)):
  return [record(knob=knob) for knob in AFFINE] + [
    counted(knob, layer)
    for layer in layers
    for knob in ('context length', 'heads')
  ]


def dots(ax):
  """The drawn points of a panel that are not faint rounds."""
  return [
    line.get_xydata()
    for line in ax.lines
    if line.get_marker() == 'o' and line.get_alpha() is None
  ]


def visible(drawn):
  return [ax for ax in drawn.axes if ax.get_visible()]


@pytest.mark.parametrize('layers', [(0,), (0, 1)])
def test_every_knob_has_a_panel_beside_one_of_residuals(layers):
  panels = visible(scaling.scaling(records(layers)))
  titles = [ax.get_title(loc='left') for ax in panels]
  assert titles == [*AFFINE, 'context length', 'heads', 'off the line']
  assert [len(dots(ax)) for ax in panels[5:7]] == [len(layers)] * 2


def test_times_and_rounds_stand_at_their_work():
  drawn = scaling.scaling([record()])
  ax = drawn.axes[0]
  (points,) = dots(ax)
  np.testing.assert_allclose(points[:, 0], [1, 2, 4, 8])
  np.testing.assert_allclose(points[:, 1], record()['seconds'])
  faint = [line for line in ax.lines if line.get_alpha() is not None]
  for line, rounds in zip(faint, record()['rounds'], strict=True):
    np.testing.assert_allclose(line.get_ydata(), rounds)


@pytest.mark.parametrize('case', [record(), counted('heads', 1)])
def test_the_line_is_the_law(case):
  ax = scaling.scaling([case]).axes[0]
  (line,) = [line for line in ax.lines if line.get_marker() == 'None']
  x, y = line.get_xydata().T
  np.testing.assert_allclose(y, 0.5 + 0.25 * x)
  assert x[-1] == pytest.approx(8)


def test_the_shade_is_the_fixed_part():
  ax = scaling.scaling([record()]).axes[0]
  (shade,) = ax.collections
  heights = shade.get_paths()[0].vertices[:, 1]
  assert (heights.min(), heights.max()) == (0, 0.5)


def test_a_disturbed_round_does_not_hide_the_others():
  rounds = [[time, 100.0] for time in record()['seconds']]
  ax = scaling.scaling([record(rounds=rounds)]).axes[0]
  assert ax.get_ylim()[1] < 2 * max(record()['seconds'])


def test_dots_of_multiply_adds_show_the_knob_s_value():
  ax = scaling.scaling([counted('context length', 0)]).axes[0]
  assert [text.get_text() for text in ax.texts] == [
    '128',
    '256',
    '512',
    '1,024',
  ]
  places = [text.xy for text in ax.texts]
  np.testing.assert_allclose(places, dots(ax)[0])
  assert ax.get_xscale() == ax.get_yscale() == 'log'


def test_layers_have_colors_of_their_own_and_are_named():
  drawn = scaling.scaling([counted('heads', layer) for layer in (0, 1)])
  ax, residuals = visible(drawn)
  colors = {line.get_color() for line in ax.lines}
  assert colors == {style.shades(layer, 1)[0] for layer in (0, 1)}
  texts = [text.get_text() for text in ax.get_legend().get_texts()]
  assert texts == ['layer 0', 'layer 1']
  names = [label.get_text() for label in residuals.get_yticklabels()]
  assert names == ['heads, layer 0', 'heads, layer 1']


def test_residuals_stand_on_their_tolerance():
  far = [12.0, -2.0, 2.0, -1.0]
  drawn = scaling.scaling([record(residuals=far), counted('heads', 0)])
  ax = visible(drawn)[-1]
  bands = [line.get_xydata() for line in ax.lines if line.get_linewidth() == 7]
  np.testing.assert_allclose(bands, [[(-10, 0), (10, 0)], [(-15, 1), (15, 1)]])
  points = dots(ax)
  np.testing.assert_allclose(points[0][:, 0], far)
  np.testing.assert_allclose(points[1], [(x, 1) for x in (1, -2, 2, -1)])
  low, high = ax.get_xlim()
  assert low < -15 and high > 15


def test_the_figure_becomes_a_file():
  drawn = scaling.scaling([record(), counted('heads', 0)])
  assert style.image(drawn, 'png').startswith(b'\x89PNG')
