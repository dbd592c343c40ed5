"""The block program: a grid of rows and columns, sampled at once.

A row is a checkpoint on a data set, with a minibatch and the loss's context at
every step. A column is a refinement and a chain; all columns of a row share its
context. The program maps over rows, steps the chains, computes the context once
a step and maps over columns, sharded over a mesh without any communication.
"""

from collections.abc import Sequence
import functools
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from rllc_jax import posterior as posteriors
from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import compilation
from rllc_jax.estimators import minibatch_noise
from rllc_jax.samplers import chains

# Streams of random numbers, folded into the key of a run.
_BATCHES, _NOISE, _BASELINE = 0, 1, 2
_TAKEN_NAMES = (
  'checkpoint',
  'dataset',
  'refinement',
  'chain',
  'draw',
  'center_loss',
  'baseline_loss',
  'baseline_batch',
  'recorded',
  'made_with',
  'num_coordinates',
)


class Rows(NamedTuple):
  """Checkpoints on data sets; leaves [K, ...]."""

  params: types.Params
  window: types.PyTree
  batch_key: types.Key
  noise_key: types.Key
  baseline_key: types.Key


class Columns(NamedTuple):
  """Refinements and chains; leaves [N, ...].

  Attributes:
    index: which refinement of the family: picks the weights.
    address: CRC-32 of its name: picks the noise.
    chain: the number of the chain.
  """

  index: types.Index
  address: types.Array
  chain: types.Array


class Settings(NamedTuple):
  """Swept settings, hence traced; leaves []."""

  posterior: types.Posterior
  step_size: types.Array


class BlockProgram(NamedTuple):
  """The compiled side of a run, for one family.

  Both compile at the first call with arguments of a shape, and not again for as
  long as they live.

  Attributes:
    init: `init(rows, columns, data) -> (states [K, N, ...], baseline [K, M])`:
      chains at the checkpoints, and the loss there on M minibatches.
    run: `run(rows, columns, states, live [K, N], first, count, settings, data)
      -> (states, (shared [K, D, ...], reports [K, D, N, ...]))`, of the live
      columns of each row. States are donated.
  """

  init: compilation.ShardedFunction
  run: compilation.ShardedFunction


def address(name: str) -> np.uint32:
  """The CRC-32 of a name: where its random numbers are, whatever the others.

  Examples:
    >>> int(address('0:3'))
    1095992301
  """
  return np.uint32(zlib.crc32(name.encode()))


def make_rows(
  rng_key: types.Key,
  params: types.Params,
  coordinates: Sequence[tuple[int, str]],
  windows: Sequence[types.PyTree],
) -> Rows:
  """Rows with addressed keys.

  Args:
    rng_key: of the whole run.
    params: leaves [K, ...].
    coordinates: K pairs of a training step and a data set's name.
    windows: K data windows.
  """
  fold = jax.random.fold_in
  streams = [fold(rng_key, i) for i in (_BATCHES, _NOISE, _BASELINE)]
  keys = [
    [fold(stream, address(name)) for stream in streams]
    for _, name in coordinates
  ]
  noise = [
    fold(key, step)
    for (_, key, _), (step, _) in zip(keys, coordinates, strict=True)
  ]
  return Rows(
    params,
    jax.tree.map(
      lambda *leaves: jnp.stack([*map(jnp.asarray, leaves)]), *windows
    ),
    jnp.stack([key for key, _, _ in keys]),
    jnp.stack(noise),
    jnp.stack([key for _, _, key in keys]),
  )


def make_columns(
  refinements: types.Refinements, columns: Sequence[tuple[int, int]]
) -> Columns:
  """Columns, from N pairs of a refinement's place in the family and a chain."""
  places, numbers = (jnp.asarray(x, jnp.int32) for x in np.array(columns).T)
  addresses = np.array([address(name) for name in refinements.names])
  return Columns(
    index=jax.tree.map(lambda leaf: leaf[places], refinements.indices),
    address=jnp.asarray(addresses)[places],
    chain=numbers,
  )


@functools.lru_cache(maxsize=64)
def block_program(
  lens: types.Lens,
  loss: types.RefinedLoss,
  sampler: types.Sampler,
  draw: types.Draw,
  *,
  mesh: jax.sharding.Mesh,
  chunk_size: int,
  max_draws: int,
  num_steps_between_draws: int = 1,
  num_baseline_batches: int = 0,
  share_batches: bool = True,
  observe: types.Observe | None = None,
  matmul_precision: str = 'float32',
) -> BlockProgram:
  """Builds the program that samples a block of rows and columns.

  Built once for the same arguments: functions are compared by identity, so
  build lenses and losses once and pass them again.

  Args:
    lens: of the family.
    loss: the two-half loss of the family.
    sampler: the kernel.
    draw: how a minibatch is drawn.
    mesh: devices, axes 'row' and 'column'.
    chunk_size: columns of a device that run in parallel.
    max_draws: D, the most draws of one call; see `grid.buffer_length`.
    num_steps_between_draws: steps from one recorded step to the next.
    num_baseline_batches: M, minibatches for the loss at the checkpoint.
    share_batches: whether all columns of a row see the same minibatches.
    observe: `observe(position, context) -> {name: array}`, recorded at draws.
    matmul_precision: see `compilation.check_matmul_precision`.

  Returns:
    The functions; shared reports are {'center_loss'} if batches are shared.
  """
  fold = jax.random.fold_in

  def run(rows, columns, states, live, first, count, settings, data):
    def context_at(row, rng_key, step):
      batch = draw(rng_key, step, data, row.window)
      context, center_loss = loss.context(row.params, batch)
      return context, {'center_loss': center_loss}

    def run_row(row_states_live):
      row, states, live = row_states_live

      def prepare(step):
        if share_batches:
          return context_at(row, fold(row.batch_key, step), step)
        return (), {}

      def advance(column, state, step, context):
        path = (column.address, column.chain, step)
        report: dict[str, Any] = {}
        if not share_batches:
          own_key = functools.reduce(fold, path, row.batch_key)
          context, report = context_at(row, own_key, step)
        center = lens.extract(row.params, column.index)
        potential = posteriors.localized_potential(
          lambda u: loss.loss(u, context, column.index),
          center,
          settings.posterior,
        )
        noise_key = functools.reduce(fold, path, row.noise_key)
        new, info = sampler.step(
          noise_key, state.sampler, potential, settings.step_size
        )
        new = minibatch_noise.advance(state, new, info.gradient, step)
        position = state.sampler.position
        report |= _report(position, center, info, state.noise)
        if sampler.is_exact_in_bowls:
          noise = minibatch_noise.weighted(state.noise, info.noise_gain)
          report['noise_square'] = trees.dot(noise, noise)
        if observe:
          observed = dict(observe(position, context))
          _check_names(observed, report)
          report = {**report, 'observed': observed}
        return new, report

      return chains.run_chains(
        prepare,
        advance,
        columns,
        states,
        live,
        first,
        count,
        max_draws=max_draws,
        num_steps_between_draws=num_steps_between_draws,
        num_steps_before=minibatch_noise.NUM_STEPS,
        chunk_size=chunk_size,
      )

    return jax.lax.map(run_row, (rows, states, live))

  P = PartitionSpec
  row, column, both, every = P('row'), P('column'), P('row', 'column'), P()
  return BlockProgram(
    _start(
      lens,
      loss,
      sampler,
      draw,
      mesh=mesh,
      num_baseline_batches=num_baseline_batches,
      matmul_precision=matmul_precision,
    ),
    compilation.sharded(
      run,
      mesh,
      (row, column, both, both, every, every, every, every),
      (both, (row, P('row', None, 'column'))),
      matmul_precision=matmul_precision,
      donate=(2,),
    ),
  )


@functools.lru_cache(maxsize=64)
def _start(
  lens, loss, sampler, draw, *, mesh, num_baseline_batches, matmul_precision
) -> compilation.ShardedFunction:
  """`BlockProgram.init`: the same whatever the chunks and the draws."""

  def init(rows, columns, data):
    def init_row(row):
      start = lambda index: minibatch_noise.start(
        sampler, lens.extract(row.params, index)
      )
      key = lambda i: jax.random.fold_in(row.baseline_key, i)
      center_loss = lambda i: loss.context(
        row.params, draw(key(i), i, data, row.window)
      )[1]
      baseline = jax.lax.map(center_loss, jnp.arange(num_baseline_batches))
      return jax.vmap(start)(columns.index), baseline

    return jax.lax.map(init_row, rows)

  P = PartitionSpec
  return compilation.sharded(
    init,
    mesh,
    (P('row'), P('column'), P()),
    (P('row', 'column'), P('row')),
    matmul_precision=matmul_precision,
  )


def _check_names(observed, report):
  """Raises, when traced, if an observation has a name that is taken."""
  taken = {*report, *_TAKEN_NAMES}
  for name in observed:
    if name in taken or '/' in name:
      raise ValueError(
        'observe must name arrays otherwise than the traces and coordinates '
        f'of a run, {", ".join(sorted(taken))}, and without /; got {name!r}.'
      )


def _report(position, center, info, noise):
  """Numbers recorded of a step, [] each, at the position before it."""
  displacement = trees.subtract(position, center)
  return {
    'loss': info.loss,
    'squared_distance': trees.dot(displacement, displacement),
    'virial': trees.dot(displacement, info.gradient) - info.correction,
    'loss_correction': jnp.asarray(info.loss_correction, info.loss.dtype),
    'noise_projection': trees.dot(
      minibatch_noise.weighted(noise, info.noise_gain), displacement
    ),
    'squared_gradient': trees.dot(info.gradient, info.gradient),
    **info.recorded,
  }


def make_settings(
  posterior: types.Posterior, step_size: types.Array | float
) -> Settings:
  """Settings as float32 scalars."""
  nbeta, localization, step_size = (
    jnp.float32(value) for value in (*posterior, step_size)
  )
  return Settings(types.Posterior(nbeta, localization), step_size)


def first_index(refinements: types.Refinements) -> types.Index:
  """The index of a family's first member."""
  return jax.tree.map(lambda leaf: leaf[0], refinements.indices)


def num_coordinates(
  refinements: types.Refinements, params: types.Params
) -> int:
  """d: how many numbers move in each refinement of a family."""
  extract = refinements.lens.extract
  return trees.size(jax.eval_shape(extract, params, first_index(refinements)))


def traces_by_column(
  reports: tuple[types.PyTree, types.PyTree], num_columns: int, count: int
) -> dict[str, np.ndarray]:
  """Reports of a call as host arrays {name: [K, N, count, ...]}.

  Padding is dropped and the loss at the checkpoint, which columns may share,
  stands beside each column's own. Observations keep their names.
  """
  shared, by_column = jax.device_get(reports)
  observed = by_column.pop('observed', {})
  traces = {
    name: np.moveaxis(trace[:, :count, :num_columns], 1, 2)
    for name, trace in (by_column | observed).items()
  }
  for name, trace in shared.items():
    shape = traces['loss'].shape
    traces[name] = np.broadcast_to(trace[:, None, :count], shape)
  return traces
