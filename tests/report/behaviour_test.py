"""What the report says of the heads' readings."""

import numpy as np
import xarray as xr

from rllc_jax.report import behaviour

NAMES = (
  'previous_token',
  'current_token',
  'prefix_matching',
  'ablation_zero',
  'ablation_resample',
)


def readings():
  values = np.arange(2 * 2 * 2, dtype=float).reshape(2, 2, 2) / 8
  dims = 'checkpoint', 'layer', 'head'
  data = {name: (dims, values + i) for i, name in enumerate(NAMES)}
  ngrams = np.array([[[3, 0], [5, 1]], [[9, 9], [9, 9]]])
  data['num_ngrams'] = (dims, ngrams)
  data['num_skip_ngrams'] = (dims, np.array([[[1, 0], [2, 0]]] * 2))
  return xr.Dataset(data, {'checkpoint': [300, 0]})  # In any order.


def test_the_last_checkpoint_has_a_row_a_head():
  table = behaviour.heads_table(readings())
  assert table.header[0] == 'head, at step 300'
  rows = [[cell.text for cell in row] for row in table.rows]
  assert rows[2] == ['1:0', '0.250', '1.250', '2.250', '3.250', '4.250', '7']
  assert [row[0] for row in rows] == ['0:0', '0:1', '1:0', '1:1']


def test_losses_by_kind_are_shown_where_there_are_any():
  shown = ''.join(behaviour.behaviour(readings(), b'<svg/>', b'<svg/>'))
  assert shown.count('<figure') == 2 and 'known in closed form' in shown
  shown = ''.join(behaviour.behaviour(readings(), b'<svg/>', None))
  assert shown.count('<figure') == 1 and 'closed form' not in shown


def test_without_readings_the_command_is_named():
  (shown,) = behaviour.behaviour(None, None, None)
  assert 'experiments.analyze' in shown
