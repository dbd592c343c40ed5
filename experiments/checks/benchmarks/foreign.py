"""Seconds a chain-step on models of Hugging Face, beside devinterp.

Random weights of a shape are written as a directory of Hugging Face. devinterp
opens it through transformers and makes its own masks; we load the same files.
Both take steps in turn on the same tokens: ours of all heads of a layer, which
share what no chain changes, devinterp of the layer's first head.
"""

from collections.abc import Callable
from collections.abc import Iterator
import os
import pathlib
import statistics
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from experiments.checks.benchmarks import problem as problems
from experiments.runtime import subjects
from experiments.runtime import targets
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import compilation
from rllc_jax.estimators import grid
from rllc_jax.estimators import program
from rllc_jax.models import architecture
from rllc_jax.models import huggingface
from rllc_jax.models import transformer
from rllc_jax.samplers import leimkuhler_matthews

NUM_ROUNDS, NUM_CHAINS = 3, 4
BATCH_SIZE, CONTEXT_LENGTH = 4, 256


class Case(NamedTuple):
  """A shape, and the parts of it that are timed.

  Attributes:
    model: its architecture.
    least: name of a part -> least ratio of speeds, or None for one that counts
      in the mean alone.
    mean: least geometric mean of the ratios, or None.
    num_steps: timed in a round.
  """

  model: transformer.Architecture
  least: dict[str, float | None]
  mean: float | None
  num_steps: int


# Pythia-14M's, and GPT-2's with a small vocabulary.
CASES = {
  'Pythia-14M': Case(
    architecture.Architecture(
      num_layers=6,
      num_heads=4,
      d_model=128,
      d_head=32,
      context_length=2048,
      vocab_size=50_304,
      d_mlp=512,
      parallel=True,
      positions='rotary',
      rotary=architecture.Rotary(8),
      biases=('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out'),
    ),
    {'0:0': 3.0, '3:0': 3.0, '5:0': 5.0, '0:mlp': 2.5, '5:mlp': 2.5},
    None,
    4,
  ),
  'GPT-2': Case(
    architecture.Architecture(
      num_layers=12,
      num_heads=12,
      d_model=768,
      d_head=64,
      context_length=1024,
      vocab_size=5_000,
      d_mlp=3072,
      positions='learned',
      activation='gelu_tanh',
      tied=True,
      biases=('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out'),
    ),
    {'0:0': None, '6:0': None, '11:0': None},
    3.0,
    2,
  ),
}


def rows(
  workdir: pathlib.Path, peer: Any, *, quick: bool
) -> Iterator[targets.Row]:
  """Times of both programs, and targets for their ratios."""
  for name, case in CASES.items():
    if quick and case.mean:
      continue
    ratios = []
    for part, least in case.least.items():
      logging.info('%s, %s ...', name, part)
      ours, theirs = _times(workdir / name, case, part, peer)
      ratio = min(theirs) / min(ours)
      ratios.append(ratio)
      yield targets.Row(
        f'{name}, {part}, devinterp / rllc_jax',
        ratio,
        'times faster',
        f'at least {least:g}' if least else '',
        ratio >= least if least else None,
        f'{1e3 * min(ours):.0f} and {1e3 * min(theirs):.0f} ms a chain-step, '
        f'{BATCH_SIZE} x {CONTEXT_LENGTH}, {os.cpu_count()} threads',
      )
    if case.mean:
      mean = statistics.geometric_mean(ratios)
      target = f'at least {case.mean:g}'
      yield targets.Row(
        f'{name}, geometric mean',
        mean,
        'times faster',
        target,
        mean >= case.mean,
      )


def _times(directory, case: Case, part: str, peer):
  """Seconds a chain-step of both programs, a value a round."""
  params = random_params(case.model)
  if not (directory / 'config.json').exists():
    huggingface.save(directory, case.model, params)
  tokens = np.random.default_rng(1).integers(
    0, case.model.vocab_size, (8 * BATCH_SIZE, CONTEXT_LENGTH + 1)
  )
  ours = our_steps(case.model, params, tokens.astype(np.int32), part)
  theirs = peer.steps_of_huggingface(directory, tokens, part, BATCH_SIZE)
  ours(1)  # Compiles.
  results: tuple[list[float], list[float]] = [], []
  for _ in range(NUM_ROUNDS):
    results[0].append(ours(case.num_steps))
    results[1].append(theirs(case.num_steps + 1))
  return results


def random_params(model: transformer.Architecture) -> types.Params:
  """Weights as small as those that training begins with."""
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(0, 0.02, leaf.shape).astype(np.float32)
  return jax.tree.map(draw, model.shapes())


def our_steps(
  model: transformer.Architecture,
  params: types.Params,
  tokens: np.ndarray,
  part: str,
) -> Callable[[int], float]:
  """A call that returns our seconds a chain-step of a part of a layer.

  Four chains of all heads of a layer, or of its MLP, share the context.
  """
  layer, _, name = part.partition(':')
  is_head = name.isdigit()
  count = model.num_heads if is_head else 1
  names = [f'{layer}:{i}' for i in range(count)] if is_head else [part]
  (family,) = subjects.families(names, model, share_logits=True)
  pairs = [(r, c) for r in range(count) for c in range(NUM_CHAINS)]
  batches = minibatches.uniform(tokens, BATCH_SIZE)
  mesh = grid.make_mesh(1, 1)
  block = program.block_program(
    family.lens,
    family.loss,
    leimkuhler_matthews.leimkuhler_matthews(),
    batches.draw,
    mesh=mesh,
    chunk_size=1,
    max_draws=8,
  )
  whole = minibatches.whole(batches.data)
  rows_of_one = program.make_rows(
    jax.random.key(1), trees.stack([params]), [(0, 'random')], [whole]
  )
  columns = program.make_columns(family, pairs)
  data = compilation.replicated(batches.data, mesh)
  settings = program.make_settings(problems.POSTERIOR, problems.STEP_SIZE)
  live = jnp.ones((1, len(pairs)), bool)

  def seconds_a_step(num_steps):
    states, _ = block.init(rows_of_one, columns, data)
    span = jnp.int32(1), jnp.int32(num_steps)
    began = time.perf_counter()
    _, reports = block.run(
      rows_of_one, columns, states, live, *span, settings, data
    )
    losses = program.traces_by_column(reports, len(pairs), num_steps)['loss']
    spent = time.perf_counter() - began
    if not np.isfinite(losses).all():
      raise ValueError('Chains must stay finite to be timed.')
    return spent / losses.size

  return seconds_a_step
