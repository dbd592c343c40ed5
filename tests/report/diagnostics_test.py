"""Tables mark exactly the faults that the rules of health name."""

import numpy as np
import pytest
import xarray as xr

from rllc_jax.estimators import health
from rllc_jax.report import diagnostics
from rllc_jax.report import refinements
from rllc_jax.report import tables
from tests.report import saved


def row(dataset, name='0:1'):
  table = refinements.refinements_table(dataset, '<text>')
  (cells,) = [cells for cells in table.rows if cells[0].text == name]
  return dict(zip(table.header, cells, strict=True))


def test_a_row_of_the_table_by_hand():
  cells = {name: cell.text for name, cell in row(saved.estimates()).items()}
  assert cells == {
    'refinement': '0:1',
    'wrLLC': '19.00 ± 0.25',
    '95 % interval': '18.50 to 19.50',
    'change since step 0': '18.00 ± 0.35',  # sqrt(2) / 4.
    'step bias': '0.1 (2.0 %)',
    'equilibrium ratio': '1.000 ± 0.010',
    'R-hat': '1.010',
    'ESS': '400',
    'failed chains': '0',
    'healthy': 'yes',
  }


def test_a_missing_estimate_is_a_dash():
  dataset = saved.changed('num_kept', 0)
  for name in ('llc', 'low', 'rhat', 'ess', 'equilibrium_ratio'):
    dataset[name][2, 0, 1] = np.nan
  cells = row(dataset)
  for name in ('wrLLC', '95 % interval', 'change since step 0', 'R-hat'):
    assert cells[name] == tables.Cell(tables.MISSING)
  assert cells['healthy'] == tables.Cell('no', True)


# Just on this side of the limits of `estimators.faults`, and just beyond.
RULES = [
  ('R-hat', 'rhat', 1.079, 1.081),
  ('ESS', 'ess', 10, 9),
  # Four errors of .01 more than the tolerance.
  ('equilibrium ratio', 'equilibrium_ratio', 0.931, 0.929),
  ('', 'halves_difference', -3.9, -4.1),
  ('step bias', 'step_bias_share', 0.049, 0.051),
  ('', 'loss_rounding', 0.249, 0.251),
  ('failed chains', 'num_failed', 0, 1),
]


@pytest.mark.parametrize(('column', 'name', 'fine', 'suspect'), RULES)
def test_marks_follow_the_rules_of_health(column, name, fine, suspect):
  assert not any(
    cell.marked for cell in row(saved.changed(name, fine)).values()
  )
  dataset = saved.changed(name, suspect)
  marked = [k for k, cell in row(dataset).items() if cell.marked]
  assert marked == [*filter(None, [column]), 'healthy']
  places = {
    k: np.argwhere(x.values) for k, x in diagnostics.marks(dataset).items()
  }
  assert places.pop(name).tolist() == [[2, 0, 1]]
  assert not any(len(where) for where in places.values())


def test_a_cell_whose_chains_all_failed_is_marked_by_them_alone():
  dataset = saved.changed('num_failed', 4)
  dataset['llc'][2, 0, 1] = dataset['rhat'][2, 0, 1] = np.nan
  marked = [k for k, cell in row(dataset).items() if cell.marked]
  assert marked == ['failed chains', 'healthy']


@pytest.mark.parametrize('seed', range(3))
def test_a_cell_with_an_estimate_is_marked_if_and_only_if_it_is_not_healthy(
  seed,
):
  rng = np.random.default_rng(seed)
  dataset = saved.estimates()
  for _, name, fine, suspect in RULES:
    bad = rng.random(dataset.llc.shape) < 0.15
    dataset[name] = (saved.DIMS, np.where(bad, suspect, fine))
  marked = xr.concat(diagnostics.marks(dataset).values(), 'name').any('name')
  healthy = health.check(dataset).healthy
  assert 0 < int(healthy.sum()) < healthy.size
  np.testing.assert_array_equal(marked.values, ~healthy.values)


def table_rows(dataset):
  table = diagnostics.diagnostics_table(dataset)
  return {
    cells[0].text: dict(zip(table.header, cells, strict=True))
    for cells in table.rows
  }


def test_a_row_of_the_diagnostics_names_the_worst_cell():
  rows = table_rows(saved.changed('equilibrium_ratio', 0.9, 10, '1:0'))
  ratio_row = rows['equilibrium ratio']
  assert (
    ratio_row['median'].text == '1.000' and ratio_row['extreme'].text == '0.900'
  )
  assert ratio_row['where it is most extreme'].text == '1:0 at step 10'
  assert ratio_row['out of bounds'] == tables.Cell('1 of 12', True)
  rows = table_rows(saved.changed('ess', 7.0))
  assert rows['ESS of paired differences']['extreme'].text == '7'
  assert rows['ESS of paired differences']['median'].text == '400'


def test_acceptance_and_scales_are_shown_and_not_judged():
  dataset = saved.estimates()
  assert 'MALA acceptance' not in table_rows(dataset)
  dataset['mala_acceptance'] = 0 * dataset.llc + 1e-6
  rows = table_rows(dataset)
  for name in ('MALA acceptance', 'drift to noise', 'negative differences'):
    assert rows[name]['out of bounds'] == tables.Cell('not judged')
  assert 'falls with the number' in rows['MALA acceptance']['what it says'].text
  assert health.check(dataset).healthy.all()


def test_data_sets_are_named_where_there_are_several():
  two = xr.concat([saved.estimates(), saved.changed('rhat', 1.3)], 'dataset')
  two = two.assign_coords(dataset=['a', 'b'])
  rhat_row = table_rows(two)['R-hat of paired differences']
  assert rhat_row['where it is most extreme'].text == '0:1 at step 100, b'
  assert rhat_row['out of bounds'].text == '1 of 24'


def test_a_diagnostic_that_is_nowhere_finite_is_left_out():
  dataset = saved.estimates()
  dataset['rhat'] = dataset.rhat * np.nan
  assert 'R-hat of paired differences' not in table_rows(dataset)
