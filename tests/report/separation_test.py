"""Verdicts on numbers made by hand."""

import numpy as np
import pytest
from scipy import stats
import xarray as xr

from rllc_jax.report import losses
from rllc_jax.report import separation


def estimates(first, last, first_error=1.0, last_error=1.0, layer=0):
  """Heads of one layer at steps 0 and 10."""
  dims = ('checkpoint', 'dataset', 'refinement')
  llc = np.array([first, last], float)[:, None]
  error = (
    np.ones(llc.shape) * np.array([first_error, last_error])[:, None, None]
  )
  names = [f'{layer}:{i}' for i in range(len(first))]
  return xr.Dataset(
    {'llc': (dims, llc), 'standard_error': (dims, error)},
    {'checkpoint': [0, 10], 'dataset': ['text'], 'refinement': names},
  )


def verdict(*args, **kwargs):
  (result,) = separation.verdicts(
    separation.spreads(estimates(*args, **kwargs))
  )
  return result


def test_chi_square_of_three_heads_by_hand():
  # Weights 1, 1, 1/4: mean (0 + 3 + 6/4) / (9/4) = 2; (4 + 1 + 16/4) = 9.
  spread = separation.spread_of(np.array([0, 3, 6.0]), np.array([1, 1, 2.0]), 7)
  assert spread.step == 7 and spread.num_heads == 3
  np.testing.assert_allclose(spread.chi_square, 9)
  np.testing.assert_allclose(spread.p_value, np.exp(-4.5))  # Two degrees.
  np.testing.assert_allclose(spread.spread, 3)
  np.testing.assert_allclose(
    spread.standard_error, np.sqrt(2)
  )  # (1 + 1 + 4)/3.
  np.testing.assert_allclose(spread.excess, np.sqrt(9 - 2))


def test_equal_heads_have_p_values_that_are_uniform():
  """2,000 layers of 5 equal heads; the error of the test is known."""
  rng = np.random.default_rng(0)
  errors = rng.uniform(0.5, 2, (2000, 5))
  values = 7 + errors * rng.normal(size=errors.shape)
  p = [
    separation.spread_of(x, s, 0).p_value
    for x, s in zip(values, errors, strict=True)
  ]
  assert stats.kstest(p, 'uniform').pvalue > 0.01
  assert 0.002 < np.mean(np.less(p, separation.LEVEL)) < 0.02


def test_equal_heads_did_not_separate():
  judged = verdict([5, 5, 5], [9, 9, 9])
  assert judged.separated is False
  assert judged.last.chi_square == 0 and judged.last.excess == 0
  assert 'did not separate' in judged.sentence


def test_heads_that_move_far_apart_separate():
  judged = verdict([5, 5, 5], [10, 20, 30], layer=3)
  assert judged.separated is True and judged.layer == 3
  assert judged.sentence.startswith('Heads of layer 3 start alike and separate')
  # 2 x 10^2 on two degrees; spread 10; excess sqrt(99).
  for words in ('At step 10 ', ' 200 on 2 degrees', 'is 10,', 'of 9.95'):
    assert words in judged.sentence, judged.sentence


def test_heads_that_differ_from_the_start_must_spread_twice_as_much():
  assert verdict([0, 20, 40], [0, 30, 60]).separated is False
  assert verdict([0, 20, 40], [0, 50, 100]).separated is True
  assert verdict([0, 20, 40], [5, 5, 5]).separated is False


def test_noise_at_the_start_that_hides_the_excess_gives_no_verdict():
  judged = verdict([0, 20, 40], [0, 20, 40], first_error=50.0)
  assert judged.separated is None and 'cannot be said' in judged.sentence


@pytest.mark.parametrize(
  ('first', 'last'),
  [([5], [9]), ([np.nan, 5], [1, 9]), ([1, 5], [np.nan, np.nan])],
)
def test_a_verdict_needs_two_heads_at_both_ends(first, last):
  judged = verdict(first, last)
  assert judged.separated is None and 'cannot be said' in judged.sentence


def test_one_checkpoint_cannot_show_separation():
  single = estimates([0, 9], [0, 9]).isel(checkpoint=[1])
  (result,) = separation.verdicts(separation.spreads(single))
  assert result.separated is None and result.last.num_heads == 2


def test_missing_heads_and_other_refinements_are_left_out():
  dataset = estimates([1, 2, np.nan, 4], [1, 2, 3, 4])
  dataset = dataset.assign_coords(refinement=['0:0', '0:1', '0:2', 'all'])
  table = separation.spreads(dataset)
  assert table.num_heads.values.ravel().tolist() == [2, 3]
  np.testing.assert_allclose(table.chi_square.values.ravel(), [0.5, 2])


def test_order_of_checkpoints_in_the_file_does_not_matter():
  dataset = estimates([5, 5, 5], [10, 20, 30])
  backwards = dataset.isel(checkpoint=[1, 0])
  assert separation.spreads(backwards).equals(separation.spreads(dataset))


def record(losses, **attributes):
  return xr.Dataset(
    {'held_out_loss': ('checkpoint', losses)},
    {'checkpoint': np.arange(len(losses)) * 8},
    attributes,
  )


def test_the_loss_is_compared_with_the_unigram_entropy():
  below = losses.against_unigram(record([7.0, 4.0], unigram_entropy=5.0))
  assert below.below is True
  assert '4.000' in below.sentence and '5.000' in below.sentence
  above = losses.against_unigram(
    record([4.0, 7.0], unigram_entropy=5.0, bigram_entropy=3.0)
  )
  assert above.below is False
  assert 'not below' in above.sentence and '3.000' in above.sentence


def test_a_missing_loss_or_entropy_gives_no_verdict():
  assert losses.against_unigram(record([4.0])).below is None
  lost = record([np.nan], unigram_entropy=5.0)
  assert losses.against_unigram(lost).below is None
