"""Measures gain and cost of control variates at the checkpoint.

  python -m experiments.control_variates --config=FILE --workdir=DIR

reads `DIR/corpus` and the last checkpoint in `DIR/train/checkpoints`. It
samples every head three times with the settings of the section `sampling`:
plain, corrected in the estimate and corrected in the drift, on the same
minibatches and noise. It prints the reduction in variance and the cost of a
step. The data set is the first 3,200 sequences of the first one of
`estimation`, because its full gradient takes seconds. Stores are not changed.
"""

import dataclasses
import functools
import itertools
import pathlib
import time
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
import xarray as xr

from experiments.runtime import commands
from experiments.runtime import sections
from experiments.runtime import subjects
from experiments.runtime import targets
from rllc_jax import losses
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.models import transformer
from rllc_jax.refinement import control_variates
from rllc_jax.training import checkpoints

_SEQUENCES = 3_200  # A full gradient over more takes minutes.
_PASS = 64  # Sequences a batch of the full gradient.
KINDS = ('plain', 'in the estimate', 'in the drift')


class _Sampled(NamedTuple):
  """Results of one of the three kinds of runs.

  Attributes:
    estimates: of every head.
    variance: [R], of a draw's paired difference, averaged over chains.
    seconds: of a chain-step, median over segments, without compilation.
  """

  estimates: xr.Dataset
  variance: np.ndarray
  seconds: float


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> list[targets.Row]:
  """Measures and returns the rows.

  Args:
    config: `estimation` and `sampling` are read.
    workdir: with the subdirectories `corpus` and `train`.
  """
  estimation = sections.read(config).estimation
  # Only paired estimates are used, so the corpus baseline is not needed.
  sampling = dataclasses.replace(
    sections.read(config).sampling, num_baseline_batches=0
  )
  corpus = packing.load_corpus(workdir / 'corpus')
  directory = workdir / 'train' / 'checkpoints'
  model = subjects.trained_model(directory, corpus)
  loss_fn = losses.next_token_loss(functools.partial(transformer.apply, model))
  last = checkpoints.trajectory(directory)
  plain = types.Trajectory(last.steps[-1:], last.load)
  dataset = estimation.datasets[0]
  batches = minibatches.uniform(corpus.tokens, estimation.batch_size)
  full_window = corpus.windows[dataset]
  length = min(_SEQUENCES, int(full_window.length))
  window = types.Window(full_window.start, length)
  began = time.perf_counter()
  corrected = control_variates.anchored(
    plain, loss_fn, batches.data, window, batch_size=_PASS
  )
  corrected.load(corrected.steps)
  gradient_seconds = time.perf_counter() - began

  families = subjects.families(
    ('heads',), model, share_logits=estimation.share_logits
  )

  def sample(kind: str) -> _Sampled:
    correct = lambda family: control_variates.control_variates(
      family, loss_fn, in_drift=kind == KINDS[2]
    )
    is_plain = kind == KINDS[0]
    return _sample(
      jax.random.key(config.seed, impl='threefry2x32'),
      families if is_plain else [correct(family) for family in families],
      plain if is_plain else corrected,
      {dataset: window},
      batches,
      sampling,
    )

  sampled = {kind: sample(kind) for kind in KINDS}
  cost = targets.Row(
    'full gradient',
    1e3 * gradient_seconds / length,
    'ms a sequence',
    note=f'{full_window.length} sequences in {dataset}; compilation included',
  )
  return [cost, *_rows(sampled)]


def _sample(rng_key, families, trajectory, datasets, batches, sampling):
  moments = []
  traces = trajectories.estimate_trajectory(
    rng_key,
    families,
    trajectory,
    datasets,
    batches,
    sampling,
    layout=settings.Layout(segment=25),  # Short, for many rates to a median.
    progress=lambda done, total: moments.append((done, time.perf_counter())),
  )
  rates = [
    (later[1] - earlier[1]) / (later[0] - earlier[0])
    for earlier, later in itertools.pairwise(moments)
    if later[0] > earlier[0]  # Calls without new draws mark other work.
  ]
  estimates = llc.llc_from_traces(traces)
  late = traces.isel(draw=slice(-sampling.num_draws, None))
  paired = sampling.nbeta * (late.loss - late.center_loss).mean('chain')
  variance = paired.var('draw', ddof=1).values.ravel()
  return _Sampled(estimates, variance, float(np.median(rates)))


def _rows(sampled) -> list[targets.Row]:
  """Gain and cost of each kind relative to the plain one."""
  plain = sampled[KINDS[0]]
  rows = []
  for kind, (estimates, variance, seconds) in sampled.items():
    gains = plain.variance / variance
    gain, cost = float(np.exp(np.log(gains).mean())), seconds / plain.seconds
    joint = np.hypot(plain.estimates.standard_error, estimates.standard_error)
    distance = float((abs(estimates.llc - plain.estimates.llc) / joint).max())
    by_head = ', '.join(f'{value:.2f}' for value in gains)
    row = functools.partial(targets.Row, unit='x')
    rows += [
      row(f'{kind}: variance of a draw', gain, note=f'less; heads {by_head}'),
      row(f'{kind}: chain-step', cost, note=f'{1e3 * seconds:.2f} ms'),
      row(f'{kind}: precision a second', gain / cost, note='the two together'),
      targets.Row(
        f'{kind}: farthest head from plain',
        distance,
        'joint errors',
        'at most 4',
        distance <= 4,
        'another law at finite step size' if kind == KINDS[2] else '',
      ),
    ]
  return rows


def main() -> None:
  """Runs the command line."""
  commands.start(lambda config, workdir: targets.finish(run(config, workdir)))
