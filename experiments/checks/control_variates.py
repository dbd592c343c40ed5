"""What control variates at the checkpoint gain, and what they cost.

  python -m experiments.control_variates --config=FILE --workdir=DIR

reads `DIR/corpus` and the last checkpoint in `DIR/train/checkpoints`, samples
every head with the settings of the section `sampling` three times, plain,
corrected in the estimate and corrected in the drift, on the same minibatches
and noise, and shows what falls in variance and what a step costs. The data set
is the first 3,200 sequences of the section's first one, so that its full
gradient is soon had; stores are not touched.
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

from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import sections
from experiments.runtime import targets
from rllc_jax import losses
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.models import attention_only
from rllc_jax.refinement import control_variates
from rllc_jax.training import checkpoints

_SEQUENCES = 3_200  # The data set: a full gradient of more takes minutes.
_PASS = 64  # Sequences of a pass of the full gradient.
KINDS = ('plain', 'in the estimate', 'in the drift')


class _Found(NamedTuple):
  """A kind of run.

  Attributes:
    estimates: of every head.
    variance: [R], of a draw's paired difference, averaged over chains.
    seconds: of a chain-step, median of the segments, compilation left out.
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
  # Nobody reads the corpus's baseline here.
  sampling = dataclasses.replace(
    sections.read(config).sampling, num_baseline_batches=0
  )
  corpus = packing.load_corpus(workdir / 'corpus')
  kept = workdir / 'train' / 'checkpoints'
  model = choices.trained_model(kept, corpus)
  loss_fn = losses.next_token_loss(
    functools.partial(attention_only.apply, model)
  )
  last = checkpoints.trajectory(kept)
  plain = types.Trajectory(last.steps[-1:], last.load)
  dataset = estimation.datasets[0]
  batches = minibatches.uniform(corpus.tokens, estimation.batch_size)
  whole = corpus.windows[dataset]
  length = min(_SEQUENCES, int(whole.length))
  window = types.Window(whole.start, length)
  began = time.perf_counter()
  corrected = control_variates.anchored(
    plain, loss_fn, batches.data, window, batch_size=_PASS
  )
  corrected.load(corrected.steps)
  gradient_seconds = time.perf_counter() - began

  families = choices.families(
    ('heads',), model, share_logits=estimation.share_logits
  )

  def sample(kind: str) -> _Found:
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

  found = {kind: sample(kind) for kind in KINDS}
  cost = targets.Row(
    'full gradient',
    1e3 * gradient_seconds / length,
    'ms a sequence',
    note=f'{whole.length} sequences in {dataset}; compilation included',
  )
  return [cost, *_rows(found)]


def _sample(rng_key, families, trajectory, datasets, batches, sampling):
  marks = []
  traces = trajectories.estimate_trajectory(
    rng_key,
    families,
    trajectory,
    datasets,
    batches,
    sampling,
    layout=settings.Layout(segment=25),
    progress=lambda done, total: marks.append((done, time.perf_counter())),
  )
  rates = [
    (later[1] - earlier[1]) / (later[0] - earlier[0])
    for earlier, later in itertools.pairwise(marks)
    if later[0] > earlier[0]  # Not while a block was made ready.
  ]
  estimates = llc.llc_from_traces(traces)
  kept = traces.isel(draw=slice(-sampling.num_draws, None))
  paired = sampling.nbeta * (kept.loss - kept.center_loss).mean('chain')
  variance = paired.var('draw', ddof=1).values.ravel()
  return _Found(estimates, variance, float(np.median(rates)))


def _rows(found) -> list[targets.Row]:
  """What each kind gains and costs beside the plain one."""
  plain = found[KINDS[0]]
  rows = []
  for kind, (estimates, variance, seconds) in found.items():
    gains = plain.variance / variance
    gain, cost = float(np.exp(np.log(gains).mean())), seconds / plain.seconds
    joint = np.hypot(plain.estimates.standard_error, estimates.standard_error)
    apart = float((abs(estimates.llc - plain.estimates.llc) / joint).max())
    by_head = ', '.join(f'{value:.2f}' for value in gains)
    row = functools.partial(targets.Row, unit='x')
    rows += [
      row(f'{kind}: variance of a draw', gain, note=f'less; heads {by_head}'),
      row(f'{kind}: chain-step', cost, note=f'{1e3 * seconds:.2f} ms'),
      row(f'{kind}: precision a second', gain / cost, note='the two together'),
      targets.Row(
        f'{kind}: farthest head from plain',
        apart,
        'joint errors',
        'at most 4',
        apart <= 4,
        'another law at finite step size' if kind == KINDS[2] else '',
      ),
    ]
  return rows


def main() -> None:
  """The command."""
  commands.start(lambda config, workdir: targets.finish(run(config, workdir)))
