"""One checkpoint, one data set: refine, sample, estimate. Read this file first.

`estimate_rllc` is the pipeline as one short function. `estimate_llc` is the
same for anybody's loss and weights. Whole trajectories, several data sets,
stores and meshes are in `estimators.trajectory`, on the same block program.
"""

from collections.abc import Callable
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.data import minibatches as data_minibatches
from rllc_jax.estimators import chunks as chunking
from rllc_jax.estimators import compilation
from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import door
from rllc_jax.estimators import errors
from rllc_jax.estimators import footprint
from rllc_jax.estimators import health
from rllc_jax.estimators import layout
from rllc_jax.estimators import llc
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights
from rllc_jax.results import store as stores
from rllc_jax.results import traces as tables
from rllc_jax.samplers import sgld


class Estimate(NamedTuple):
  """Refined LLCs at one checkpoint on one data set.

  Estimates are *at* the given nbeta, localization and step size: they tend to
  E[nbeta (loss - loss*)] at those settings, not to the learning coefficient
  itself. The error covers autocorrelation and shared minibatches; it does not
  cover a cold start, the step size's bias or the finite corpus. The verdict is
  that of `health.check`, as in every table.

  Attributes:
    llc: [R], paired estimates. (From `estimate_llc`, all are without [R].)
    standard_error: [R].
    low: [R], lower end of the 95 % interval.
    high: [R], upper end.
    equilibrium_ratio: [R], 1 in equilibrium, below 1 not yet relaxed.
    step_bias: [R], how much of the estimate the step size is predicted to add;
      not subtracted. NaN where a sampler has no prediction.
    healthy: [R], bool.
    verdict: [R], 'healthy', or what is wrong and which knob to turn.
    failed: [R, C], chains that diverged. They are left out, which biases what
      the rest says; where all of a refinement failed, it is NaN.
    traces: {name: [R, C, D]}, every recorded step from the checkpoint on, the
      burn-in included.
  """

  llc: np.ndarray
  standard_error: np.ndarray
  low: np.ndarray
  high: np.ndarray
  equilibrium_ratio: np.ndarray
  step_bias: np.ndarray
  healthy: np.ndarray
  verdict: np.ndarray
  failed: np.ndarray
  traces: dict[str, np.ndarray]

  def __repr__(self) -> str:
    number = lambda x: np.array2string(np.asarray(x), precision=4)
    verdicts = list(dict.fromkeys(np.ravel(self.verdict).tolist()))
    return (
      f'Estimate(llc={number(self.llc)} ± {number(self.standard_error)}, '
      f'step_bias={number(self.step_bias)}, '
      f'{int(self.failed.sum())} of {self.failed.size} chains failed, '
      f'{" | ".join(verdicts)})'
    )


def estimate_rllc(
  rng_key: types.Key,
  refinements: types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  *,
  posterior: types.Posterior,
  step_size: float,
  num_chains: int = 4,
  num_draws: int = 200,
  burn_in: int | None = None,
  num_steps_between_draws: int = 1,
  sampler: types.Sampler | None = None,
  window: types.PyTree | None = None,
  estimator_nbeta: float | None = None,
  share_batches: bool = True,
  chunk_size: int | None = None,
  matmul_precision: str = 'float32',
) -> Estimate:
  r"""Estimates the rLLC of a family of refinements at one checkpoint.

  .. math:: \hat\lambda = n\beta\, (E[\ell(u)] - \ell(u^*))

  with both losses on the same minibatch at every draw (paired): the same
  expectation as with a separately measured loss, at a far smaller variance.

  Args:
    rng_key: typed threefry key; the same key gives the same chains.
    refinements: R refinements of one family, see `refinement.weights`.
    params: the checkpoint.
    minibatches: see `data.minibatches.uniform`.
    posterior: n beta and gamma.
    step_size: epsilon, in weight^2.
    num_chains: C.
    num_draws: draws kept after the burn-in.
    burn_in: steps left out; 10 / (step_size localization) by default.
    num_steps_between_draws: steps from one draw to the next.
    sampler: SGLD by default.
    window: the data set; all of the data by default.
    estimator_nbeta: the factor in front, if not the posterior's n beta: needed
      at n beta = 0, where the chains sample the localization alone.
    share_batches: whether all chains see the same minibatches.
    chunk_size: columns in parallel; from the device's memory by default.
    matmul_precision: what matrix products round to, 'float32',
      'tensorfloat32' or 'bfloat16'; sums are float32. On a CPU only the first.

  Returns:
    An estimate; NaN where a refinement has lost all its chains. Failed chains
    and estimates that are not healthy are warned of.

  Raises:
    ValueError: if a setting is out of range, or every chain failed; see the
      message.
  """
  num_chains, num_draws, num_steps_between_draws = settings.counts(
    num_chains=num_chains,
    num_draws=num_draws,
    num_steps_between_draws=num_steps_between_draws,
  )
  settings.check(
    rng_key,
    posterior,
    step_size,
    num_chains,
    num_steps_between_draws,
    estimator_nbeta,
  )
  errors.check_num_draws(num_draws)
  mesh = layout.make_mesh(1, 1)
  compilation.check_matmul_precision(
    matmul_precision, mesh.devices.flat[0].platform
  )
  left_out = settings.burn_in_draws(
    burn_in, step_size, posterior, num_steps_between_draws
  )
  settings.check_lengths(
    num_chains, left_out + num_draws, num_steps_between_draws
  )
  if window is None:
    window = data_minibatches.whole(minibatches.data)
  settings.check_window('data', window, minibatches)
  sampler = sampler or sgld.sgld()
  settings.warn_of_bias(sampler)
  door.check(
    [refinements], door.Subject(params, window, minibatches, posterior, sampler)
  )
  run = chain_runner(
    rng_key,
    refinements,
    params,
    minibatches,
    window,
    sampler,
    num_chains=num_chains,
    max_draws=left_out + num_draws,
    num_steps_between_draws=num_steps_between_draws,
    share_batches=share_batches,
    chunk_size=chunk_size,
    mesh=mesh,
    matmul_precision=matmul_precision,
  )
  run_settings = programs.make_settings(posterior, step_size)
  traces = run(run_settings, left_out + num_draws)
  table = as_dataset(
    traces,
    refinements.names,
    {
      'nbeta': float(posterior.nbeta),
      'localization': float(posterior.localization),
      'step_size': float(step_size),
      'num_steps_between_draws': num_steps_between_draws,
      'burn_in': left_out * num_steps_between_draws,
      'sampler': sampler.name,
    },
    programs.num_coordinates(refinements, params),
  )
  return _judged(table, traces, estimator_nbeta)


def as_dataset(
  traces: dict[str, np.ndarray],
  names: tuple[str, ...],
  run_settings: dict[str, float | str],
  num_coordinates: int,
) -> xr.Dataset:
  """Traces [R, C, D] of one checkpoint as `llc_from_traces` takes them."""
  arrays = {name: trace[None, None] for name, trace in traces.items()}
  sizes = arrays['loss'].shape
  arrays['recorded'] = np.full(sizes[:4], sizes[4])
  moving = dict.fromkeys(names, num_coordinates)
  extent = stores.Extent((0,), ('data',), names, *sizes[3:])
  identity = {**run_settings, 'num_coordinates': moving}
  return tables.dataset_of(arrays, identity, extent)


def _judged(
  table: xr.Dataset, traces: dict[str, np.ndarray], nbeta: float | None
) -> Estimate:
  """The estimate of one checkpoint with its verdict, of which it warns."""
  cells = llc.llc_from_traces(table, estimator_nbeta=nbeta)
  cells = cells.isel(checkpoint=0, dataset=0, drop=True)
  failed = cells.failed.values
  names = cells.refinement.values.tolist()
  diagnostics.warn_of_failures(names, failed, traces)
  sick = [
    f'{name}: {verdict}'
    for name, verdict in zip(names, cells.verdict.values, strict=True)
    if not cells.healthy.sel(refinement=name)
  ]
  if sick:
    words = f'Not healthy: {". ".join(sick)}.'
    warnings.warn(words, health.NotHealthyWarning, stacklevel=3)
  fields = {name: cells[name].values for name in Estimate._fields[:-1]}
  return Estimate(**fields, traces=traces)


# run(settings, num_draws) -> {name: [R, C, num_draws]}.
RunChains = Callable[[programs.Settings, int], dict[str, np.ndarray]]


def chain_runner(
  rng_key: types.Key,
  refinements: types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  window: types.PyTree,
  sampler: types.Sampler,
  *,
  num_chains: int,
  max_draws: int,
  num_steps_between_draws: int,
  share_batches: bool,
  chunk_size: int | None,
  mesh: jax.sharding.Mesh,
  matmul_precision: str = 'float32',
) -> RunChains:
  """Prepares all chains of a family, to be run from one checkpoint.

  What is run is one program, compiled on the first call, whatever the settings
  and the number of draws, of which there are at most `max_draws`.
  """
  R = len(refinements.names)
  pairs = [(r, chain) for r in range(R) for chain in range(num_chains)]
  rows = programs.make_rows(
    rng_key,
    jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], params),
    [(0, 'data')],
    [window],
  )
  data = compilation.replicated(minibatches.data, mesh)
  chunks = chunking.Chunks(mesh, chunk_size)

  def measure():
    return footprint.measured(
      refinements,
      rows,
      minibatches,
      len(pairs),
      mesh,
      share_batches=share_batches,
      matmul_precision=matmul_precision,
    )

  def run_in_chunks(run_settings, num_draws, chunk):
    padded = layout.padded(pairs, chunk * mesh.shape['column'])
    columns = programs.make_columns(refinements, padded)
    program = programs.block_program(
      refinements.lens,
      refinements.loss,
      sampler,
      minibatches.draw,
      mesh=mesh,
      chunk_size=chunk,
      max_draws=layout.buffer_length(max_draws),
      num_steps_between_draws=num_steps_between_draws,
      share_batches=share_batches,
      matmul_precision=matmul_precision,
    )
    states, _ = program.init(rows, columns, data)
    span = jnp.int32(0), jnp.int32(num_draws)
    _, reports = program.run(rows, columns, states, *span, run_settings, data)
    traces = programs.traces_by_column(reports, len(pairs), num_draws)
    door.check_first_draw(
      [refinements.names[r] for r, _ in pairs],
      traces,
      run_settings.posterior,
      matmul_precision,
    )
    fold = lambda trace: trace[0].reshape(R, num_chains, *trace.shape[2:])
    return {name: fold(trace) for name, trace in traces.items()}

  def run(run_settings, num_draws):
    while True:
      chunk = chunks.size(refinements, len(pairs), measure)
      try:
        return run_in_chunks(run_settings, num_draws, chunk)
      except jax.errors.JaxRuntimeError as error:
        chunks.shrink(error, refinements, len(pairs), measure)

  return run


def estimate_llc(
  rng_key: types.Key,
  loss_fn: types.LossFn,
  params: types.Params,
  data: types.PyTree,
  *,
  mask: types.PyTree | None = None,
  nbeta: float,
  localization: float,
  step_size: float,
  batch_size: int | None,
  **options,
) -> Estimate:
  r"""Estimates the LLC of any model: a loss, a pytree of weights, data.

  Args:
    rng_key: typed threefry key; the same key gives the same chains.
    loss_fn: `loss_fn(params, batch) -> []`, a mean over the minibatch. Define
      it once: a new function compiles anew.
    params: any pytree of floating-point arrays.
    data: a pytree of arrays that share their leading axis; `batch` is
      `batch_size` entries of it, drawn with replacement.
    mask: a tree of 0 and 1 like `params`: estimates the LLC refined to the
      weights marked 1, the rest held fixed.
    nbeta: :math:`n\beta`, samples times inverse temperature.
    localization: :math:`\gamma`, in 1 / weight^2.
    step_size: :math:`\epsilon`, in weight^2.
    batch_size: entries a minibatch; None for all of the data at every step.
    **options: of `estimate_rllc`: num_chains, num_draws, burn_in, ...

  Returns:
    An estimate without the axis [R].

  Examples:
    The LLC of a quartic is 1/4, at every n beta (gamma 0).

    >>> quartic = lambda w, batch: w**4
    >>> estimate = estimate_llc(
    ...     jax.random.key(0), quartic, jnp.zeros([]), jnp.zeros(1),
    ...     nbeta=100.0, localization=0.0, step_size=1e-3, batch_size=1,
    ...     num_chains=64, num_draws=5000, burn_in=2000, chunk_size=64)
    >>> bool(abs(estimate.llc - 0.25) < 4 * estimate.standard_error)
    True
  """
  estimate = estimate_rllc(
    rng_key,
    one_refinement(loss_fn, params, mask),
    params,
    data_minibatches.of_size(data, batch_size),
    posterior=types.Posterior(nbeta, localization),
    step_size=step_size,
    **options,
  )
  return Estimate(*jax.tree.map(lambda leaf: leaf[0], tuple(estimate)))


def one_refinement(
  loss_fn: types.LossFn, params: types.Params, mask: types.PyTree | None
) -> types.Refinements:
  """The family of one refinement: all weights, or those that a mask frees."""
  if mask is None:
    lens, index = weights.all_weights(), jnp.int32(0)
  else:
    lens, index = masks.mask_lens(mask, params)
  return types.Refinements(
    names=('all' if mask is None else 'mask',),
    lens=lens,
    indices=jax.tree.map(lambda leaf: leaf[None], index),
    loss=weights.refine(loss_fn, lens),
  )
