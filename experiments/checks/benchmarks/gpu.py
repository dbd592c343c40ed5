"""Checks and times the paper's Figure 2 on one accelerator.

  python -m experiments.checks.benchmarks.gpu --tokens=FILE.npy --out=DIR

where FILE holds rows of token ids, [N, 1024], integers below 5,000, such as

  python -m experiments.checks.benchmarks.gpu --write_tokens=FILE.npy \
    --workdir=DIR

writes from the standard library of Python. The first command needs only jax,
flax, optax and numpy. It ends within nine minutes on an H100 or better and
writes `gpu.json` and `gpu.txt`. It trains the transformer of the paper for
3,000 steps and compares gradients with those of the plain model. Then it
estimates all 16 heads at two checkpoints in each precision, with 4 chains of
200 draws on 32 x 1,024 tokens. The time of all checkpoints is extrapolated. A
precision is accepted if no estimate moves by more than its standard error. If
devinterp and torch can be imported, devinterp is timed on the same device.

On a CPU, --small runs the same path at a size that takes a minute.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterator
import functools
import importlib
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runtime import targets
from rllc_jax import losses
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import compilation
from rllc_jax.estimators import multiply_adds
from rllc_jax.estimators import program
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.models import architecture
from rllc_jax.models import factored
from rllc_jax.models import transformer
from rllc_jax.refinement import weights
from rllc_jax.training import updates

NUM_CHECKPOINTS = 107  # Of the paper's figure.
POSTERIOR = types.Posterior(nbeta=30.0, localization=200.0)
STEP_SIZE = 1e-3
_NUM_PEER_STEPS = 20
_TOLERANCE = 2e-5  # Of float32 gradients, relative, over a head.


class Size(NamedTuple):
  """Sizes of the model and the runs.

  Attributes:
    model: the transformer.
    batch_size: sequences a minibatch.
    num_chains: chains a head.
    num_draws: steps of a chain.
    train_steps: after which checkpoints are taken, ascending.
    rate_side: rows of the square matrices whose product measures the rate.
  """

  model: transformer.Architecture
  batch_size: int
  num_chains: int
  num_draws: int
  train_steps: tuple[int, ...]
  rate_side: int


FULL = Size(transformer.Architecture(), 32, 4, 200, (300, 3000), 8192)
SMALL = Size(
  transformer.Architecture(2, 2, 32, 16, 32, 5000), 2, 2, 200, (5, 20), 256
)


def run(
  tokens: np.ndarray, size: Size, precisions: tuple[str, ...]
) -> Iterator[targets.Row]:
  """Checks and times everything, and yields the targets.

  Args:
    tokens: [N, T], ids.
    size: of the model and of the run.
    precisions: of matrix products; the first is the reference of the rest.
  """
  data = minibatches.uniform(tokens, size.batch_size)
  trained = list(train(size, tokens))
  families = {
    layer: head_family(size.model, layer)
    for layer in range(size.model.num_layers)
  }
  for layer, family in families.items():
    error = gradient_error(size.model, family, trained[-1], tokens[:2])
    yield targets.Row(
      f'layer {layer}, gradient against the plain model',
      error,
      'relative',
      f'under {_TOLERANCE}',
      error < _TOLERANCE,
      'float32, the worst of the heads',
    )
  reference = None
  for precision in precisions:
    cells = [
      {
        layer: timed_estimate(f, p, data, size, precision)
        for layer, f in families.items()
      }
      for p in trained
    ]
    estimates = [estimate for cell in cells for estimate, _ in cell.values()]
    reference = reference or estimates
    yield from _move_rows(precision, reference, estimates)
    seconds = {
      layer: min(cell[layer][1] for cell in cells) for layer in families
    }
    yield from _time_rows(precision, seconds, size)
    yield from _roofline_rows(
      precision, seconds, families, trained[-1], data, size
    )


def train(size: Size, tokens: np.ndarray) -> Iterator[types.Params]:
  """Trains by AdamW and yields the weights after each of `train_steps`."""
  optimizer = updates.adamw(1e-3, 0.05)
  apply = functools.partial(transformer.apply, size.model)
  mesh = updates.data_mesh(jax.local_devices(), size.batch_size)
  step = updates.update_steps(losses.next_token_loss(apply), optimizer, mesh)
  params = architecture.init_params(jax.random.key(0), size.model)
  state = optimizer.init(params)
  order = updates.epoch_batches(
    0, len(tokens), size.batch_size, 0, size.train_steps[-1]
  )
  first = 0
  for last in size.train_steps:
    # One shape for every segment, so that the update compiles once.
    batches = np.zeros_like(order)
    batches[: last - first] = order[first:last]
    params, state, _ = step(params, state, tokens, batches, last - first)
    first = last
    yield params


def head_family(
  model: transformer.Architecture, layer: int
) -> types.Refinements:
  """All heads of a layer."""
  names = [f'{layer}:{head}' for head in range(model.num_heads)]
  apply = functools.partial(transformer.apply, model)
  (family,) = weights.families(
    names,
    model.shapes(),
    losses.next_token_loss(apply),
    factored.part_losses(model),
  )
  return family


def gradient_error(model, family, params, batch) -> float:
  """Largest relative error of a head's gradient, in float32."""
  apply = functools.partial(transformer.apply, model)
  loss_fn = losses.next_token_loss(apply)

  @jax.jit
  def worst_error(params, batch):
    context, _ = family.loss.context(params, batch)

    def head_error(index):
      position = family.lens.extract(params, index)
      fast = jax.grad(family.loss.loss)(position, context, index)
      expected = family.lens.extract(plain, index)
      difference = trees.norm(trees.subtract(fast, expected))
      return difference / trees.norm(expected)

    plain = jax.grad(loss_fn)(params, batch)
    return jnp.max(jax.lax.map(head_error, family.indices))

  with compilation.matmul_precision_scope('float32'):
    return float(worst_error(params, jnp.asarray(batch)))


def timed_estimate(
  family, params, data, size, precision
) -> tuple[rllc.Estimate, float]:
  """Estimates all heads of a layer; returns the seconds without compilation."""
  estimate = functools.partial(
    rllc.estimate_rllc,
    jax.random.key(1, impl='threefry2x32'),
    family,
    params,
    data,
    settings.Sampling(
      **POSTERIOR._asdict(),
      step_size=STEP_SIZE,
      num_chains=size.num_chains,
      # The first call takes as many draws, too: with fewer the buffers, and so
      # the compiled program, would differ.
      num_draws=size.num_draws,
      burn_in=0,
      matmul_precision=precision,
    ),
  )
  estimate()  # Compiles.
  began = time.perf_counter()
  result = jax.block_until_ready(estimate())
  return result, time.perf_counter() - began


def _move_rows(precision, reference, estimates) -> Iterator[targets.Row]:
  """Target: no estimate moves a standard error from the first precision."""
  if estimates is reference:
    return
  ratios = [
    np.abs(np.asarray(a.llc) - np.asarray(b.llc)) / np.asarray(a.standard_error)
    for a, b in zip(reference, estimates, strict=True)
  ]
  worst = float(np.max(ratios))
  yield targets.Row(
    f'{precision}, largest move of an estimate',
    worst,
    'standard errors',
    'under 1',
    worst < 1,
    'from float32, on the same minibatches and noise',
  )


def _time_rows(precision, seconds, size) -> Iterator[targets.Row]:
  columns = size.model.num_heads * size.num_chains
  for layer, spent in seconds.items():
    step = spent / size.num_draws
    yield targets.Row(
      f'{precision}, layer {layer}',
      1e3 * step,
      'ms a step of all chains',
      note=f'{1e3 * step / columns:.3g} ms a chain-step, {columns} columns',
    )
  minutes = sum(seconds.values()) * NUM_CHECKPOINTS / 60
  yield targets.Row(
    f'{precision}, {NUM_CHECKPOINTS} checkpoints',
    minutes,
    'minutes',
    'at most 30',
    minutes <= 30,
    f'{size.num_chains} chains x {size.num_draws} draws of all heads, '
    f'{size.batch_size} x {size.model.context_length} tokens; extrapolated',
  )


def _roofline_rows(
  precision, seconds, families, params, data, size
) -> Iterator[targets.Row]:
  """Target: half of the roofline of matrix products or memory traffic."""
  rate = _products_per_second(size.rate_side, precision)
  bandwidth = _bytes_per_second(size.rate_side)
  batch = jax.eval_shape(
    data.draw, jax.random.key(0), 0, data.data, types.Window(0, 1)
  )
  columns = size.model.num_heads * size.num_chains
  for layer, family in families.items():
    shared, _ = jax.eval_shape(family.loss.context, params, batch)
    index = program.first_index(family)
    position = jax.eval_shape(family.lens.extract, params, index)
    column = jax.value_and_grad(family.loss.loss)
    products = columns * multiply_adds.multiply_adds(
      column, position, shared, index
    )
    products += multiply_adds.multiply_adds(family.loss.context, params, batch)
    traffic = columns * _logit_bytes(size)
    least = max(products / rate, traffic / bandwidth)
    share = least * size.num_draws / seconds[layer]
    yield targets.Row(
      f'{precision}, layer {layer}, share of the roofline',
      share,
      '',
      'at least 0.5',
      share >= 0.5,
      f'{2e-12 * products:.3g} TFLOP at {2e-12 * rate:.3g} TFLOP/s, '
      f'{1e-9 * traffic:.3g} GB at {1e-9 * bandwidth:.3g} GB/s, a step',
    )


def _logit_bytes(size: Size) -> int:
  """Bytes of a chain's logits, written once and read twice."""
  # Read for the loss and for its gradient; 4 bytes a number.
  tokens = size.batch_size * (size.model.context_length - 1)
  return 3 * 4 * tokens * size.model.vocab_size


def _products_per_second(side: int, precision: str) -> float:
  """Multiply-adds a second in products of large matrices."""
  with compilation.matmul_precision_scope(precision):
    call = jax.jit(lambda x: x @ x)
    seconds = _least_seconds(call, jnp.full((side, side), 1e-3))
  return side**3 / seconds


def _bytes_per_second(side: int) -> float:
  """Bytes a second, read and written by adding a number to an array."""
  x = jnp.zeros((4 * side, side))
  return 2 * x.nbytes / _least_seconds(jax.jit(lambda x: x + 1), x)


def _least_seconds(call: Callable, x: types.Array) -> float:
  jax.block_until_ready(call(x))
  seconds = []
  for _ in range(5):
    began = time.perf_counter()
    jax.block_until_ready(call(x))
    seconds.append(time.perf_counter() - began)
  return min(seconds)


def against_devinterp(
  tokens: np.ndarray, size: Size, rows: list[targets.Row], precision: str
) -> Iterator[targets.Row]:
  """Times steps of devinterp on this device, at the given precision.

  Args:
    tokens: as for `run`.
    size: as for `run`.
    rows: of `run`, with the times of our steps.
    precision: 'float32' or 'tensorfloat32'.
  """
  try:
    peer = importlib.import_module('experiments.checks.devinterp_peer')
  except ImportError as error:
    yield targets.Row('devinterp', np.nan, note=f'not compared: {error}')
    return
  peer.set_matmul_precision(precision)
  params = architecture.init_params(jax.random.key(0), size.model)
  model = peer.AttentionOnly(params)
  device = 'cpu' if jax.default_backend() == 'cpu' else 'cuda'
  columns = size.model.num_heads * size.num_chains
  for layer in range(size.model.num_layers):
    mask = weights.mask_of(weights.attention_head(layer), 0, params)

    _, clock = peer.timed_sample(
      model,
      tokens[: 4 * size.batch_size],
      mask,
      device=device,
      lr=STEP_SIZE,
      n_beta=POSTERIOR.nbeta,
      localization=POSTERIOR.localization,
      batch_size=size.batch_size,
      num_draws=_NUM_PEER_STEPS,
      num_init_loss_batches=1,
      init_seed=0,
    )
    seconds = float(clock.steps[1:].mean())
    (ours,) = [r for r in rows if r.name == f'{precision}, layer {layer}']
    ratio = seconds / (1e-3 * ours.value / columns)
    yield targets.Row(
      f'{precision}, layer {layer}, devinterp / rllc_jax',
      ratio,
      'times faster',
      'at least 20',
      ratio >= 20,
      f'devinterp {1e3 * seconds:.3g} ms a chain-step',
    )


def main() -> None:
  """Runs the command line."""
  # Not absl, which the device need not have.
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  path = pathlib.Path
  parser.add_argument('--tokens', type=path, help='[N, T] token ids, .npy')
  parser.add_argument('--out', type=path, help='directory of the results')
  parser.add_argument('--small', action='store_true', help='a minute on a CPU')
  parser.add_argument('--write_tokens', type=path, help='write FILE and stop')
  parser.add_argument('--workdir', type=path, default='runs/benchmark')
  options = parser.parse_args()
  if options.write_tokens:
    # Imported here: it needs the libraries of the corpus, which the device need
    # not have.
    problem = importlib.import_module('experiments.checks.benchmarks.problem')
    tokens = problem.prepare(options.workdir).tokens
    np.save(options.write_tokens, tokens.astype(np.uint16))
    return
  if not (options.tokens and options.out):
    parser.error('--tokens and --out are needed, or --write_tokens')
  size = SMALL if options.small else FULL
  tokens = np.load(options.tokens)[:, : size.model.context_length]
  on_cpu = jax.default_backend() == 'cpu'
  precisions = ('float32', 'tensorfloat32', 'bfloat16')[: 1 if on_cpu else 3]
  began, rows = time.perf_counter(), []
  for row in run(tokens, size, precisions):
    rows.append(row)
    print(f'{time.perf_counter() - began:6.1f} s  {row.name}', flush=True)
    # After each row, so that a time limit loses only the missing rows.
    targets.write_json(options.out / 'gpu.json', rows)
  rows += against_devinterp(tokens, size, rows, precisions[:2][-1])
  device = jax.devices()[0].device_kind
  text = f'jax {jax.__version__}, {device}, {time.strftime("%Y-%m-%d")}\n'
  text += targets.table(rows) + '\n'
  targets.write_json(options.out / 'gpu.json', rows)
  (options.out / 'gpu.txt').write_text(text)
  print(text, end='')
  sys.exit(any(row.holds is False for row in rows))


if __name__ == '__main__':
  main()
