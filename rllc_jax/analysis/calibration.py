"""Sweeps of step size, nbeta and localization: where are estimates to be had.

The three are traced, and so is the number of draws: a sweep is one compiled
program, called once a setting, each with the burn-in that it needs. What to
make of a sweep is in `analysis.recommendation`.
"""

from collections.abc import Callable
from collections.abc import MutableMapping
from collections.abc import Sequence
import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import curvature
from rllc_jax.data import minibatches as data_minibatches
from rllc_jax.estimators import compilation
from rllc_jax.estimators import door
from rllc_jax.estimators import errors
from rllc_jax.estimators import health
from rllc_jax.estimators import layout
from rllc_jax.estimators import llc
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.refinement import weights
from rllc_jax.samplers import sgld

GRID_DIMS = ('step_size', 'nbeta', 'localization')
_CURVATURE_STREAM = 3  # Of random numbers; 0 to 2 are the chains'.


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
  *,
  step_sizes: Sequence[float],
  nbetas: Sequence[float],
  localizations: Sequence[float],
  num_chains: int = 4,
  num_draws: int = 200,
  burn_in: int | None = None,
  num_steps_between_draws: int = 1,
  sampler: types.Sampler | None = None,
  window: types.PyTree | None = None,
  share_batches: bool = True,
  chunk_size: int | None = None,
  matmul_precision: str = 'float32',
  plain_loss: types.LossFn | None = None,
  num_curvature_batches: int = 4,
  kept: MutableMapping[Setting, xr.Dataset] | None = None,
  progress: Callable[[int, int], None] | None = None,
) -> xr.Dataset:
  r"""Estimates at every setting of a grid, from one checkpoint.

  A cell is what `estimate_rllc` gives there with the same key: all settings see
  the same minibatches and noise, so that neighbors differ by their setting. Its
  standard error is that of so many chains and draws; sweep with those of the
  run that is to follow.

  :math:`n\beta` and :math:`\gamma` say *what* is estimated and must be fixed
  for whatever is to be compared; :math:`\epsilon` says how well.

  Args:
    rng_key: typed threefry key.
    refinements: R refinements of one family.
    params: the checkpoint.
    minibatches: data, and how they are drawn.
    step_sizes: epsilon, each twice another, so that the effect of halving one
      is seen; in any order.
    nbetas: n beta.
    localizations: gamma.
    num_chains: C.
    num_draws: draws after the burn-in, the same at all settings.
    burn_in: steps left out; 10 / (step_size localization) of each setting by
      default.
    num_steps_between_draws: steps from one draw to the next.
    sampler: SGLD by default.
    window: the data set; all of the data by default.
    share_batches: whether all chains see the same minibatches.
    chunk_size: columns of a device in parallel; from its memory by default.
    matmul_precision: of the chains, as in `estimate_rllc`.
    plain_loss: `loss_fn(params, batch)` to take second derivatives of. Needed
      where the family's loss has a gradient of its own, as those of
      `models.factored`.
    num_curvature_batches: minibatches for them; 0 leaves `curvature` out.
    kept: settings that are done, and where further ones are put: pass the same
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
  grid = check_grid(step_sizes, nbetas, localizations)
  points = [Setting(*point) for point in itertools.product(*grid)]
  num_chains, num_draws, num_steps_between_draws = settings.counts(
    num_chains=num_chains,
    num_draws=num_draws,
    num_steps_between_draws=num_steps_between_draws,
  )
  left_out = {}
  for point in points:
    posterior = types.Posterior(point.nbeta, point.localization)
    spacing = num_steps_between_draws
    settings.check(rng_key, posterior, point.step_size, num_chains, spacing)
    left_out[point] = settings.burn_in_draws(
      burn_in, point.step_size, posterior, spacing
    )
  errors.check_num_draws(num_draws)
  if window is None:
    window = data_minibatches.whole(minibatches.data)
  settings.check_window('data', window, minibatches)
  sampler = sampler or sgld.sgld()
  settings.warn_of_bias(sampler)
  middle = types.Posterior(*points[len(points) // 2][1:])
  subject = door.Subject(params, window, minibatches, middle, sampler)
  door.check([refinements], subject)
  mesh = layout.default_mesh(1)
  compilation.check_matmul_precision(
    matmul_precision, mesh.devices.flat[0].platform
  )
  run = rllc.chain_runner(
    rng_key,
    refinements,
    params,
    minibatches,
    window,
    sampler,
    num_chains=num_chains,
    max_draws=max(left_out.values()) + num_draws,
    num_steps_between_draws=num_steps_between_draws,
    share_batches=share_batches,
    chunk_size=chunk_size,
    mesh=mesh,
    matmul_precision=matmul_precision,
  )
  kept = {} if kept is None else kept
  progress = progress or (lambda done, total: None)
  for done, point in enumerate(points):
    progress(done, len(points))
    if point not in kept:
      kept[point] = _estimates(
        run,
        point,
        refinements,
        programs.num_coordinates(refinements, params),
        (left_out[point], num_draws, num_steps_between_draws),
      )
  progress(len(points), len(points))
  sweep = _joined(grid, [kept[point] for point in points])
  if (sweep.num_failed == num_chains).all():
    raise ValueError(
      'Some chain must stay finite and near its checkpoint, or there is '
      f'nothing to read; got {sweep.failed.size} of {sweep.failed.size} that '
      f'did not. Take step sizes under {grid[0][0]:g}, or more localization.'
    )
  sweep.attrs = {
    'baseline': 'paired',
    'sampler': sampler.name,
    'num_chains': num_chains,
    'num_draws': num_draws,
    'num_steps_between_draws': num_steps_between_draws,
  }
  if num_curvature_batches:
    if plain_loss is not None:
      plain = weights.refine(plain_loss, refinements.lens)
      refinements = refinements._replace(loss=plain)
    h = curvature.top_curvatures(
      jax.random.fold_in(rng_key, _CURVATURE_STREAM),
      refinements,
      params,
      minibatches,
      window,
      num_batches=num_curvature_batches,
    )
    top = xr.DataArray(h, {'refinement': sweep.refinement}, ('refinement',))
    a = sweep.nbeta * top + sweep.localization
    sweep['curvature'] = a.transpose('nbeta', 'localization', 'refinement')
  return health.check(sweep)


def calibrate_llc(
  rng_key: types.Key,
  loss_fn: types.LossFn,
  params: types.Params,
  data: types.PyTree,
  *,
  mask: types.PyTree | None = None,
  step_sizes: Sequence[float],
  nbetas: Sequence[float],
  localizations: Sequence[float],
  batch_size: int | None,
  **options,
) -> xr.Dataset:
  r"""Sweeps the settings of `estimate_llc`: for any loss, weights and data.

  Args:
    rng_key: typed threefry key.
    loss_fn: `loss_fn(params, batch) -> []`, a mean over the minibatch. Define
      it once: a new function compiles anew.
    params: any pytree of floating-point arrays.
    data: a pytree of arrays that share their leading axis.
    mask: a tree of 0 and 1 like `params`: only weights marked 1 move.
    step_sizes: epsilon, each twice another.
    nbetas: n beta.
    localizations: gamma.
    batch_size: entries a minibatch; None for all of the data at every step.
    **options: of `calibrate`: num_chains, num_draws, ...

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
  sweep = calibrate(
    rng_key,
    rllc.one_refinement(loss_fn, params, mask),
    params,
    data_minibatches.of_size(data, batch_size),
    step_sizes=step_sizes,
    nbetas=nbetas,
    localizations=localizations,
    **options,
  )
  return sweep.squeeze('refinement', drop=True)


def check_grid(*grid: Sequence[float]) -> tuple[tuple[float, ...], ...]:
  """Step sizes, nbetas and localizations, each ascending.

  Raises:
    ValueError: if one is empty or repeats a value, or step sizes are not each
      twice the one before.

  Examples:
    >>> check_grid([2e-3, 1e-3], [30], [200])
    ((0.001, 0.002), (30.0,), (200.0,))
  """
  found = []
  for name, values in zip(GRID_DIMS, grid, strict=True):
    ascending = tuple(sorted(float(value) for value in values))
    if not ascending or len(set(ascending)) < len(ascending):
      raise ValueError(
        f'The grid must have values of {name}, each once, because they are '
        f'coordinates of the results; got {list(values)}.'
      )
    found.append(ascending)
  doubled = 2 * np.array(found[0][:-1])
  if not len(doubled) or not np.allclose(found[0][1:], doubled, 1e-6, 0):
    raise ValueError(
      'The grid must have at least two step sizes, each twice the one before, '
      'because an estimate is held against that at half its step size; got '
      f'{list(found[0])}.'
    )
  return tuple(found)


def _estimates(
  run: rllc.RunChains,
  point: Setting,
  refinements: types.Refinements,
  num_coordinates: int,
  draws: tuple[int, int, int],
) -> xr.Dataset:
  """What is read at one setting, over (refinement,) and (refinement, chain)."""
  left_out, num_draws, spacing = draws
  posterior = types.Posterior(point.nbeta, point.localization)
  run_settings = programs.make_settings(posterior, point.step_size)
  traces = rllc.as_dataset(
    run(run_settings, left_out + num_draws),
    refinements.names,
    {
      **point._asdict(),
      'num_steps_between_draws': spacing,
      'burn_in': left_out * spacing,
    },
    num_coordinates,
  )
  found = llc.llc_from_traces(traces)
  return found.isel(checkpoint=0, dataset=0, drop=True)


def _joined(
  grid: tuple[tuple[float, ...], ...], found: Sequence[xr.Dataset]
) -> xr.Dataset:
  """Estimates at all points of a grid, in the order of their product."""
  shape = tuple(map(len, grid))
  variables = {}
  for name, first in found[0].data_vars.items():
    values = np.stack([estimates[name].values for estimates in found])
    values = values.reshape(*shape, *first.shape)
    variables[name] = ((*GRID_DIMS, *first.dims), values)
  coordinates: dict[str, Any] = {
    name: list(values) for name, values in zip(GRID_DIMS, grid, strict=True)
  }
  for name, values in found[0].coords.items():
    coordinates[str(name)] = (values.dims, values.values)
  return xr.Dataset(variables, coordinates)
