"""Paired against corpus variance, on traces whose noise is known."""

import numpy as np
import xarray as xr

from rllc_jax.estimators import llc
from rllc_jax.report import gains
from tests.report import saved

NBETA, M, D = 30.0, 64, 240


def traces(shared=0.2, chain_noise=0.05, num_refinements=4):
  """A minibatch has loss 2 + `shared` noise; the chain adds `chain_noise`."""
  rng = np.random.default_rng(0)
  shape = (3, 1, num_refinements, 2, D)
  batch = np.broadcast_to(rng.normal(size=(*shape[:3], 1, D)), shape)
  values = {
    'center_loss': 2 + shared * batch,
    'loss': 2.1 + shared * batch + chain_noise * rng.normal(size=shape),
    'squared_distance': 0.01 + 0 * batch,
    'virial': 16 + rng.normal(size=shape),
    'squared_gradient': 1 + 0 * batch,
  }
  baseline = 2 + shared * rng.normal(size=(*shape[:3], M))
  dims = (*saved.DIMS, 'chain', 'draw')
  return xr.Dataset(
    {
      **{name: (dims, x) for name, x in values.items()},
      'baseline_loss': ((*saved.DIMS, 'baseline_batch'), baseline),
      'recorded': (dims[:4], np.full(shape[:4], D)),
    },
    {
      'checkpoint': saved.STEPS,
      'dataset': ['text'],
      'refinement': saved.HEADS[:num_refinements],
      'draw': np.arange(D),
      'num_coordinates': ('refinement', [16] * num_refinements),
    },
    {
      'nbeta': NBETA,
      'localization': 1.0,
      'step_size': 1e-3,
      'num_steps_between_draws': 1,
    },
  )


def measured(dataset):
  estimates = llc.llc_from_traces(dataset, burn_in=0)
  return gains.measure(dataset, estimates, burn_in=0)


def test_variances_are_those_of_the_noise():
  """Two chains of D independent draws; M minibatches at the checkpoint."""
  variances = measured(traces(num_refinements=4))
  paired = NBETA**2 * 0.05**2 / 2 / D
  center = NBETA**2 * 0.2**2 / M
  corpus = NBETA**2 * (0.2**2 + 0.05**2 / 2) / D + center
  # 12 cells: 7 degrees of freedom each (63 for the baseline) give errors of
  # sqrt(2 / 84) = 15 % and sqrt(2 / 756) = 5 %; the estimate of the first two
  # is a maximum, up to 1.3 times too large where draws are uncorrelated.
  mean = variances.mean(...)
  assert 0.6 * paired < float(mean.paired) < 1.9 * paired
  np.testing.assert_allclose(float(mean.center), center, rtol=0.2)
  assert 0.8 * corpus < float(mean.corpus) < 1.4 * corpus
  assert bool((variances.corpus > variances.center).all())


def test_the_gain_is_the_ratio_and_its_mean_is_geometric():
  gain = gains.gain_of(measured(traces()))
  variances = xr.Dataset({'paired': 0 * gain + 2.0, 'center': 0 * gain + 4.0})
  variances['corpus'] = (gain.dims, np.ones(gain.shape) * [[[8, 8, 8, 8]]])
  variances['corpus'][0] = 32.0
  assert gains.gain_of(variances).values[1, 0, 0] == 4
  table = gains.table(variances)
  cells = dict(zip(table.header, table.rows[0], strict=True))
  text = {name: cell.text for name, cell in cells.items()}
  assert text == {
    'refinement': '0:0',
    'error at step 100, paired': '1.41',
    'the same, corpus': '2.83',
    'of it, loss at the checkpoint': '2',
    'gain at step 100': '4',
    'gain, all checkpoints': '6.35',  # (16 4 4)^(1/3).
    'spread between them': '×/÷ 2.23',  # exp(ln 4 / sqrt 3).
    'gain without the third error': '3.83',  # (14 2 2)^(1/3).
  }
  words = gains.sentence(variances)
  assert '6.35 times smaller' in words and 'factor is 3.83' in words
  assert '50 % of the corpus variance' in words


def test_without_a_corpus_baseline_there_is_no_gain():
  dataset = traces()
  assert measured(dataset.drop_dims('baseline_batch')) is None
  assert measured(dataset.isel(baseline_batch=[0])) is None


def test_cells_that_are_missing_are_left_out():
  variances = measured(traces())
  variances = variances.where(variances.refinement != '0:1')
  variances['corpus'][0] = np.nan
  table = gains.table(variances)
  assert [cell.text for cell in table.rows[1][1:]] == ['–'] * 7
  assert 'nan' not in gains.sentence(variances)
  assert 'cannot be told' in gains.sentence(variances * np.nan)
