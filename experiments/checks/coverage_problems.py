"""Problems of experiments.coverage: many runs of each, and its true value.

Random keys of minibatches and noise depend on the name of a data set. So data
sets that differ in name alone give independent runs, as rows of one program.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import xarray as xr

from experiments import build_corpus
from experiments import train
from experiments.runtime import progress
from experiments.runtime import sections
from experiments.runtime import subjects
import rllc_jax
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import errors
from rllc_jax.estimators import grid
from rllc_jax.estimators import llc
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.models import architecture
from rllc_jax.refinement import weights
from rllc_jax.results import disk
from rllc_jax.training import checkpoints
from rllc_jax.truth import regression

_STEP_SIZE = 1e-3
_NUM_CHAINS = 4


class Problem(NamedTuple):
  """Runs of one problem, and its true value.

  Attributes:
    name: for rows and figures.
    traces: the data sets are the runs; the burn-in is the default one.
    share_batches: True if the chains of a run see the same minibatches, which
      correlates them; False if there are no minibatches.
    expected: the true value, at the settings of the chains.
    expected_error: standard error of it, 0 where it is exact.
  """

  name: str
  traces: xr.Dataset
  share_batches: bool
  expected: float
  expected_error: float = 0.0


def bowl(num_runs: int, num_draws: int) -> Problem:
  r"""A bowl with five curvatures and no data, so that only draws correlate.

  With curvatures h and :math:`a = n\beta h + \gamma` the exact value is

  .. math:: \tfrac12 \sum n\beta h / (a (1 - \epsilon a / 4))

  At :math:`\epsilon\gamma = 0.2`, the paper's, a draw of the loss is correlated
  with about the ten after it.

  Args:
    num_runs: independent runs of four chains.
    num_draws: draws of a chain after the burn-in.
  """
  h = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
  posterior = types.Posterior(nbeta=30.0, localization=200.0)

  def loss_fn(w, batch):
    del batch
    return 0.5 * jnp.sum(jnp.asarray(h, jnp.float32) * w**2)

  traces = sample_weights(
    jax.random.key(0, impl='threefry2x32'),
    loss_fn,
    jnp.zeros(len(h)),
    minibatches.uniform(jnp.zeros(1), batch_size=1),
    num_runs,
    **posterior._asdict(),
    num_draws=num_draws,
    num_baseline_batches=2,  # The loss has no data, hence no noise.
  )
  a = posterior.nbeta * h + posterior.localization
  exact = 0.5 * posterior.nbeta * (h / (a * (1 - _STEP_SIZE * a / 4))).sum()
  return Problem('bowl', traces, False, float(exact))


def linear_regression(
  num_runs: int, num_draws: int, *, share_batches: bool
) -> Problem:
  """A regression on 200 points in 3 dimensions with minibatches of 4.

  Minibatch noise makes a third of the value, which `truth.regression` has. The
  loss at the minimum is measured on 4,096 minibatches: its error, which the
  spread between chains leaves out, is then no more than that of 1,000 draws of
  4 independent chains.

  Args:
    num_runs: independent runs of four chains.
    num_draws: draws of a chain after the burn-in.
    share_batches: True if the chains of a run see the same minibatches.
  """
  points = regression.draw_points(
    0, num_points=200, num_coordinates=3, noise=0.75
  )
  posterior = types.Posterior(nbeta=100.0, localization=80.0)
  traces = sample_weights(
    # Another seed for each variant: their results must be independent.
    jax.random.key(1 + share_batches, impl='threefry2x32'),
    regression.loss,
    jnp.asarray(regression.minimum(points), jnp.float32),
    minibatches.uniform(points, batch_size=4),
    num_runs,
    **posterior._asdict(),
    num_draws=num_draws,
    share_batches=share_batches,
    num_baseline_batches=4 * 1024,
  )
  exact = regression.stationary_llc(points, posterior, _STEP_SIZE, batch_size=4)
  name = f'regression, {"shared" if share_batches else "own"} batches'
  return Problem(name, traces, share_batches, exact)


def head(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  num_runs: int,
  num_draws: int,
  *,
  num_reference_runs: int,
  num_reference_draws: int,
) -> Problem:
  """Trains a transformer and samples a head at its last checkpoint.

  The reference is the mean of further runs at the same settings. These are
  longer and drop four times the burn-in, which reveals a burn-in that is too
  short. Its error is from the spread between them, not from an error bar.

  Args:
    config: of the corpus, the model, its training and the runs; the section
      `estimation` names one refinement and one checkpoint; its `num_draws`
      and `burn_in` are not used.
    workdir: for `corpus`, `train` and the stores `head/runs` and
      `head/reference`, of which existing ones are reused.
    num_runs: independent runs.
    num_draws: draws of a chain after the burn-in.
    num_reference_runs: at least 2.
    num_reference_draws: draws of a chain of the reference.
  """
  corpus = build_corpus.run(config, workdir)
  train.run(config, workdir)
  settings = sections.read(config)
  sampling = settings.sampling
  burn_in = errors.default_burn_in(sampling.step_size, sampling.localization)
  sample = functools.partial(_sample_head, config, corpus, workdir)
  traces = sample('runs', num_runs, num_draws, burn_in)
  reference = sample(
    'reference', num_reference_runs, num_reference_draws, 4 * burn_in
  )
  values = llc.llc_from_traces(reference, burn_in=4 * burn_in).llc.values
  return Problem(
    f'head {settings.estimation.refinements[0]}',
    traces,
    sampling.share_batches,
    float(values.mean()),
    float(values.std(ddof=1) / np.sqrt(values.size)),
  )


def sample_trained_head(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  num_runs: int,
  num_draws: int,
) -> xr.Dataset:
  """Runs of `head`, at the sampler and the burn-in of the config."""
  corpus = build_corpus.run(config, workdir)
  train.run(config, workdir)
  sampling = sections.read(config).sampling
  burn_in = errors.default_burn_in(sampling.step_size, sampling.localization)
  return _sample_head(
    config, corpus, workdir, 'runs', num_runs, num_draws, burn_in
  )


def _runs(prefix: str, count: int, window: types.Window):
  """Data sets that differ in name alone, for independent runs."""
  return {f'{prefix} {i:03}': window for i in range(count)}


def sample_weights(
  rng_key: types.Key,
  loss_fn: types.LossFn,
  center: types.Array,
  batches: types.Minibatches,
  num_runs: int,
  **options: Any,
) -> xr.Dataset:
  """Samples runs of all weights of a small problem in one call.

  Args:
    rng_key: of all runs.
    loss_fn: `loss_fn(w, batch)`.
    center: w at the checkpoint.
    batches: data, and how minibatches are drawn.
    num_runs: independent runs.
    **options: of `rllc_jax.Sampling`; by default four chains of SGLD at a step
      size of 1e-3.
  """
  settings: dict[str, Any] = {
    'sampler': 'sgld',
    'step_size': _STEP_SIZE,
    'num_chains': _NUM_CHAINS,
    **options,
  }
  lens = weights.all_weights()
  mesh = grid.default_mesh(num_runs)
  return trajectories.estimate_trajectory(
    rng_key,
    types.Refinements(
      ('all',), lens, jnp.zeros(1, jnp.int32), weights.refine(loss_fn, lens)
    ),
    types.Trajectory((0,), lambda steps: trees.stack([center] * len(steps))),
    _runs('run', num_runs, minibatches.whole(batches.data)),
    batches,
    rllc_jax.Sampling(**settings),
    layout=rllc_jax.Layout(
      # A vector of four costs as much as one number.
      chunk_size=settings['num_chains'],
      rows_per_block=len(grid.padded(range(num_runs), mesh.shape['row'])),
      mesh=mesh,
    ),
  )


def _sample_head(
  config: ml_collections.ConfigDict,
  corpus: packing.Corpus,
  workdir: pathlib.Path,
  name: str,
  num_runs: int,
  num_draws: int,
  burn_in: int,
) -> xr.Dataset:
  """Samples runs of the head, or loads them from the store `head/NAME`."""
  estimation = sections.read(config).estimation
  directory = workdir / 'train' / 'checkpoints'
  model = subjects.trained_model(directory, corpus)
  mesh = grid.default_mesh(num_runs)
  with progress.bar(f'head, {name}', 'draw') as bar:
    return trajectories.estimate_trajectory(
      jax.random.key(config.seed, impl='threefry2x32'),
      subjects.families(
        estimation.refinements, model, share_logits=estimation.share_logits
      ),
      checkpoints.trajectory(directory, estimation.checkpoints),
      _runs(name, num_runs, corpus.windows['train']),
      minibatches.uniform(corpus.tokens, estimation.batch_size),
      dataclasses.replace(
        sections.read(config).sampling,
        num_draws=num_draws,
        burn_in=burn_in,
        num_baseline_batches=1024,
      ),
      layout=rllc_jax.Layout(
        rows_per_block=2 * mesh.shape['row'],
        segment=burn_in + num_draws,  # A block takes seconds: no need to split.
        mesh=mesh,
      ),
      store=disk.open_store(workdir / 'head' / name),
      provenance={'model': architecture.to_json(model)},
      progress=bar.show,
    )
