"""Contents of heat maps of a sweep, read back from their artists."""

import functools

from matplotlib import colors
from matplotlib import patches
import numpy as np
import pytest
import xarray as xr

from rllc_jax.estimators import faults
from rllc_jax.estimators import health
from rllc_jax.plots import calibration
from rllc_jax.plots import style
from tests.analysis import recommendation_test

STEPS = recommendation_test.STEPS
SETTING = {'step_size': 4e-3, 'nbeta': 30.0, 'localization': 200.0}


def sweep(**changes):
  """A sweep over (step_size, nbeta, refinement), in proportion to nbeta."""
  dataset = recommendation_test.hand_made()
  for name in ('llc', 'standard_error', 'high'):
    dataset[name] = dataset[name] * dataset.nbeta / 10
  for name, (where, value) in changes.items():
    dataset[name].loc[where] = value
  return health.check(dataset).isel(localization=0)


def chosen(value=4e-3):
  labels = {'nbeta': [10.0, 30.0], 'refinement': ['0:0', '0:1', '1:0']}
  return xr.DataArray(np.full((2, 3), value), labels)


def drawn(dataset=None, y='nbeta', step_sizes=None, setting=None):
  dataset = sweep() if dataset is None else dataset
  step_sizes = chosen() if step_sizes is None else step_sizes
  return calibration.heat_maps(
    dataset, y=y, step_sizes=step_sizes, setting=setting
  )


@functools.cache
def full_figure():
  """The figure of `sweep()`, which no test changes."""
  return drawn()


def single_row(dataset):
  """The figure of one refinement."""
  return drawn(dataset.isel(refinement=[0]), step_sizes=chosen()[:, :1])


def panels(figure):
  return np.array(figure.axes).reshape(-1, 3)


def cell_texts(ax):
  """Texts of each cell, {(column, row): texts from above}."""
  by_cell = {}
  for text in ax.texts:
    x, y = text.get_position()
    by_cell.setdefault((round(x), round(y)), []).append(text.get_text())
  return by_cell


def colors_of(ax):
  (image,) = ax.images
  return image.get_array()


def test_every_estimate_error_and_verdict_is_in_its_place():
  dataset = sweep(standard_error=({'step_size': 2e-3, 'nbeta': 30.0}, 0.303))
  figure = drawn(dataset)
  grid = panels(figure)
  assert grid.shape == (3, 3)
  assert [ax.get_title('left') for ax in grid[0]] == [
    'refined LLC', 'standard error, % of it', 'health'
  ]  # fmt: skip
  for row, name in zip(grid, dataset.refinement.values, strict=True):
    assert row[0].get_ylabel() == f'head {name}\nnβ'
    assert cell_texts(row[0])[3, 1] == ['16.8', '+9.8 %']
    assert cell_texts(row[0])[3, 0] == ['5.60', '+9.8 %']
    assert cell_texts(row[0])[0, 0] == ['5.00']
    assert cell_texts(row[1])[1, 1] == ['2.0'] and cell_texts(row[1])[1, 0] == [
      '0.99'
    ]
    assert set(map(tuple, cell_texts(row[2]).values())) == {('1.00',)}
  figure.draw_without_rendering()
  labels = [tick.get_text() for tick in grid[-1, 0].get_xticklabels()]
  assert labels == ['0.001', '0.002', '0.004', '0.008', '0.016']
  assert [t.get_text() for t in grid[0, 0].get_yticklabels()] == ['10', '30']


def test_the_order_of_storage_does_not_matter():
  mixed = sweep().transpose().isel(step_size=[2, 0, 4, 1, 3], nbeta=[1, 0])
  for a, b in zip(drawn(mixed).axes, full_figure().axes, strict=True):
    assert cell_texts(a) == cell_texts(b)
    np.testing.assert_array_equal(colors_of(a), colors_of(b))


def test_errors_change_color_at_three_percent():
  errors = {'step_size': [1e-3, 2e-3]}
  value = 0.01 * np.array([2.0, 4.0])[:, None, None, None]
  dataset = sweep(standard_error=(errors, value * 5 * np.ones((2, 2, 1, 3))))
  below, above = colors_of(panels(single_row(dataset))[0, 1])[0, :2]
  assert below[2] > below[0] and above[0] > above[2]  # Bluer, redder.


def test_dots_mark_what_qualifies_and_a_frame_what_is_recommended():
  step_sizes = chosen()
  step_sizes.loc[{'nbeta': 10.0, 'refinement': '0:1'}] = 2e-3
  step_sizes.loc[{'nbeta': 30.0, 'refinement': '0:1'}] = np.nan
  grid = panels(drawn(step_sizes=step_sizes, setting=SETTING))
  dots = lambda ax: sorted(
    (round(float(line.get_xdata()[0])), round(float(line.get_ydata()[0])))
    for line in ax.lines
  )
  for ax in grid[0]:
    assert dots(ax) == [(2, 0), (2, 1)]
  for ax in grid[1]:
    assert dots(ax) == [(1, 0)]
  for ax in grid.flat:
    (frame,) = [p for p in ax.patches if isinstance(p, patches.Rectangle)]
    assert frame.get_xy() == (1.5, 0.5)
  assert not any(ax.patches for ax in full_figure().axes)


def test_limits_of_the_curvature_stand_at_their_step_sizes():
  """Columns are octaves: a step of 1 / a lies log2(1 / (a e0)) to the right."""
  dataset = sweep()
  dataset['curvature'] = (('nbeta', 'refinement'), np.full((2, 3), 250.0))
  ax = panels(drawn(dataset, step_sizes=chosen(np.nan)))[0, 2]
  places = sorted(float(line.get_xdata()[0]) for line in ax.lines)
  # 1 / 250 is the third step, 4 / 250 the fifth.
  np.testing.assert_allclose(places, [2, 2, 4, 4], atol=1e-6)
  assert {line.get_linestyle() for line in ax.lines} == {':', '-'}
  dataset['curvature'] = -dataset.curvature
  assert not panels(drawn(dataset, step_sizes=chosen(np.nan)))[0, 2].lines


def test_a_missing_estimate_is_gray_with_a_dash():
  failed = sweep(
    llc=({'step_size': 1.6e-2}, np.nan), num_failed=({'step_size': 1.6e-2}, 4)
  )
  estimate, error, verdict = panels(single_row(failed))[0]
  gray = colors.to_rgba(calibration._NONE)
  for ax, text in ((estimate, '–'), (error, '–'), (verdict, 'failed')):
    assert cell_texts(ax)[4, 0] == [text]
    np.testing.assert_allclose(colors_of(ax)[0, 4], gray)
  empty = sweep(llc=({}, np.nan), num_failed=({}, 4))
  style.image(single_row(empty), 'png')  # Nothing at all to scale colors by.


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
  'name, value, text',
  [
    ('num_failed', 1, 'failed'),
    ('equilibrium_ratio', 0.9, 'ratio'),
    ('rhat', 1.2, 'R-hat'),
    ('ess', 9.0, 'ESS'),
    ('ess', np.nan, 'still'),
    ('halves_difference', 5.0, 'halves'),
    ('num_kept', 20, 'few draws'),
  ],
)
def test_each_fault_has_its_word(name, value, text):
  """The words of `faults` are the source: a new wording is noticed here."""
  dataset = sweep(**{name: ({'step_size': 2e-3}, value)})
  assert faults.faults({k: v[1, 0, 0].item() for k, v in dataset.items()})
  ax = panels(single_row(dataset))[0, 2]
  assert cell_texts(ax)[1, 0] == [text]
  assert cell_texts(ax)[0, 0] == ['1.00']
  healthy, unhealthy = (
    colors.to_rgba(x) for x in (calibration._HEALTHY, calibration._UNHEALTHY)
  )
  np.testing.assert_allclose(colors_of(ax)[0, 0], healthy)
  np.testing.assert_allclose(colors_of(ax)[0, 1], unhealthy)


def test_other_refinements_and_gamma_have_their_names():
  dataset = recommendation_test.hand_made().isel(nbeta=0)
  dataset = health.check(dataset).assign_coords(
    refinement=['all', '0:attn', '0:0']
  )
  step_sizes = xr.DataArray(
    np.full((1, 3), np.nan),
    {'localization': [200.0], 'refinement': dataset.refinement.values},
  )
  figure = drawn(dataset, y='localization', step_sizes=step_sizes)
  labels = [ax.get_ylabel() for ax in panels(figure)[:, 0]]
  assert labels == ['all\nγ', '0:attn\nγ', 'head 0:0\nγ']
  assert 'nβ = 10' in figure.get_supxlabel()
