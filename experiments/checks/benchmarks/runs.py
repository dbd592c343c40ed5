"""A run of any size: how to call it, and the multiply-adds that it takes."""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import choices
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory
from rllc_jax.models import attention_only
from rllc_jax.models import frozen_layers

_NUM_SEQUENCES = 64


class Size(NamedTuple):
  """What is asked of a run.

  Attributes:
    layer: whose heads move.
    num_moving: heads of it that are estimated.
    num_heads: heads a layer of the model, each as wide as the paper's.
    num_checkpoints: rows, with the next.
    num_datasets: windows of the same data.
    num_chains: columns, with the heads that move.
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
  num_draws: int = 24  # The fewest that an estimate is made of.
  batch_size: int = 1
  context_length: int = 64


def model_of(num_heads: int) -> attention_only.AttentionOnly:
  """The paper's transformer with more or fewer heads of the same width."""
  return problems.MODEL.clone(num_heads=num_heads)


def step_multiply_adds(
  model: attention_only.AttentionOnly,
  layer: int,
  *,
  batch_size: int,
  context_length: int,
  num_columns: int,
  block_size: int,
) -> int:
  """Multiply-adds of a step of all columns of a row, in `models.factored`.

  Derived from the sizes, not read from the program. Products of weights with
  weights alone are left out: XLA takes them out of the loop over steps.

  Args:
    model: its sizes.
    layer: whose heads move; those of the last share logits.
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
  # With its gradient, in what it reads or in its weights, never in both. That
  # of the pattern takes the scores again.
  both = 2 * 4 * N * D * E + (2 + 5) * pairs * E
  context = L * H * forward + N * D * V
  # The moving head's output is written twice: as it is and as it was.
  own = both + 2 * N * D * E
  if layer == L - 1:
    context += N * D  # The final bias, in logits of targets.
    return context + num_columns * (own + 4 * N * E * V + 2 * E * D * V)
  above = (L - 1 - layer) * H * both
  return context + num_columns * (own + above + 2 * N * D * V)


def multiply_adds(size: Size) -> int:
  """Multiply-adds of a whole run."""
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
  """The run of a size, to be called without arguments."""
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


@functools.cache
def weights_and_families(
  num_heads: int,
) -> tuple[types.Params, tuple[types.Refinements, ...]]:
  """Weights as drawn, on which time does not depend, and heads by layer.

  Made once: programs are found again by the functions of a family.
  """
  model = model_of(num_heads)
  params = jax.jit(attention_only.init_params, static_argnums=1)(
    jax.random.key(0), model
  )
  return params, choices.families(('heads',), model)


@functools.cache
def tokens(length: int) -> np.ndarray:
  """Sequences of uniformly drawn tokens, [64, length]."""
  rng = np.random.default_rng(0)
  shape = (_NUM_SEQUENCES, length)
  return rng.integers(problems.MODEL.vocab_size, size=shape, dtype=np.int32)
