"""Gains and costs of control variates on a tiny trained model."""

import pytest

from experiments import train
from experiments.checks import control_variates
from experiments.runtime import sections
from tests.experiments import train_test

pytestmark = pytest.mark.long


@pytest.fixture(scope='module')
def rows(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  train_test.write_corpus(workdir)
  train.run(train_test.read_config(), workdir)
  config = sections.make_config(
    estimation={'batch_size': 4}, sampling={'num_chains': 2, 'num_draws': 200}
  )
  return {row.name: row for row in control_variates.run(config, workdir)}


def test_ratios_of_the_plain_kind_are_1(rows):
  for quantity in ('variance of a draw', 'chain-step', 'precision a second'):
    assert rows[f'plain: {quantity}'].value == 1
  assert rows['plain: farthest head from plain'].value == 0


@pytest.mark.parametrize('kind', control_variates.KINDS[1:])
def test_corrected_kinds_agree_and_are_no_noisier(rows, kind):
  """A tenth is allowed for chance: 200 draws of correlated differences."""
  assert rows[f'{kind}: farthest head from plain'].holds
  gain = rows[f'{kind}: variance of a draw'].value
  assert gain > 0.9 and gain != 1
  cost = rows[f'{kind}: chain-step'].value
  together = rows[f'{kind}: precision a second'].value
  assert together == pytest.approx(gain / cost)
  assert rows['full gradient'].value > 0
