"""The arithmetic of a pod, against counting."""

import numpy as np
import pytest

import rllc_jax
from rllc_jax.estimators import scale
from rllc_jax.results import store as stores
from tests.estimators import toy

SIZES = scale.Sizes(coordinates=10, parameters=100, data_bytes=1_000)


def extent(checkpoints, datasets, refinements=400, chains=4, draws=250):
  numbers = lambda count: tuple(map(str, range(count)))
  steps = tuple(range(checkpoints))
  return stores.Extent(
    steps, numbers(datasets), numbers(refinements), chains, draws
  )


@pytest.mark.parametrize('num_devices', [1, 8, 256, 4096])
def test_a_pod(num_devices):
  """10^4 checkpoints x 400 heads x 20 data sets."""
  machines = scale.Machines(num_devices, min(8, num_devices))
  result = scale.scale(extent(10_000, 20), SIZES, machines, rate=100.0)
  assert result.chain_steps == 10_000 * 400 * 20 * 4 * 250
  assert result.num_files + result.chain_files < 100_000
  assert result.file_bytes < 2**26
  ideal = result.chain_steps / 100 / 3600 / num_devices
  np.testing.assert_allclose(result.hours, ideal / result.balance)
  assert 0.9 < result.balance <= 1


@pytest.mark.parametrize('count', [1, 2, 3, 8])
def test_the_most_that_a_device_has_is_counted(tmp_path, count):
  """Of what a store deals out to processes of two devices each."""
  asked = extent(7, 3, refinements=1, chains=1, draws=24)
  rows = asked.rows()
  dealt = []
  for index in range(count):
    store = rllc_jax.open_store(tmp_path / 'store', process=(index, count))
    identity = {
      'num_steps_between_draws': 1,
      'num_coordinates': {'0': 10},
      **dict.fromkeys(('nbeta', 'localization', 'step_size'), 1.0),
    }
    store.begin(identity, asked, '')
    dealt.append(store.owned_rows(rows))
    store.end()
  assert sorted(sum(dealt, [])) == sorted(rows)
  most = max(-(-len(own) // 2) for own in dealt)
  result = scale.scale(asked, SIZES, scale.Machines(2 * count, 2), rate=1.0)
  np.testing.assert_allclose(result.balance, 21 / (2 * count) / most)


def test_files_and_bytes_are_those_of_a_store(tmp_path):
  """A run of the toy: six arrays with draws, losses at checkpoints."""
  traces = toy.run(store=rllc_jax.open_store(tmp_path, keep_chains=False))
  kinds = [x for x in traces.values() if 'draw' in x.dims]
  sizes = SIZES._replace(traces=len(kinds))
  asked = stores.Extent(
    tuple(traces.checkpoint.values.tolist()),
    tuple(traces.dataset.values.tolist()),
    tuple(traces.refinement.values.tolist()),
    traces.sizes['chain'],
    traces.sizes['draw'],
  )
  result = scale.scale(asked, sizes, scale.Machines(1, 1), rate=1.0)
  assert result.trace_bytes == sum(x.nbytes for x in kinds)
  assert not [*(tmp_path / 'chains').iterdir()]
  [*found] = (tmp_path / 'traces').iterdir()
  size = sum(path.stat().st_size for path in found)
  assert 1 < size / result.trace_bytes < 1.5  # Headers of a small run.
