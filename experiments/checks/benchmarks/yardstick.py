"""Time of a step relative to a fixed yardstick, and the floor of its program.

The yardstick is a number of multiply-adds a token at the rate at which this
machine multiplies matrices. It does not depend on the code. The floor is a
lower bound for the present program: its multiply-adds, the bytes that do not
fit a cache and its exponentials, each at its measured rate.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import targets
from rllc_jax.estimators import grid
from rllc_jax.estimators import multiply_adds
from rllc_jax.models import factored
from rllc_jax.models import frozen_layers

SIZE = (4, 1024)
# Multiply-adds a token at context 1,024, if one head moves, everything below it
# is shared, and only the causal half of the patterns is computed.
YARDSTICK = {0: 4.0e6, 1: 2.7e6}
TARGETS = {0: 1.5, 1: 0.8}
_REPEATS = 8
_ROUNDS = 5


class Rates(NamedTuple):
  """Operations a second of all devices together, in float32.

  Attributes:
    multiply_adds: of matrix products.
    bytes: read from memory or written to it.
    exponentials: of numbers in a cache.
  """

  multiply_adds: float
  bytes: float
  exponentials: float


def rates() -> Rates:
  """Measures the rates, as the best of five rounds."""
  product = lambda x: (x @ x) * 1e-3  # Keeps repeated products finite.
  scaled = lambda x: x * 0.999
  exponential = lambda x: jnp.exp(-x)
  side, rows, width = 1024, 2**15, 2**10  # 128 MiB do not fit a cache.
  return Rates(
    side**3 * _calls_per_second(product, (side, side)),
    # Read once and written once.
    2 * 4 * rows * width * _calls_per_second(scaled, (rows, width)),
    256 * 1024 * _calls_per_second(exponential, (256, 1024)),
  )


def _calls_per_second(function: Callable, shape: tuple[int, int]) -> float:
  """Calls a second of all devices together, each on a separate array."""
  count = len(jax.local_devices())
  mesh = grid.make_mesh(count, 1)
  spec = PartitionSpec('row')

  def repeated(x):
    return jax.lax.fori_loop(0, _REPEATS, lambda _, x: function(x), x)

  call = jax.jit(
    jax.shard_map(
      repeated, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
    )
  )
  x = jnp.ones((count * shape[0], shape[1]))
  jax.block_until_ready(call(x))
  seconds = []
  for _ in range(_ROUNDS):
    began = time.perf_counter()
    jax.block_until_ready(call(x))
    seconds.append(time.perf_counter() - began)
  return count * _REPEATS / min(seconds)


class Floor(NamedTuple):
  """Necessary operations of a chain-step.

  Attributes:
    multiply_adds: of its matrix products.
    bytes: of the arrays that are read from memory.
    exponentials: of patterns and of softmaxes over the vocabulary.
  """

  multiply_adds: int
  bytes: int
  exponentials: int


def floor(problem: problems.Problem, layer: int) -> Floor:
  """Counts the operations of a chain-step of a head at `SIZE`."""
  family = problems.family((f'{layer}:0',))
  batch = problem.tokens[: SIZE[0], : SIZE[1]]
  context, _ = jax.eval_shape(family.loss.context, problem.params, batch)
  index = jax.tree.map(lambda leaf: leaf[0], family.indices)
  position = jax.eval_shape(family.lens.extract, problem.params, index)
  column = jax.value_and_grad(family.loss.loss)
  B, T = SIZE[0], SIZE[1] - 1
  model = problems.MODEL
  # A pattern is computed once for the loss and again for its gradient.
  frozen_heads = model.num_heads * (model.num_layers - 1 - layer)
  patterns = 2 * B * (1 + frozen_heads) * _pattern_size(T)
  return Floor(
    multiply_adds.multiply_adds(column, position, context, index),
    _bytes_of_logits(context) + 4 * problem.params['unembed']['W_U'].size,
    patterns + B * T * model.vocab_size,
  )


def _pattern_size(length: int) -> int:
  """Number of entries of a causal pattern, by blocks of queries."""
  block = frozen_layers.default_tiles().queries
  starts = np.arange(0, length, block)
  stops = np.minimum(starts + block, length)
  return int(np.sum((stops - starts) * stops))


def _bytes_of_logits(context: Any) -> int:
  if not isinstance(context, factored.LastLayerContext):
    return 0
  return 4 * context.base.size


def rows(
  problem: problems.Problem, seconds: Mapping[Any, float]
) -> Iterator[targets.Row]:
  """Targets for the time over the yardstick by layer, and the floors.

  Args:
    problem: weights and tokens.
    seconds: a chain-step, by (size, layer); only `SIZE` is used.
  """
  measured = rates()
  yield targets.Row(
    'matrix products',
    1e-9 * measured.multiply_adds,
    '10^9 multiply-adds a second',
    note=f'memory {1e-9 * measured.bytes:.3g} GB/s, exponentials '
    f'{1e-9 * measured.exponentials:.3g} 10^9/s; the best of {_ROUNDS}',
  )
  num_tokens = SIZE[0] * (SIZE[1] - 1)
  for (size, layer), spent in seconds.items():
    if size != SIZE:
      continue
    yardstick = YARDSTICK[layer] * num_tokens / measured.multiply_adds
    yield targets.Row(
      f'layer {layer}, time over yardstick',
      spent / yardstick,
      '',
      f'at most {TARGETS[layer]}',
      spent / yardstick <= TARGETS[layer],
      f'{1e-6 * YARDSTICK[layer]:.1f} M multiply-adds a token, '
      f'{SIZE[0]} x {SIZE[1]}: {1e3 * yardstick:.0f} ms',
    )
    counted = floor(problem, layer)
    parts = [1e3 * n / rate for n, rate in zip(counted, measured, strict=True)]
    yield targets.Row(
      f'layer {layer}, floor of the path',
      sum(parts),
      'ms a chain-step',
      note='{:.0f} products + {:.0f} bytes + {:.0f} exponentials'.format(*parts)
      + f'; {1e-6 * counted.multiply_adds / num_tokens:.2f} M multiply-adds a '
      f'token; measured {1e3 * spent:.0f}',
    )
