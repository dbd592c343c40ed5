"""Runs of any size: their calls, and the multiply-adds that they take."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import subjects
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory
from rllc_jax.models import architecture
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer

_NUM_SEQUENCES = 64


class Size(NamedTuple):
  """Sizes of a run.

  Attributes:
    layer: of the moving heads.
    num_moving: heads of it that are estimated.
    num_heads: heads a layer of the model, each as wide as the paper's.
    num_checkpoints: rows are checkpoints times data sets.
    num_datasets: windows of the same data.
    num_chains: columns are moving heads times chains.
    num_draws: steps of a chain.
    batch_size: sequences a minibatch.
    context_length: tokens of a sequence that are predicted.
  """

  layer: int = 0
  num_moving: int = 1
  num_heads: int = problems.MODEL.num_heads
  num_checkpoints: int = 1
  num_datasets: int = 1
  num_chains: int = 1
  num_draws: int = 24  # The smallest number that an estimate accepts.
  batch_size: int = 1
  context_length: int = 64


def model_of(num_heads: int) -> transformer.Architecture:
  """The paper's transformer with more or fewer heads of the same width."""
  return dataclasses.replace(problems.MODEL, num_heads=num_heads)


def step_multiply_adds(
  model: transformer.Architecture,
  layer: int,
  *,
  batch_size: int,
  context_length: int,
  num_columns: int,
  block_size: int,
) -> int:
  """Multiply-adds of a step of all columns of a row, in `models.factored`.

  Derived from the sizes, not counted in the program. Products of weights with
  weights are left out: XLA moves them out of the loop over steps.

  Args:
    model: its sizes.
    layer: of the moving heads; those of the last one share logits.
    batch_size: B.
    context_length: T, tokens of a sequence that are predicted.
    num_columns: moving heads times chains, which share a context.
    block_size: queries of a block of attention, which ends with its last key.
  """
  B, T, N = batch_size, context_length, batch_size * context_length
  D, E, V = model.d_model, model.d_head, model.vocab_size
  H, L = model.num_heads, model.num_layers
  starts = range(0, T, block_size)
  ends = [min(start + block_size, T) for start in starts]
  pairs = B * sum((b - a) * b for a, b in zip(starts, ends, strict=True))
  # A head: queries, keys, values and output; scores, and values by pattern.
  forward = 4 * N * D * E + 2 * pairs * E
  # With the gradient by its input or by its weights, never both. The gradient
  # of the pattern computes the scores again.
  with_gradient = 2 * 4 * N * D * E + (2 + 5) * pairs * E
  context = L * H * forward + N * D * V
  # The output projection of the moving head, now and at the checkpoint.
  moving = with_gradient + 2 * N * D * E
  if layer == L - 1:
    context += N * D  # The final bias, in logits of targets.
    return context + num_columns * (moving + 4 * N * E * V + 2 * E * D * V)
  above = (L - 1 - layer) * H * with_gradient
  return context + num_columns * (moving + above + 2 * N * D * V)


def multiply_adds(size: Size) -> int:
  """Multiply-adds of all steps of a run."""
  step = step_multiply_adds(
    model_of(size.num_heads),
    size.layer,
    batch_size=size.batch_size,
    context_length=size.context_length,
    num_columns=size.num_moving * size.num_chains,
    block_size=frozen_layers.default_tiles().queries,
  )
  return size.num_checkpoints * size.num_datasets * size.num_draws * step


def call(size: Size) -> Callable[[], Any]:
  """A call of the run of a size, without arguments."""
  params, families = weights_and_families(size.num_heads)
  family = families[size.layer]
  moving = slice(size.num_moving)
  family = family._replace(
    names=family.names[moving], indices=family.indices[moving]
  )
  batches = minibatches.uniform(
    tokens(size.context_length + 1), size.batch_size
  )
  window = minibatches.whole(batches.data)
  load = lambda steps: trees.stack([params] * len(steps))
  return functools.partial(
    trajectory.estimate_trajectory,
    jax.random.key(0, impl='threefry2x32'),
    family,
    types.Trajectory(tuple(range(size.num_checkpoints)), load),
    {f'{i}': window for i in range(size.num_datasets)},
    batches,
    problems.sampling(size.num_chains, size.num_draws),
    layout=settings.Layout(
      chunk_size=1, segment=size.num_draws, mesh=grid.make_mesh(1, 1)
    ),
  )


@functools.cache  # Compiled programs are cached by the identity of functions.
def weights_and_families(
  num_heads: int,
) -> tuple[types.Params, tuple[types.Refinements, ...]]:
  """Untrained weights, and the families of heads by layer."""
  model = model_of(num_heads)
  params = jax.jit(architecture.init_params, static_argnums=1)(
    jax.random.key(0), model
  )
  return params, subjects.families(('heads',), model)


@functools.cache
def tokens(length: int) -> np.ndarray:
  """Sequences of uniformly drawn tokens, [64, length]."""
  rng = np.random.default_rng(0)
  shape = (_NUM_SEQUENCES, length)
  return rng.integers(problems.MODEL.vocab_size, size=shape, dtype=np.int32)
