"""Cost to precision: the seconds that a standard error of 0.05 takes.

A transformer is trained, and all its sixteen heads are sampled by this library
and by devinterp, from the same weights, sequences, posterior, step size and
batch size. A run is one chain a head from the checkpoint. Its estimate uses
every step, as devinterp's reduction does. The spread of sixteen independent
runs is the error of one, and error^2 / 0.05^2 runs have an error of 0.05.

devinterp measures the loss at the checkpoint on as many batches as a run has
steps. It loads them with the seed of the chain, so they are the batches of the
chain, and differences between batches cancel as they do here. With its default
of 32 batches, or with other batches, they don't. These estimates are computed
from the same chains and printed, too.

Only steps are timed, without compilation and without the work of a call before
its first step and after its last.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import functools
import itertools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import build_corpus
from experiments import train
from experiments.checks import parity_devinterp
from experiments.checks.benchmarks import problem as problems
from experiments.runtime import sections
from experiments.runtime import subjects
from experiments.runtime import targets
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.data import packing
from rllc_jax.estimators import llc
from rllc_jax.estimators import trajectory
from rllc_jax.models import transformer
from rllc_jax.refinement import weights
from rllc_jax.training import checkpoints

CONFIG = sections.make_config(
  seed=0,
  corpus=dict(
    sources=('stdlib_code',),  # Needs no package.
    further=(),
    cap_mb=4.0,
    vocab_size=500,
    context_length=32,
  ),
  model=dict(num_layers=2, num_heads=8, d_model=64, d_head=8),
  training=dict(
    learning_rate=3e-3, batch_size=64, num_steps=1500, num_checkpoints=2
  ),
)
BATCH_SIZE = 8
NUM_SEQUENCES = 4096  # More than any run sees.
NUM_SEEDS = 16
NUM_STEPS, NUM_QUICK_STEPS = 64, 32
QUICK_HEADS = ('0:0', '1:0')
TARGET_ERROR = 0.05
TARGET_RATIO = 100.0
DEFAULT_INIT_BATCHES = 32  # devinterp's.


class Problem(NamedTuple):
  """The model and data of both programs.

  Attributes:
    model: ours.
    params: its weights.
    tokens: [N, T], the data set.
    families: the refinements, a layer each.
    step: of training.
  """

  model: transformer.Architecture
  params: types.Params
  tokens: np.ndarray
  families: tuple[types.Refinements, ...]
  step: int


class Runs(NamedTuple):
  """Independent runs of one program.

  Attributes:
    llc: [S, R], the estimate of each seed and head.
    seconds: of a run of one head, the mean over all.
  """

  llc: np.ndarray
  seconds: float


def rows(workdir: pathlib.Path, *, quick: bool) -> Iterator[targets.Row]:
  """Measures and compares; corpus and training go below `workdir`.

  Args:
    workdir: of the benchmark.
    quick: one head a layer and fewer steps, with as many seeds.

  Raises:
    ValueError: if the extra `bench` is not installed.
  """
  peer = parity_devinterp.import_peer()
  problem = prepare(workdir / 'precision', QUICK_HEADS if quick else ['heads'])
  num_steps = NUM_QUICK_STEPS if quick else NUM_STEPS
  ours = by_us(problem, num_steps)
  theirs, variants = by_devinterp(problem, peer, num_steps)
  yield from cost_rows(ours, theirs, num_steps)
  for name, runs in variants.items():
    yield _ratio_row(f'not judged: {name}, same chains', ours, runs)


def prepare(workdir: pathlib.Path, names: list[str] | tuple[str, ...]):
  """Trains the model, or loads a trained one."""
  build_corpus.run(CONFIG, workdir)
  train.run(CONFIG, workdir)
  corpus = packing.load_corpus(workdir / 'corpus')
  model = train.build_model(sections.read(CONFIG).model, corpus)
  directory = workdir / 'train' / 'checkpoints'
  step = checkpoints.steps(directory)[-1]
  return Problem(
    model,
    checkpoints.load(directory, step),
    np.asarray(corpus.tokens[:NUM_SEQUENCES]),
    subjects.families(names, model),
    step,
  )


def by_us(problem: Problem, num_steps: int) -> Runs:
  """Samples all heads and seeds in one call, timed after compilation.

  Random keys depend on the name of a data set, so the same sequences under
  sixteen names give sixteen independent runs.
  """
  data = minibatches.uniform(problem.tokens, BATCH_SIZE)
  window = minibatches.whole(data.data)
  load = lambda steps: trees.stack([problem.params] * len(steps))

  def run(seed, progress=None):
    traces = trajectory.estimate_trajectory(
      jax.random.key(seed),
      problem.families,
      types.Trajectory((problem.step,), load),
      {f'run {i}': window for i in range(NUM_SEEDS)},
      data,
      problems.sampling(num_chains=1, num_draws=num_steps),
      progress=progress,
    )
    return llc.llc_from_traces(traces, burn_in=0).llc.values[0]

  run(0)  # Compiles.
  moments = []
  llcs = run(1, lambda done, _: moments.append((done, time.perf_counter())))
  return Runs(llcs, stepping_seconds(moments) / llcs.size)


def stepping_seconds(marks: Sequence[tuple[int, float]]) -> float:
  """Seconds in which draws were made, from marks of `progress`.

  Args:
    marks: draws so far and the time, whenever `progress` was called.

  Examples:
    >>> stepping_seconds([(0, 1.0), (0, 1.5), (4, 2.5), (4, 4.0), (9, 7.0)])
    4.0
  """
  pairs = itertools.pairwise(marks)
  return sum(end - start for (a, start), (b, end) in pairs if b > a)


def by_devinterp(
  problem: Problem, peer: Any, num_steps: int
) -> tuple[Runs, dict[str, Runs]]:
  """Samples heads and seeds one after the other by devinterp.

  Returns:
    Runs with as many batches at the checkpoint as steps; and, by name, results
    of the same chains with other losses at the checkpoint.
  """
  peer.set_num_threads(1)  # More threads wait for each other at this size.
  model = peer.AttentionOnly(problem.params)
  center_loss = _center_loss(problem)
  full_loss = float(np.mean([center_loss(b) for b in _batches(problem)]))
  nbeta = float(problems.POSTERIOR.nbeta)
  results, clocks = [], []
  # devinterp adds the chain to the seed: close seeds could share noise.
  for seed in range(1000, 1000 * (NUM_SEEDS + 1), 1000):
    for mask in _masks(problem):
      samples, clock = peer.timed_sample(
        model,
        problem.tokens,
        mask,
        lr=problems.STEP_SIZE,
        n_beta=nbeta,
        localization=problems.POSTERIOR.localization,
        batch_size=BATCH_SIZE,
        num_draws=num_steps,
        num_init_loss_batches=num_steps,
        init_seed=seed,
      )
      first = samples.tokens[0][:DEFAULT_INIT_BATCHES]
      few_batches = float(np.mean([center_loss(batch) for batch in first]))
      results.append((samples.llc, float(samples.losses.mean()), few_batches))
      clocks.append((clock.total, clock.init))
  shape = NUM_SEEDS, -1, 3
  llcs, means, few_batches = np.moveaxis(
    np.array(results).reshape(shape), -1, 0
  )
  total, init = np.mean(clocks, axis=0)
  # Losses of another seed: on as many batches, which the chain does not see.
  center_losses = np.roll(means - llcs / nbeta, 1, axis=0)
  share = min(1, DEFAULT_INIT_BATCHES / num_steps)
  return Runs(llcs, total), {
    'as many init batches, but others': Runs(
      nbeta * (means - center_losses), total
    ),
    f'{DEFAULT_INIT_BATCHES} init batches, its default': Runs(
      nbeta * (means - few_batches), total - init + share * init
    ),
    'all of the data instead of init batches, at no cost': Runs(
      nbeta * (means - full_loss), total - init
    ),
  }


def _center_loss(problem: Problem):
  apply = functools.partial(transformer.apply, problem.model)
  loss = jax.jit(losses.next_token_loss(apply))
  return lambda batch: float(loss(problem.params, np.asarray(batch, np.int32)))


def _batches(problem: Problem) -> np.ndarray:
  return problem.tokens.reshape(-1, BATCH_SIZE, problem.tokens.shape[1])


def _masks(problem: Problem) -> Iterator[types.PyTree]:
  """Yields the mask of each head, in the order of our estimates."""
  for family in problem.families:
    for i in range(len(family.names)):
      index = jax.tree.map(lambda leaf, i=i: leaf[i], family.indices)
      yield weights.mask_of(family.lens, index, problem.params)


def cost(runs: Runs) -> float:
  """Seconds for an error of `TARGET_ERROR` of every head, one after another.

  Examples:
    >>> cost(Runs(np.array([[0.9], [1.1]]), 2.0))  # sd^2 = 0.02, 8 runs.
    16.0
  """
  variances = runs.llc.var(axis=0, ddof=1)
  return float(np.round(runs.seconds * np.sum(variances) / TARGET_ERROR**2, 9))


def cost_rows(ours: Runs, theirs: Runs, num_steps: int):
  """Targets: the ratio of both costs, and the agreement of both estimates."""
  size = f'{theirs.llc.shape[1]} heads, {NUM_SEEDS} seeds, {num_steps} steps'
  for name, runs in (('rllc_jax', ours), ('devinterp', theirs)):
    error = np.sqrt(runs.llc.var(axis=0, ddof=1).mean())
    yield targets.Row(
      f'error of {TARGET_ERROR} in every head, {name}',
      cost(runs),
      's',
      note=f'{1e3 * runs.seconds / num_steps:.3g} ms a chain-step, error of a '
      f'run {error:.3g}; {size}',
    )
  ratio = cost(theirs) / cost(ours)
  yield targets.Row(
    'cost to precision, devinterp / rllc_jax',
    ratio,
    'times cheaper',
    f'at least {TARGET_RATIO:g}',
    ratio >= TARGET_RATIO,
    'devinterp with as many init batches as steps, which are the same batches',
  )
  yield targets.Row(
    '  of it speed', theirs.seconds / ours.seconds, 'times faster'
  )
  variances = [runs.llc.var(axis=0, ddof=1) for runs in (theirs, ours)]
  yield targets.Row(
    '  of it variance',
    float(variances[0].sum() / variances[1].sum()),
    'times less',
  )
  means = [runs.llc.mean(axis=0) for runs in (theirs, ours)]
  errors = np.sqrt(sum(v / NUM_SEEDS for v in variances))
  difference = float(np.sqrt(np.mean(((means[0] - means[1]) / errors) ** 2)))
  yield targets.Row(
    'means over seeds, difference',
    difference,
    'joint standard errors',
    'under 2',
    difference < 2,
    f'root mean square over the heads; the mean llc is {means[1].mean():.3g}',
  )


def _ratio_row(note: str, ours: Runs, theirs: Runs) -> targets.Row:
  variance = theirs.llc.var(axis=0, ddof=1).sum()
  variance /= ours.llc.var(axis=0, ddof=1).sum()
  return targets.Row(
    'cost to precision, devinterp / rllc_jax',
    cost(theirs) / cost(ours),
    'times cheaper',
    note=f'{note}; speed {theirs.seconds / ours.seconds:.3g}, '
    f'variance {variance:.3g}',
  )
