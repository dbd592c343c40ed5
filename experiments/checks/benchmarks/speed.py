"""Seconds per step per chain, compared with devinterp on the same model.

Both programs run two heads a layer on the same weights and sequences, in turn,
on as many threads as there are cores, and only steps are timed. Ours is a small
version of the main job, with one checkpoint a device and six chains a head. The
paper's job has more columns, eight heads of four chains. So fewer columns share
the context here, to our disadvantage.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import math
import os
import statistics
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import targets
from rllc_jax import trees
from rllc_jax.data import minibatches
from rllc_jax.estimators import compilation
from rllc_jax.estimators import grid
from rllc_jax.estimators import program
from rllc_jax.refinement import weights
from rllc_jax.samplers import leimkuhler_matthews

# (sequences, tokens a sequence) of a minibatch, and the least ratio of speeds.
SIZES = ((8, 256), (4, 1024))
TARGETS = {(8, 256): 5.0, (4, 1024): 4.0}
HEADS = (0, 5)
NUM_CHAINS = 6
NUM_STEPS, NUM_QUICK_STEPS = 20, 4
NUM_ROUNDS = 3


class Timing(NamedTuple):
  """Seconds a chain-step, a value a round.

  Attributes:
    ours: by (size, layer).
    theirs: by (size, layer); geometric mean over the heads.
    compilation: of ours, in seconds, by (size, layer).
  """

  ours: dict[Any, list[float]]
  theirs: dict[Any, list[float]]
  compilation: dict[Any, float]


def measure(problem: problems.Problem, peer: Any, *, quick: bool) -> Timing:
  """Times both programs in turn.

  Args:
    problem: weights and tokens.
    peer: the module `devinterp_peer`, or None for ours alone.
    quick: only shorter sequences, two rounds and fewer steps.
  """
  sizes = SIZES[:1] if quick else SIZES
  num_rounds = 2 if quick else NUM_ROUNDS
  num_steps = NUM_QUICK_STEPS if quick else NUM_STEPS
  cases = [(size, layer) for size in sizes for layer in range(2)]
  timing = Timing({case: [] for case in cases}, {}, {})
  ours, theirs = {}, {}
  for size, layer in cases:
    run = our_steps(problem, size, layer)
    began = time.perf_counter()
    run(1)
    timing.compilation[size, layer] = time.perf_counter() - began
    ours[size, layer] = run
  if peer:
    model = peer.AttentionOnly(problem.params)
    peer.set_num_threads(os.cpu_count() or 1)
    theirs = {case: their_steps(problem, peer, model, *case) for case in cases}
  for i in range(num_rounds):
    logging.info('speed, round %d of %d ...', i + 1, num_rounds)
    for case in cases:
      timing.ours[case].append(ours[case](num_steps))
      if peer:
        seconds = theirs[case](num_steps)
        timing.theirs.setdefault(case, []).append(seconds)
  return timing


def our_steps(
  problem: problems.Problem, size: tuple[int, int], layer: int
) -> Callable[[int], float]:
  """A call that returns our seconds a chain-step, over both heads.

  It runs a block program of `estimate_trajectory` with a row for each device.
  """
  family = problems.family(tuple(f'{layer}:{head}' for head in HEADS))
  pairs = [(r, c) for r in range(len(HEADS)) for c in range(NUM_CHAINS)]
  columns = program.make_columns(family, pairs)
  batches = problems.batches(problem, *size)
  num_rows = len(jax.local_devices())
  mesh = grid.default_mesh(num_rows)
  rows = program.make_rows(
    jax.random.key(1),
    trees.stack([problem.params] * num_rows),
    [(step, 'code') for step in range(num_rows)],
    [minibatches.whole(batches.data)] * num_rows,
  )
  data = compilation.replicated(batches.data, mesh)
  block = program.block_program(
    family.lens,
    family.loss,
    leimkuhler_matthews.leimkuhler_matthews(),
    batches.draw,
    mesh=mesh,
    chunk_size=1,
    max_draws=NUM_STEPS,
  )
  settings = program.make_settings(problems.POSTERIOR, problems.STEP_SIZE)
  live = jnp.ones((num_rows, len(pairs)), bool)

  def seconds_a_step(num_steps):
    states, _ = block.init(rows, columns, data)
    # From draw 1 on: the first call alone takes two steps more.
    span = jnp.int32(1), jnp.int32(num_steps)
    began = time.perf_counter()
    _, reports = block.run(rows, columns, states, live, *span, settings, data)
    # Within the timed part, because it waits for the program to end.
    losses = program.traces_by_column(reports, len(pairs), num_steps)['loss']
    spent = time.perf_counter() - began
    if not np.isfinite(losses).all():
      raise ValueError('Chains must stay finite to be timed.')
    return spent / losses.size

  return seconds_a_step


def their_steps(
  problem: problems.Problem, peer: Any, model: Any, size, layer: int
) -> Callable[[int], float]:
  """A call that returns devinterp's seconds a step, over both heads."""
  batch_size, context_length = size
  tokens = problem.tokens[: 8 * batch_size, :context_length]

  def head_seconds(head, num_steps):
    family = problems.family((f'{layer}:{head}',))
    index = program.first_index(family)
    _, clock = peer.timed_sample(
      model,
      tokens,
      weights.mask_of(family.lens, index, problem.params),
      lr=problems.STEP_SIZE,
      n_beta=problems.POSTERIOR.nbeta,
      localization=problems.POSTERIOR.localization,
      batch_size=batch_size,
      num_draws=num_steps,
      num_init_loss_batches=1,  # Not timed, so as few as possible.
      init_seed=0,
    )
    return float(clock.steps.mean())

  def seconds_a_step(num_steps):
    seconds = [head_seconds(head, num_steps) for head in HEADS]
    return statistics.geometric_mean(seconds)

  return seconds_a_step


def least(timing: Timing) -> dict[Any, float]:
  """Least of our times of a chain-step in seconds, by (size, layer)."""
  return {case: min(seconds) for case, seconds in timing.ours.items()}


def rows(timing: Timing) -> Iterator[targets.Row]:
  """Times by layer and program, and targets for the ratios of speeds."""
  for size in dict.fromkeys(size for size, _ in timing.ours):
    name = f'{size[0]} x {size[1]}'
    for layer in range(2):
      yield _time_row(f'{name}, layer {layer}, rllc_jax', timing, size, layer)
      if timing.theirs:
        theirs = timing.theirs[size, layer]
        yield targets.Row(
          f'{name}, layer {layer}, devinterp',
          1e3 * min(theirs),
          'ms a chain-step',
          note=_spread(theirs),
        )
    if timing.theirs:
      yield _faster(name, timing, size)


def _time_row(name, timing, size, layer):
  ours = timing.ours[size, layer]
  compilation = timing.compilation[size, layer]
  note = f'{_spread(ours)}; first call with compilation {compilation:.1f} s'
  return targets.Row(name, 1e3 * min(ours), 'ms a chain-step', note=note)


def _faster(name, timing, size):
  ratio = lambda reduce: math.sqrt(
    math.prod(
      reduce(timing.theirs[size, layer]) / reduce(timing.ours[size, layer])
      for layer in range(2)
    )
  )
  least = TARGETS[size]
  return targets.Row(
    f'{name}, devinterp / rllc_jax',
    ratio(min),
    'times faster',
    f'at least {least:g}',
    ratio(min) >= least,
    f'geometric mean of the layers, of minima; {ratio(statistics.median):.2f} '
    f'of medians; float32, {os.cpu_count()} threads, '
    f'{len(jax.local_devices())} devices',
  )


def _spread(values: Sequence[float]) -> str:
  return f'median of {len(values)}: {1e3 * statistics.median(values):.1f}'
