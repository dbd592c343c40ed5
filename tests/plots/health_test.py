"""Diagnostics over training, read back from the figure."""

import functools

import numpy as np
import pytest
import xarray as xr

from rllc_jax.plots import heads
from rllc_jax.plots import health
from rllc_jax.plots import style

DIMS = ('checkpoint', 'dataset', 'refinement')
VALUES = {
  'equilibrium_ratio': 1.0,
  'rhat': 1.01,
  'ess': 400.0,
  'halves_difference': 0.5,
  'drift_to_noise': 0.05,
  'step_bias_share': 0.03,
  'negative_share': 0.1,
  'distance': 9.0,
}


def estimates(steps=(0, 1, 10, 100), datasets=('text',), names=('0:0', '1:0')):
  """Every diagnostic rises by a thousandth of itself a checkpoint."""
  shape = (len(steps), len(datasets), len(names))
  rise = 1 + 0.001 * np.arange(len(steps))[:, None, None] + np.zeros(shape)
  return xr.Dataset(
    {name: (DIMS, x * rise) for name, x in VALUES.items()},
    dict(zip(DIMS, map(list, (steps, datasets, names)), strict=True)),
    {'nbeta': 30.0},
  )


@functools.cache
def full_figure():
  """The figure of `estimates()`, which no test changes."""
  return health.diagnostics_curves(estimates(), dataset='text')


def panels(drawn):
  return {ax.get_title('left'): ax for ax in drawn.axes}


def curves(ax):
  """Lines of refinements, not those that go across."""
  return [x.get_xydata() for x in ax.lines if x.get_marker() == 'o']


def rings(ax):
  return [x for x in ax.lines if x.get_markerfacecolor() == 'none']


def test_every_diagnostic_has_a_panel_with_a_line_a_refinement():
  dataset = estimates()
  assert len(full_figure().axes) == len(VALUES)
  for ax, name in zip(full_figure().axes, health._PANELS, strict=False):
    lines = curves(ax)[:2]
    for line, refinement in zip(lines, ('0:0', '1:0'), strict=True):
      values_of_name = dataset[name].sel(refinement=refinement).values[:, 0]
      np.testing.assert_allclose(line[:, 0], dataset.checkpoint)
      np.testing.assert_allclose(line[:, 1], values_of_name)
  dataset['mala_acceptance'] = 0 * dataset.rhat + 0.5
  drawn = health.diagnostics_curves(dataset, dataset='text')
  assert drawn.axes[-1].get_title('left') == 'MALA acceptance'


def test_colors_are_those_of_the_main_figure():
  dataset = estimates(names=('1:0', 'all', '0:0', '0:1'))
  drawn = health.diagnostics_curves(dataset, dataset='text')
  groups = heads.groups_of(['1:0', 'all', '0:0', '0:1'])
  expected = {
    name: color
    for group in groups
    for name, color in zip(group.names, group.colors, strict=True)
  }
  assert expected['1:0'] == style.shades(1, 1)[0]
  (legend,) = drawn.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ['0:0', '0:1', '1:0', 'all']
  for name, handle in zip(names, legend.get_lines(), strict=True):
    assert handle.get_color() == expected[name]


@pytest.mark.parametrize(
  ('title', 'low', 'high'),
  [
    ('Equilibrium ratio', 0.97, 1.03),
    ('Difference of halves, in errors', -4, 4),
  ],
)
def test_the_healthy_range_is_shaded(title, low, high):
  ax = panels(full_figure())[title]
  (band,) = ax.patches
  ends = (band.get_y(), band.get_y() + band.get_height())
  bottom, top = ax.get_ylim()
  np.testing.assert_allclose(ends[0], bottom if low is None else low)
  np.testing.assert_allclose(ends[1], top if high is None else high)
  if low is not None:
    assert bottom < low  # Else a reader could not tell that there is a limit.
  if high is not None:
    assert high < top


def test_diagnostics_without_limits_have_no_healthy_range():
  drawn = panels(full_figure())
  for title in ('Drift to noise', 'Share of negative differences'):
    assert not drawn[title].patches


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
  ('name', 'title', 'value'),
  [
    ('equilibrium_ratio', 'Equilibrium ratio', 0.9),
    ('halves_difference', 'Difference of halves, in errors', -4.5),
    ('step_bias_share', "Share of the step's bias", 0.06),
  ],
)
def test_values_outside_have_a_ring(name, title, value):
  dataset = estimates()
  assert not any(map(rings, full_figure().axes))
  dataset[name][2, 0, 1] = value
  drawn = panels(health.diagnostics_curves(dataset, dataset='text'))
  (ring,) = rings(drawn.pop(title))
  assert ring.get_xydata().tolist() == [[10, value]]
  assert not any(map(rings, drawn.values()))


def test_one_data_set_is_drawn_and_named():
  dataset = estimates(datasets=('text', 'code'))
  dataset['distance'][:, 1] = 3.0
  drawn = health.diagnostics_curves(dataset, dataset='code')
  assert 'data set: code' in drawn.get_supxlabel()
  line = curves(panels(drawn)['Distance from w*'])[0]
  np.testing.assert_array_equal(line[:, 1], 3.0)


def test_refinements_of_one_checkpoint_stand_side_by_side():
  dataset = estimates(steps=(500,), names=('0:0', '0:1', '1:0'))
  dataset['halves_difference'][0, 0, 2] = 5.0
  drawn = health.diagnostics_curves(dataset, dataset='text')
  ax = panels(drawn)['Difference of halves, in errors']
  points = [line[0].tolist() for line in curves(ax)]
  assert points == [[0, 0.5], [1, 0.5], [2, 5.0], [2, 5.0]]  # And its ring.
  assert [x.get_text() for x in ax.get_xticklabels()] == ['0:0', '0:1', '1:0']
  assert 'step 500' in drawn.get_supxlabel()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
  'dataset',
  [
    estimates(names=[f'{i}:{j}' for i in range(2) for j in range(8)]),
    estimates(steps=range(100)),
    estimates(steps=(0,)),
    estimates() * np.nan,
    estimates().drop_vars(['rhat', 'distance']),
  ],
  ids=['16', '100', 'start', 'nan', 'partial'],
)
def test_any_shape_of_results_becomes_a_file(dataset):
  drawn = health.diagnostics_curves(dataset, dataset='text')
  assert style.image(drawn, 'svg').startswith(b'<?xml')
