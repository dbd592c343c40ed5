"""Traces are those that were recorded before drivers and settings were redone.

`python -m tests.estimators.recorded_test FILE` records them anew, for a change
that is meant to change numbers.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rllc_jax
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.refinement import weights
from tests.estimators import toy

_FILE = pathlib.Path(__file__).with_name('recorded.npz')
_SAMPLERS = {
  'sgld': rllc_jax.sgld,
  'rmsprop_sgld': rllc_jax.rmsprop_sgld,
  'rmsprop_sgld_corrected': rllc_jax.rmsprop_sgld_corrected,
  'sghmc': rllc_jax.sghmc,
  'sgnht': rllc_jax.sgnht,
  'mala': rllc_jax.mala,
}
_TRACES = ('loss', 'center_loss', 'squared_distance', 'virial')


def _families():
  lens = weights.all_weights()
  loss = weights.refine(toy.loss_fn, lens)
  zero = jnp.zeros(1, jnp.int32)
  return [toy.family(0, 2), types.Refinements(('all',), lens, zero, loss)]


def _run(name):
  """Rows on two devices, stopped after 24 draws and asked for six more."""
  changes = {}
  if name == 'mala':  # Right only without minibatch noise.
    full = minibatches.full(toy.data())
    window = minibatches.whole(full.data)
    changes = {'minibatches': full, 'datasets': {'text': window}}
  store = toy.directory() / 'store'
  for num_draws in (24, 30):
    traces = toy.run(
      refinements=_families(),
      trajectory=toy.trajectory(toy.STEPS[:2]),
      sampler=_SAMPLERS[name](),
      num_draws=num_draws,
      mesh=grid.make_mesh(2, 1),
      store=rllc_jax.open_store(store),
      **changes,
    )
  return traces


def _recorded(traces, name):
  """Every third draw, or the file would be large."""
  return traces[name].values[..., ::3]


def _record(path):
  np.savez_compressed(
    path,
    **{
      f'{sampler}.{name}': _recorded(traces, name).astype(np.float32)
      for sampler in _SAMPLERS
      for traces in [_run(sampler)]
      for name in _TRACES
    },
  )


@pytest.mark.long
@pytest.mark.filterwarnings('ignore:Estimates by')
@pytest.mark.parametrize('sampler', _SAMPLERS)
def test_traces_are_the_recorded_ones(sampler):
  traces = _run(sampler)
  with np.load(_FILE) as recorded:
    for name in _TRACES:
      expected = recorded[f'{sampler}.{name}']
      # Optimizations of the compiler and machines round differently.
      np.testing.assert_allclose(
        _recorded(traces, name),
        expected,
        rtol=1e-4,
        atol=1e-5 * np.abs(expected).max(),
        err_msg=name,
      )


if __name__ == '__main__':
  jax.config.update('jax_num_cpu_devices', 2)
  _record(sys.argv[1])
