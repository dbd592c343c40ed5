"""Counts the compilations of a run, and times them at full size."""

import collections
from collections.abc import Iterator
import functools
import time
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import subjects
from experiments.runtime import targets
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import minibatch_noise
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory
from rllc_jax.models import architecture
from rllc_jax.models import transformer
from rllc_jax.samplers import sgld

FULL_BATCH = 32
NUM_CHAINS = 4
_SMALL = transformer.Architecture(
  num_layers=2,
  num_heads=8,
  d_model=64,
  d_head=8,
  context_length=32,
  vocab_size=500,
)
# (n beta, gamma, epsilon, draws): none of them may be compiled in.
_SWEEP = (
  (30.0, 200.0, 1e-3, 24),
  (10.0, 200.0, 2e-3, 24),
  (30.0, 50.0, 5e-4, 30),
)


def rows(problem: problems.Problem) -> Iterator[targets.Row]:
  """Targets: at most 2 programs in a sweep, and 60 s at full size."""
  count = count_programs(problem)
  yield targets.Row(
    'block programs compiled',
    count,
    'programs',
    'at most 2, one a lens family',
    count <= 2,
    '2 checkpoints x 2 data sets x 16 heads x 2 chains x '
    f'{len(_SWEEP)} settings of epsilon, gamma, n beta, draws',
  )
  seconds = compile_at_full_size(problem)
  yield targets.Row(
    'compilation at full size',
    seconds,
    's',
    'at most 60',
    seconds <= 60,
    f'both families, {NUM_CHAINS} chains, {FULL_BATCH} x 1,024 tokens',
  )


def count_programs(problem: problems.Problem) -> int:
  """Number of compilations of `run` in a sweep over small trajectories."""
  tokens = problem.tokens[:64, : _SMALL.context_length] % _SMALL.vocab_size
  data = minibatches.uniform(tokens, 2)
  params = architecture.init_params(jax.random.key(0), _SMALL)
  load = lambda steps: trees.stack([params] * len(steps))
  refinements = subjects.families(['heads'], _SMALL)
  counts = _count_compilations()
  for nbeta, localization, step_size, num_draws in _SWEEP:
    trajectory.estimate_trajectory(
      jax.random.key(0),
      refinements,
      types.Trajectory((0, 1), load),
      {'first': types.Window(0, 32), 'second': types.Window(32, 32)},
      data,
      settings.Sampling(
        nbeta=nbeta,
        localization=localization,
        step_size=step_size,
        num_chains=2,
        num_draws=num_draws,
        burn_in=0,
      ),
    )
  return counts['jit(run)']


def _count_compilations() -> collections.Counter:
  """Starts counting compiled programs by name."""
  counts = collections.Counter()

  def listen(event, duration_secs, *, fun_name='', **_):
    del duration_secs
    if 'backend_compile' in event:
      counts[fun_name] += 1

  # JAX has no counter of compilations; every compilation records its duration.
  jax.monitoring.register_event_duration_secs_listener(listen)
  return counts


def compile_at_full_size(problem: problems.Problem) -> float:
  """Seconds to compile the programs of all 16 heads, without a cache."""
  directory = jax.config.values['jax_compilation_cache_dir']
  _cache_in(None)
  began = time.perf_counter()
  for layer in range(problems.MODEL.num_layers):
    compiled_at_full_size(problem, layer, NUM_CHAINS)
  seconds = time.perf_counter() - began
  _cache_in(directory)
  return seconds


def _cache_in(directory: str | None) -> None:
  jax.config.update('jax_compilation_cache_dir', directory)
  compilation_cache.reset_cache()  # Otherwise JAX continues with the old one.


def compiled_at_full_size(
  problem: problems.Problem, layer: int, num_chains: int
) -> Any:
  """Compiles the block program of a layer's heads without running it.

  Its memory analysis is used by `benchmarks.memory`, too.
  """
  heads = range(problems.MODEL.num_heads)
  family = problems.family(tuple(f'{layer}:{head}' for head in heads))
  data = problems.batches(problem, FULL_BATCH, problems.MODEL.context_length)
  mesh = grid.default_mesh(1)
  rows_of_program = programs.make_rows(
    jax.random.key(0),
    jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], problem.params),
    [(0, 'train')],
    [minibatches.whole(data.data)],
  )
  pairs = [(head, chain) for head in heads for chain in range(num_chains)]
  columns = programs.make_columns(family, pairs)
  program = programs.block_program(
    family.lens,
    family.loss,
    sgld.sgld(),
    data.draw,
    mesh=mesh,
    chunk_size=1,
    max_draws=200,
  )
  position = family.lens.extract(problem.params, 0)
  start = functools.partial(minibatch_noise.start, sgld.sgld())
  states = jax.eval_shape(start, position)
  # Zeros of the right shapes: sampling states would take seconds for nothing.
  states = jax.tree.map(
    lambda leaf: np.zeros((1, len(pairs), *leaf.shape), leaf.dtype), states
  )
  settings = programs.make_settings(problems.POSTERIOR, problems.STEP_SIZE)
  span = jnp.int32(0), jnp.int32(200)
  live = np.ones((1, len(pairs)), bool)
  arguments = rows_of_program, columns, states, live, *span, settings, data.data
  return program.run.compiled(*program.run.place(*arguments))
