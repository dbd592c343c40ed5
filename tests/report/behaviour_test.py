"""The report's section on readings of heads."""

import numpy as np
import xarray as xr

from rllc_jax.report import behaviour
from rllc_jax.report import figures
from rllc_jax.report import rendering

NAMES = (
  'previous_token',
  'current_token',
  'prefix_matching',
  'prefix_matching_text',
  'ablation_zero',
  'ablation_resample',
)


def readings():
  values = np.arange(2 * 2 * 2, dtype=float).reshape(2, 2, 2) / 8
  dims = 'checkpoint', 'layer', 'head'
  data = {name: (dims, values + i) for i, name in enumerate(NAMES)}
  ngrams = np.array([[[3, 0], [5, 1]], [[9, 9], [9, 9]]])
  data['num_ngrams'] = (dims, ngrams)
  kinds = [['multigram', 'other'], ['induction', 'multigram']]
  data['head_class'] = (dims[1:], np.array(kinds))
  data['num_skip_ngrams'] = (dims, np.array([[[1, 0], [2, 0]]] * 2))
  data['null_multigrams'] = (dims, np.full((2, 2, 2), 1.5))
  return xr.Dataset(data, {'checkpoint': [300, 0]})  # In any order.


def test_the_last_checkpoint_has_a_row_a_head():
  table = behaviour.heads_table(readings())
  assert table.header[0] == 'head, at step 300'
  rows = [[cell.text for cell in row] for row in table.rows]
  numbers = [f'{x}.250' for x in range(6)]
  assert rows[2] == ['1:0', *numbers, '7 (null 1.5)', 'induction']
  assert [row[0] for row in rows] == ['0:0', '0:1', '1:0', '1:1']


def test_true_words_are_shown_where_they_are_known():
  true = np.array([[3, 0], [5, 1]])
  known = readings().assign(
    true_words=(('layer', 'head'), true), true_pairs=(('layer', 'head'), true)
  )
  rows = behaviour.heads_table(known).rows
  assert [row[-2].text for row in rows] == ['6', '0', '10', '2']


def test_losses_by_kind_are_shown_where_there_are_any():
  def shown(*names):
    images = figures.Images(None, dict.fromkeys(names, b'<svg/>'))
    return rendering.html(behaviour.behaviour(readings(), images))

  with_kinds = shown('heads', 'kinds')
  assert (
    with_kinds.count('<figure') == 2 and 'known in closed form' in with_kinds
  )
  without_kinds = shown('heads')
  assert (
    without_kinds.count('<figure') == 1 and 'closed form' not in without_kinds
  )


def test_without_readings_the_command_is_named():
  (shown,) = behaviour.behaviour(None, figures.Images(None, {}))
  assert 'experiments.analyze' in shown.text
