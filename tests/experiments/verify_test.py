"""Differences between a block in the store and the same block done again."""

import numpy as np
import pytest
import xarray as xr

from experiments import verify
from tests.estimators import toy


@pytest.fixture(scope='module')
def traces():
  return toy.run(trajectory=toy.trajectory(toy.STEPS[:1]))


def test_a_change_of_any_trace_is_a_difference(traces):
  names = [name for name, trace in traces.items() if 'draw' in trace.dims]
  for name in ('loss', 'virial', 'loss_correction', 'noise_projection'):
    assert name in names
  for name in names:
    changed = traces.copy(deep=True)
    changed[name][0, 0, 0, 0, 1] += 1 + float(traces[name].std())
    assert verify._largest_difference(traces, changed) > 0.1, name


def test_the_same_traces_differ_by_0(traces):
  assert verify._largest_difference(traces, traces.copy(deep=True)) == 0


def test_a_trace_that_the_store_lacks_is_not_compared(traces):
  older = traces.drop_vars('noise_projection')
  assert verify._largest_difference(traces, older) == 0


@pytest.mark.parametrize(
  ('actual', 'expected', 'difference'),
  [
    ([1.0, np.nan], [1.0, np.nan], 0),  # A kernel without a prediction.
    ([1.0, np.inf], [1.0, np.inf], 0),  # A chain that failed.
    ([np.nan, np.nan], [np.nan, np.nan], 0),
    ([1.0, 2.0], [1.0, np.nan], np.inf),
    ([1.0, np.nan], [1.0, 2.0], np.inf),
    ([1.0, np.inf], [1.0, -np.inf], np.inf),
    ([5.0, 5.0], [5.0, 5.0], 0),
    ([5.0, 5.5], [5.0, 5.0], 0.5),  # Nothing to scale by.
    ([0.0, 4.0], [0.0, 2.0], 2),
  ],
)
def test_a_difference_is_in_standard_deviations(actual, expected, difference):
  actual, expected = (
    xr.Dataset({'loss': ('draw', x)}) for x in (actual, expected)
  )
  assert verify._largest_difference(actual, expected) == difference
