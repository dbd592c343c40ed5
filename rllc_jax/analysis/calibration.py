"""Sweeps of step size, nbeta and localization.

The three are traced, and so is the number of draws: a sweep is one compiled
program, called once per setting, each with its own burn-in.
`analysis.recommendation` reads a step size off a sweep.
"""

from collections.abc import MutableMapping
from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import curvature
from rllc_jax.data import minibatches as data_minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import health
from rllc_jax.estimators import llc
from rllc_jax.estimators import request as requests
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.estimators import trajectory as trajectories
from rllc_jax.refinement import weights
from rllc_jax.results import memory

GRID_DIMS = ('step_size', 'nbeta', 'localization')
_CURVATURE_STREAM = 3  # Random streams 0 to 2 belong to the chains.


class Setting(NamedTuple):
  """A point of the grid.

  Attributes:
    step_size: epsilon, in weight^2.
    nbeta: n beta, in samples.
    localization: gamma, in 1 / weight^2.
  """

  step_size: float
  nbeta: float
  localization: float


def calibrate(
  rng_key: types.Key,
  refinements: types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  sampling: settings.Sampling,
  *,
  step_sizes: Sequence[float],
  nbetas: Sequence[float] | None = None,
  localizations: Sequence[float] | None = None,
  window: types.PyTree | None = None,
  layout: settings.Layout = settings.Layout(),
  plain_loss: types.LossFn | None = None,
  num_curvature_batches: int = 4,
  cache: MutableMapping[Setting, xr.Dataset] | None = None,
  progress: trajectories.Progress = lambda done, total: None,
) -> xr.Dataset:
  r"""Estimates at every setting of a grid, from one checkpoint.

  A cell equals `estimate_rllc` there with the same key: all settings see
  the same minibatches and noise, so that neighbors differ by their setting. Its
  standard error is that of so many chains and draws; sweep with those of the
  planned run.

  :math:`n\beta` and :math:`\gamma` say *what* is estimated and must be fixed
  for whatever is to be compared; :math:`\epsilon` says how well.

  Args:
    rng_key: typed threefry key.
    refinements: R refinements of one family.
    params: the checkpoint.
    minibatches: data, and how they are drawn.
    sampling: what is not swept; see `at_point` for its burn-in.
    step_sizes: epsilon, each twice another, so that the effect of halving one
      is seen; in any order.
    nbetas: n beta; that of `sampling` by default.
    localizations: gamma; that of `sampling` by default.
    window: the data set; all of the data by default.
    layout: where and in which pieces.
    plain_loss: `loss_fn(params, batch)` to take second derivatives of. Needed
      where the family's loss has a gradient of its own, as those of
      `models.factored`.
    num_curvature_batches: minibatches for them; 0 leaves `curvature` out.
    cache: settings that are done, and where further ones are put: pass the same
      mapping again to go on, or to widen the grid. It must be of the same key,
      weights, data and options; nothing checks that.
    progress: `progress(done, total)` at first and after each setting.

  Returns:
    Over (step_size, nbeta, localization, refinement), ascending: all that
    `llc_from_traces` and `health.check` say, `llc`, `standard_error` and
    `healthy` among them. Over (nbeta, localization, refinement): `curvature`,
    the largest :math:`a = n\beta h + \gamma` at the checkpoint, see
    `analysis.curvature`.

  Raises:
    ValueError: if any setting of the grid is out of range, or every chain
      failed at every setting.
  """
  nbetas = [sampling.nbeta] if nbetas is None else nbetas
  if localizations is None:
    localizations = [sampling.localization]
  axes = check_grid(step_sizes, nbetas, localizations)
  points = {
    point: at_point(sampling, point)
    for point in (Setting(*x) for x in itertools.product(*axes))
  }
  for point in points:
    llc.factor(point.nbeta)  # Raises where there is no estimate.
  if window is None:
    window = data_minibatches.whole(minibatches.data)
  samplings = [*points.values()]
  spec = requests.Spec(
    rng_key,
    [refinements],
    rllc.of_one_checkpoint(params),
    {'data': window},
    minibatches,
    samplings[len(samplings) // 2],
    layout,
  )
  # Checked once, at a point in the middle; all points share its programs.
  request = _with_room_for_all(
    requests.check(spec, with_losses=False), samplings
  )
  cache = {} if cache is None else cache
  for done, (point, sampling_there) in enumerate(points.items()):
    progress(done, len(points))
    if point not in cache:
      cache[point] = _estimate(request.at(sampling_there))
  progress(len(points), len(points))
  sweep = _join(axes, [cache[point] for point in points])
  _check_some_chain(sweep, axes[0][0])
  sweep.attrs = {
    'baseline': 'paired',
    'sampler': sampling.kernel.name,
    'num_chains': sampling.num_chains,
    'num_draws': sampling.num_draws,
    'num_steps_between_draws': sampling.num_steps_between_draws,
  }
  if num_curvature_batches:
    count = num_curvature_batches
    sweep['curvature'] = _curvature(spec, sweep, plain_loss, count)
  return health.check(sweep)


def at_point(sampling: settings.Sampling, point: Setting) -> settings.Sampling:
  """The settings at a point of a grid.

  The burn-in of `sampling` is that of all points if it was given, or else the
  default of each point: 10 / (step_size localization).
  """
  # The paired baseline needs no minibatches at the checkpoint.
  return dataclasses.replace(
    sampling, **point._asdict(), num_baseline_batches=0
  )


def _with_room_for_all(
  request: requests.Request, samplings: Sequence[settings.Sampling]
) -> requests.Request:
  """Enlarges the draw buffers to fit any point: one program serves them all."""
  max_recorded = max(sampling.num_recorded for sampling in samplings)
  job = request.job._replace(max_draws=grid.buffer_length(max_recorded))
  return request._replace(job=job)


def _check_some_chain(sweep: xr.Dataset, least_step_size: float) -> None:
  count = sweep.failed.size
  if sweep.failed.all():
    raise ValueError(
      'Some chain must stay finite and near its checkpoint, or there is '
      f'nothing to read; got {count} of {count} that did not. Take step sizes '
      f'under {least_step_size:g}, or more localization.'
    )


def _curvature(
  spec: requests.Spec,
  sweep: xr.Dataset,
  plain_loss: types.LossFn | None,
  num_batches: int,
) -> xr.DataArray:
  """The curvature n beta h + gamma, over (nbeta, localization, refinement)."""
  # The fast losses have no second derivative, so the plain one is refined.
  [refinements] = spec.refinements
  if plain_loss is not None:
    plain = weights.refine(plain_loss, refinements.lens)
    refinements = refinements._replace(loss=plain)
  h = curvature.top_curvatures(
    jax.random.fold_in(spec.rng_key, _CURVATURE_STREAM),
    refinements,
    jax.tree.map(lambda leaf: leaf[0], spec.trajectory.load([0])),
    spec.minibatches,
    spec.datasets['data'],
    num_batches=num_batches,
  )
  top = xr.DataArray(h, {'refinement': sweep.refinement}, ('refinement',))
  a = sweep.nbeta * top + sweep.localization
  return a.transpose('nbeta', 'localization', 'refinement')


def calibrate_llc(
  rng_key: types.Key,
  loss_fn: types.LossFn,
  params: types.Params,
  data: types.PyTree,
  *,
  step_sizes: Sequence[float],
  nbetas: Sequence[float],
  localizations: Sequence[float],
  batch_size: int | None,
  mask: types.PyTree | None = None,
  num_chains: int = 4,
  num_draws: int = 200,
  burn_in: int | None = None,
  sampler: types.Sampler | str = 'leimkuhler_matthews',
  num_curvature_batches: int = 4,
  chunk_size: int | None = None,
) -> xr.Dataset:
  r"""Sweeps the settings of `estimate_llc`: for any loss, weights and data.

  Args:
    rng_key: typed threefry key.
    loss_fn: `loss_fn(params, batch) -> []`, a mean over the minibatch. Define
      it once: a new function compiles anew.
    params: any pytree of floating-point arrays.
    data: a pytree of arrays that share their leading axis.
    step_sizes: epsilon, each twice another.
    nbetas: n beta.
    localizations: gamma.
    batch_size: entries a minibatch; None for all of the data at every step.
    mask: a tree of 0 and 1 like `params`: only weights marked 1 move.
    num_chains: chains at every setting.
    num_draws: draws of a chain after its burn-in.
    burn_in: steps before them; 10 / (step_size localization) of each setting by
      default.
    sampler: a kernel, or its text.
    num_curvature_batches: minibatches for curvature; 0 for none.
    chunk_size: chains of a device that run in parallel.

  Returns:
    A sweep without the dim `refinement`.

  Examples:
    >>> import jax.numpy as jnp
    >>> bowl = lambda w, batch: 0.5 * jnp.sum(w**2)
    >>> sweep = calibrate_llc(
    ...     jax.random.key(0), bowl, jnp.zeros(9), jnp.zeros(1),
    ...     step_sizes=(1e-3, 2e-3), nbetas=[80.0], localizations=[20.0],
    ...     batch_size=1, num_draws=24)
    >>> print(dict(sweep.llc.sizes), f'{sweep.curvature.item():.3f}')
    {'step_size': 2, 'nbeta': 1, 'localization': 1} 100.000
  """
  check_grid(step_sizes, nbetas, localizations)
  sampling = settings.Sampling(
    nbeta=nbetas[0],
    localization=localizations[0],
    step_size=step_sizes[0],
    num_chains=num_chains,
    num_draws=num_draws,
    burn_in=burn_in,
    sampler=sampler,
  )
  sweep = calibrate(
    rng_key,
    rllc.one_refinement(loss_fn, params, mask),
    params,
    data_minibatches.of_size(data, batch_size),
    sampling,
    step_sizes=step_sizes,
    nbetas=nbetas,
    localizations=localizations,
    num_curvature_batches=num_curvature_batches,
    layout=settings.Layout(chunk_size=chunk_size),
  )
  return sweep.squeeze('refinement', drop=True)


def check_grid(*grid: Sequence[float]) -> tuple[tuple[float, ...], ...]:
  """Checks and sorts step sizes, nbetas and localizations.

  Raises:
    ValueError: if one is empty or repeats a value, or step sizes are not each
      twice the one before.

  Examples:
    >>> check_grid([2e-3, 1e-3], [30], [200])
    ((0.001, 0.002), (30.0,), (200.0,))
  """
  axes = []
  for name, values in zip(GRID_DIMS, grid, strict=True):
    ascending = tuple(sorted(float(value) for value in values))
    if not ascending or len(set(ascending)) < len(ascending):
      raise ValueError(
        f'The grid must have values of {name}, each once, because they are '
        f'coordinates of the results; got {list(values)}.'
      )
    axes.append(ascending)
  # A bias is estimated from the change at half the step size.
  doubled = 2 * np.array(axes[0][:-1])
  if not len(doubled) or not np.allclose(axes[0][1:], doubled, 1e-6, 0):
    raise ValueError(
      'The grid must have at least two step sizes, each twice the one before, '
      'because an estimate is held against that at half its step size; got '
      f'{list(axes[0])}.'
    )
  return tuple(axes)


def _estimate(request: requests.Request) -> xr.Dataset:
  """Estimates at one setting, over (refinement,) and (refinement, chain)."""
  traces = trajectories.run(request, memory.MemoryStore())
  estimates = llc.llc_from_traces(traces)
  return estimates.isel(checkpoint=0, dataset=0, drop=True)


def _join(
  grid: tuple[tuple[float, ...], ...], points: Sequence[xr.Dataset]
) -> xr.Dataset:
  """Estimates at all points of a grid, in the order of their product."""
  shape = tuple(map(len, grid))
  variables = {}
  for name, first in points[0].data_vars.items():
    values = np.stack([point[name].values for point in points])
    values = values.reshape(*shape, *first.shape)
    variables[name] = ((*GRID_DIMS, *first.dims), values)
  coordinates: dict[str, Any] = {
    name: list(values) for name, values in zip(GRID_DIMS, grid, strict=True)
  }
  for name, values in points[0].coords.items():
    coordinates[str(name)] = (values.dims, values.values)
  return xr.Dataset(variables, coordinates)
