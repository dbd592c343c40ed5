"""One checkpoint, one data set: refine, sample, estimate. Read this file first.

`estimate_rllc` is the pipeline as one short function: a trajectory of one
checkpoint in memory, and what its traces say. `estimate_llc` is the same for
anybody's loss and weights.
"""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.data import minibatches as data_minibatches
from rllc_jax.estimators import diagnostics
from rllc_jax.estimators import door
from rllc_jax.estimators import grid
from rllc_jax.estimators import health
from rllc_jax.estimators import llc
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import settings
from rllc_jax.estimators import stops
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights
from rllc_jax.results import memory


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
  refinements: Sequence[types.Refinements] | types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  sampling: settings.Sampling,
  *,
  window: types.PyTree | None = None,
  estimator_nbeta: float | None = None,
  layout: settings.Layout | None = None,
) -> Estimate:
  r"""Estimates the rLLCs of refinements at one checkpoint.

  .. math:: \hat\lambda = n\beta\, (E[\ell(u)] - \ell(u^*))

  with both losses on the same minibatch at every draw (paired): the same
  expectation as with a separately measured loss, at a far smaller variance.

  Args:
    rng_key: typed threefry key; the same key gives the same chains.
    refinements: R refinements in families, or of one; see
      `refinement.weights`.
    params: the checkpoint.
    minibatches: see `data.minibatches.uniform`.
    sampling: settings of the chains.
    window: the data set; all of the data by default.
    estimator_nbeta: the factor in front, if not the posterior's n beta: needed
      at n beta = 0, where the chains sample the localization alone.
    layout: where and in which pieces; the first device by default.

  Returns:
    An estimate; NaN where a refinement has lost all its chains. Failed chains
    and estimates that are not healthy are warned of.

  Raises:
    ValueError: if a setting is out of range, or every chain failed; see the
      message.
  """
  llc.factor(sampling.nbeta, estimator_nbeta)  # Raises before anything is run.
  if window is None:
    window = data_minibatches.whole(minibatches.data)
  layout = layout or settings.Layout(mesh=grid.make_mesh(1, 1))
  # The baseline of the corpus is that of whole trajectories.
  sampling = dataclasses.replace(sampling, num_baseline_batches=0)
  spec = requests.Spec(
    rng_key,
    types.as_families(refinements),
    of_one_checkpoint(params),
    {'data': window},
    minibatches,
    sampling,
    layout,
  )
  request = requests.check(spec, with_losses=False)
  traces = trajectories.run(request, memory.MemoryStore())
  return _judged(traces, estimator_nbeta)


def of_one_checkpoint(params: types.Params) -> types.Trajectory:
  """A trajectory of weights in memory, at step 0."""
  door.check_params(params)
  stack = lambda leaf, steps: jnp.stack([jnp.asarray(leaf)] * len(steps))
  return types.Trajectory(
    steps=(0,),
    load=lambda steps: jax.tree.map(lambda leaf: stack(leaf, steps), params),
    fingerprint=lambda step: 'in memory',
  )


def _judged(table: xr.Dataset, nbeta: float | None) -> Estimate:
  """The estimate of one checkpoint with its verdict, of which it warns."""
  cells = llc.llc_from_traces(table, estimator_nbeta=nbeta)
  cells = cells.isel(checkpoint=0, dataset=0, drop=True)
  of_checkpoint = table.isel(checkpoint=0, dataset=0, drop=True)
  traces = {
    str(name): array.values
    for name, array in of_checkpoint.items()
    if 'draw' in array.dims
  }
  names = cells.refinement.values.tolist()
  diagnostics.warn_of_failures(names, cells.failed.values, traces)
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


def estimate_llc(
  rng_key: types.Key,
  loss_fn: types.LossFn,
  params: types.Params,
  data: types.PyTree,
  *,
  nbeta: float,
  localization: float,
  step_size: float,
  batch_size: int | None,
  mask: types.PyTree | None = None,
  num_chains: int = 4,
  num_draws: int | None = None,
  target_error: stops.Target | float | str | None = None,
  max_draws: int = 4096,
  burn_in: int | None = None,
  num_steps_between_draws: int = 1,
  sampler: types.Sampler | str = 'leimkuhler_matthews',
  share_batches: bool = True,
  matmul_precision: str = 'float32',
  estimator_nbeta: float | None = None,
  chunk_size: int | None = None,
) -> Estimate:
  r"""Estimates the LLC of any model: a loss, a pytree of weights, data.

  Args:
    rng_key: typed threefry key; the same key gives the same chains.
    loss_fn: `loss_fn(params, batch) -> []`, a mean over the minibatch. Define
      it once: a new function compiles anew.
    params: any pytree of floating-point arrays.
    data: a pytree of arrays that share their leading axis; `batch` is
      `batch_size` entries of it, drawn with replacement.
    nbeta: :math:`n\beta`, samples times inverse temperature.
    localization: :math:`\gamma`, in 1 / weight^2.
    step_size: :math:`\epsilon`, in weight^2.
    batch_size: entries a minibatch; None for all of the data at every step.
    mask: a tree of 0 and 1 like `params`: estimates the LLC refined to the
      weights marked 1, the rest held fixed.
    num_chains: this and what follows as in `settings.Sampling`.
    num_draws: draws of a chain after its burn-in; 200 by default.
    target_error: instead, the standard error to reach, as 0.1 or as
      `relative(0.03)`.
    max_draws: the most draws that a target may take.
    burn_in: steps before them.
    num_steps_between_draws: steps from one draw to the next.
    sampler: a kernel, or its text.
    share_batches: whether all chains see the same minibatches.
    matmul_precision: of matrix products.
    estimator_nbeta: as in `estimate_rllc`.
    chunk_size: chains that run in parallel; from the device's memory by
      default.

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
  sampling = settings.Sampling(
    nbeta=nbeta,
    localization=localization,
    step_size=step_size,
    num_chains=num_chains,
    num_draws=num_draws,
    target_error=target_error,
    max_draws=max_draws,
    burn_in=burn_in,
    num_steps_between_draws=num_steps_between_draws,
    sampler=sampler,
    share_batches=share_batches,
    matmul_precision=matmul_precision,
  )
  estimate = estimate_rllc(
    rng_key,
    one_refinement(loss_fn, params, mask),
    params,
    data_minibatches.of_size(data, batch_size),
    sampling,
    estimator_nbeta=estimator_nbeta,
    layout=settings.Layout(mesh=grid.make_mesh(1, 1), chunk_size=chunk_size),
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
