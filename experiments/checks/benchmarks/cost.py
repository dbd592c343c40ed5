"""Cost to a total error of all heads of a trained model, beside devinterp.

The cost of a setting is its time until abs(bias) + 2 standard errors is at most
5 % of the value at step size 0, for every head. devinterp's chains are our SGLD
chains step by step (experiments.parity_devinterp), so its estimates are read
from ours, against the losses of the same minibatches at the checkpoint, which
is the best that it can do; its seconds a step are measured. For both, step
size, chains, draws and burn-in are the cheapest of a grid.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import itertools
import math
import os
import pathlib
import statistics
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

from experiments import build_corpus
from experiments import train
from experiments.configs import demo
from experiments.runtime import sections
from experiments.runtime import subjects
from experiments.runtime import targets
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import plan as plans
from rllc_jax.estimators import program
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.refinement import weights
from rllc_jax.results import memory
from rllc_jax.training import checkpoints

NUM_RUNS, NUM_CHAINS = 8, 2
TOTAL_ERROR = 0.05
BATCH_SIZE = 4
# Step sizes and draws, from the checkpoint on, of the runs of each sampler.
GRID = {
  'sgld': ((2.5e-4, 5e-4, 1e-3, 2e-3), 400),
  'leimkuhler_matthews': ((2e-3, 4e-3, 8e-3), 150),
}
# A quarter of the step size, and a quarter of the minibatch noise.
REFERENCE = {'step_size': 1e-3, 'num_draws': 800}
REFERENCE_BATCH_SIZE = 16
PAPER = 1e-3, 4, 200  # Step size, chains, draws.
_BURN_INS = (0, 5, 10, 15, 25, 50, 100)
_TIMED_STEPS = 12
_LEAST_DRAWS = 8


class Subject(NamedTuple):
  """A trained model, and what its heads are measured with."""

  params: types.Params
  families: tuple[types.Refinements, ...]
  tokens: np.ndarray
  window: types.Window


class Setting(NamedTuple):
  """The cheapest setting of a grid.

  Attributes:
    step_size: epsilon.
    num_chains: of a head.
    burn_in: draws left out.
    num_draws: after them.
    total_error: the worst of all heads, as a share.
  """

  step_size: float
  num_chains: int
  burn_in: int
  num_draws: int
  total_error: float

  @property
  def chain_steps(self) -> int:
    """Steps of all chains of a head."""
    return self.num_chains * (self.burn_in + self.num_draws)


def rows(workdir: pathlib.Path, peer: Any | None) -> Iterator[targets.Row]:
  """Measures costs, and compares them with devinterp's if it is there."""
  subject = prepare(workdir / 'cost')
  exact = _reference(subject)
  runs = {
    (name, x): sample(_spec(subject, name, x, num_draws))
    for name, (step_sizes, num_draws) in GRID.items()
    for x in step_sizes
  }
  best = {
    sampler: cheapest(
      {x: paired for (name, x), paired in runs.items() if name == sampler},
      exact,
    )
    for sampler in GRID
  }
  for sampler, setting in best.items():
    yield _setting_row(sampler, setting)
  step_size, chains, draws = PAPER
  stops_at = np.max(_total_errors(runs['sgld', step_size], exact, 0, None))
  yield targets.Row(
    "SGLD at the paper's settings, whatever the draws",
    100 * stops_at,
    '% total error',
    note=f'step size {step_size:g}, no burn-in; the paper: {chains} x {draws}',
  )
  if peer is not None:
    yield from _against(subject, peer, best)


def prepare(workdir: pathlib.Path) -> Subject:
  """Trains the demo's model unless it is there."""
  config = demo.get_config()
  corpus = build_corpus.run(config, workdir)
  train.run(config, workdir)
  directory = workdir / 'train' / 'checkpoints'
  model = subjects.trained_model(directory, corpus)
  params = checkpoints.load(directory, checkpoints.steps(directory)[-1])
  families = subjects.families(['heads'], model)
  return Subject(params, families, corpus.tokens, corpus.windows['train'])


def sample(spec: requests.Spec) -> np.ndarray:
  """Estimates by single draws from the checkpoint on, [runs, heads, C, D]."""
  sampling = spec.sampling
  logging.info('%s at %g ...', sampling.kernel.name, sampling.step_size)
  request = requests.check(spec, with_losses=False)
  traces = trajectories.run(request, memory.MemoryStore()).isel(checkpoint=0)
  paired = traces.loss.astype(np.float64) - traces.center_loss
  paired = paired.transpose('dataset', 'refinement', 'chain', 'draw')
  return sampling.nbeta * paired.values


def _spec(
  subject: Subject,
  sampler: str,
  step_size: float,
  num_draws: int,
  *,
  num_runs: int = NUM_RUNS,
  batch_size: int = BATCH_SIZE,
) -> requests.Spec:
  sampling = settings.Sampling(
    nbeta=float(_posterior().nbeta),
    localization=float(_posterior().localization),
    step_size=step_size,
    sampler=sampler,
    num_chains=NUM_CHAINS,
    num_draws=num_draws,
    burn_in=0,
    num_baseline_batches=0,
  )
  return requests.Spec(
    jax.random.key(0),
    subject.families,
    rllc.of_one_checkpoint(subject.params),
    # Keys depend on the names, so these are independent runs.
    {f'run {i}': subject.window for i in range(num_runs)},
    minibatches.uniform(subject.tokens, batch_size),
    sampling,
  )


def _posterior() -> types.Posterior:
  return sections.read(demo.get_config()).sampling.posterior


def _reference(subject: Subject) -> np.ndarray:
  """Values at step size 0 by long runs, [heads]."""
  spec = _spec(
    subject,
    'leimkuhler_matthews',
    **REFERENCE,
    num_runs=2,
    batch_size=REFERENCE_BATCH_SIZE,
  )
  draws = sample(spec)
  return draws[..., 50:].mean(axis=(0, 2, 3))


def cheapest(
  runs: Mapping[float, np.ndarray], exact: np.ndarray
) -> Setting | None:
  """The setting of fewest chain-steps at which every head has a small error.

  Args:
    runs: [runs, heads, C, D] by step size.
    exact: [heads].

  Returns:
    None if none has, whatever the draws.
  """
  enough = []
  for (step_size, draws), burn_in, chains in itertools.product(
    runs.items(), _BURN_INS, range(1, NUM_CHAINS + 1)
  ):
    for count in _counts(draws.shape[3] - burn_in):
      part = draws[:, :, :chains]
      error = np.max(_total_errors(part, exact, burn_in, count))
      if error <= TOTAL_ERROR:
        enough.append(Setting(step_size, chains, burn_in, count, float(error)))
        break  # More draws only cost more.
  if not enough:
    return None
  return min(enough, key=lambda setting: setting.chain_steps)


def _counts(most: int) -> list[int]:
  """Numbers of draws to try: up to those recorded, and beyond."""
  if most < _LEAST_DRAWS:
    return []
  beyond = [most * 2**i for i in range(1, 8)]
  return [*range(_LEAST_DRAWS, most + 1, 4), *beyond]


def _total_errors(
  draws: np.ndarray, exact: np.ndarray, burn_in: int, count: int | None
) -> np.ndarray:
  """abs(bias) + 2 standard errors of a run, as shares, [heads].

  Args:
    draws: [runs, heads, C, D].
    exact: [heads].
    burn_in: draws left out.
    count: draws after them; None for infinitely many. Of more than there are,
      the standard error falls with the root and the bias stays.
  """
  kept = draws[..., burn_in:]
  taken = kept[..., :count]
  estimates = taken.mean(axis=(2, 3))
  bias = abs(estimates.mean(axis=0) - exact)
  if count is None:
    return bias / exact
  error = estimates.std(axis=0, ddof=1)
  error = error * math.sqrt(taken.shape[3] / count)
  return (bias + 2 * error) / exact


def _setting_row(sampler: str, setting: Setting | None) -> targets.Row:
  name = f'{sampler} at its best, all heads to 5 %'
  if setting is None:
    return targets.Row(name, math.nan, 'chain-steps a head', note='none does')
  return targets.Row(
    name,
    setting.chain_steps,
    'chain-steps a head',
    note=f'step size {setting.step_size:g}, {setting.num_chains} chains of '
    f'{setting.burn_in} + {setting.num_draws} draws; worst head '
    f'{100 * setting.total_error:.1f} %',
  )


def _against(
  subject: Subject, peer: Any, best: Mapping[str, Setting | None]
) -> Iterator[targets.Row]:
  """Costs in seconds, and their ratios."""
  ours = _our_seconds(subject)
  theirs, paired = _their_seconds(subject, peer)
  yield targets.Row(
    'rllc_jax, mean of the heads', 1e3 * ours, 'ms a chain-step'
  )
  yield targets.Row('devinterp, the same', 1e3 * theirs, 'ms a chain-step')
  steps = {name: x.chain_steps if x else math.nan for name, x in best.items()}
  # NaN, where no setting reaches the error, meets no target.
  cost = ours * steps['leimkuhler_matthews']
  # The losses at the checkpoint that make it a paired estimate.
  ratio = (theirs + paired) * steps['sgld'] / cost
  yield targets.Row(
    'devinterp at its best / rllc_jax, cost to 5 %',
    ratio,
    'times cheaper',
    'at least 30',
    ratio >= 30,
  )
  _, chains, draws = PAPER
  yield targets.Row(
    "devinterp at the paper's 4 x 200 / rllc_jax to 5 %",
    theirs * chains * draws / cost,
    'times cheaper',
    'at least 60',
    theirs * chains * draws >= 60 * cost,
    'whether or not it reaches 5 %',
  )


def _our_seconds(subject: Subject) -> float:
  """Seconds of a chain-step, the mean of the layers, on all devices."""
  spec = _spec(subject, 'leimkuhler_matthews', 4e-3, 24)
  layers = plans.plan_of(spec, None).families
  columns = NUM_CHAINS * len(layers[0].names)
  rows_at_once = len(jax.local_devices())
  return statistics.mean(
    layer.costs.draw_seconds / (columns * rows_at_once) for layer in layers
  )


def _their_seconds(subject: Subject, peer: Any) -> tuple[float, float]:
  """Seconds of a chain-step, and of the loss of a minibatch at the checkpoint.

  Means of the layers, of a head each, minima of three.
  """
  peer.set_num_threads(os.cpu_count())
  model = peer.AttentionOnly(subject.params)
  clocks = [
    [_clock(subject, peer, model, family) for _ in range(3)]
    for family in subject.families
  ]
  steps, first = (
    statistics.mean(min(map(read, layer)) for layer in clocks)
    for read in (
      lambda clock: float(clock.steps.mean()),
      lambda clock: clock.init / _TIMED_STEPS,
    )
  )
  return steps, first


def _clock(
  subject: Subject, peer: Any, model: Any, family: types.Refinements
) -> Any:
  index = program.first_index(family)
  _, clock = peer.timed_sample(
    model,
    subject.tokens[: 8 * BATCH_SIZE],
    weights.mask_of(family.lens, index, subject.params),
    lr=PAPER[0],
    n_beta=_posterior().nbeta,
    localization=_posterior().localization,
    batch_size=BATCH_SIZE,
    num_draws=_TIMED_STEPS,
    num_init_loss_batches=_TIMED_STEPS,
    init_seed=0,
  )
  return clock
