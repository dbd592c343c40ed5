"""Problems of experiments.verdicts, sound ones and those that are far off.

Most are bowls, whose value has a closed form. Independent runs differ in the
name of their data set alone, as in `coverage_problems`.
"""

from collections.abc import Callable
from collections.abc import Iterator
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from experiments.checks import coverage_problems
from rllc_jax import types
from rllc_jax.data import minibatches

POSTERIOR = types.Posterior(nbeta=30.0, localization=200.0)
FEW = np.array([0.1, 0.3, 1.0, 3.0, 10.0])  # Curvatures, over a factor of 100.
MANY = np.geomspace(0.01, 30, 1000)
WELL = np.geomspace(0.03, 3, 200)
NUM_DRAWS = 400


class Problem(NamedTuple):
  """Independent runs of a problem.

  Attributes:
    name: for rows.
    sound: True if the runs are in equilibrium and the bias is under 2.5 %.
    sample: `sample(num_runs) -> traces`, the data sets are the runs.
    is_off: `is_off(traces) -> [runs]` which runs count, given their draws after
      the burn-in; all by default.
  """

  name: str
  sound: bool
  sample: Callable[[int], xr.Dataset]
  is_off: Callable[[xr.Dataset], np.ndarray] | None = None


def problems() -> Iterator[Problem]:
  """Yields the problems that have a closed form."""
  for num_chains in (2, 4):
    few = functools.partial(_bowl, FEW, num_chains=num_chains)
    many = functools.partial(_bowl, MANY, num_chains=num_chains)
    chains = f'{num_chains} chains'
    for step_size in (1e-3, 2.5e-3):
      at = f'ε {step_size:g}, {chains}'
      yield Problem(f'5 directions, {at}', True, few(step_size=step_size))
      yield Problem(f'1,000 directions, {at}', True, many(step_size=step_size))
    noisy = functools.partial(many, step_size=2.5e-3)
    yield Problem(f'minibatches, {chains}', True, noisy(noise=0.1))
    yield Problem(f'hot minibatches, {chains}', False, noisy(noise=0.4))
    yield Problem(
      f'SGLD, {chains}', False, many(step_size=7e-4, sampler='sgld')
    )
    yield Problem(
      f'SGLD in 5, {chains}', False, few(step_size=1.2e-3, sampler='sgld')
    )
    yield Problem(
      f'cold, {chains}', False, many(step_size=1e-5, burn_in=0), _misses_tenth
    )
    yield Problem(
      f'nearly cold, {chains}',
      False,
      many(step_size=1e-4, burn_in=0),
      _misses_tenth,
    )
    yield Problem(f'diverging, {chains}', False, many(step_size=4.5e-3))
    yield Problem(
      f'another well, {chains}',
      False,
      functools.partial(_two_wells, num_chains),
      _has_left,
    )


def _bowl(curvatures: np.ndarray, *, noise: float = 0.0, **options):
  """A bowl whose gradient has noise of a variance as its curvatures."""
  h = jnp.asarray(curvatures, jnp.float32)
  d = len(curvatures)
  pulls = np.zeros((1, 1))
  if noise:
    pulls = np.random.default_rng(0).normal(size=(4000, d))
    pulls *= noise * np.sqrt(curvatures)
    pulls -= pulls.mean(axis=0)  # Their mean must not move the minimum.

  def loss_fn(w, batch):
    return 0.5 * jnp.sum(h * w**2) + jnp.mean(batch @ w if noise else 0.0)

  batches = minibatches.uniform(jnp.asarray(pulls, jnp.float32), 8)
  return functools.partial(_sample, loss_fn, jnp.zeros(d), batches, options)


def _two_wells(num_chains: int, num_runs: int) -> xr.Dataset:
  """A bowl with a second, deeper well, that a chain in ten reaches in the run.

  Along the first weight, 7.5 nats up and 15 down.
  """
  h = jnp.asarray(WELL[1:], jnp.float32)
  place, barrier, depth = 0.25, 0.25, 0.5

  def loss_fn(w, batch):
    del batch
    x = w[0] / place
    fall = jax.nn.sigmoid(20 * (x - 0.5)) - jax.nn.sigmoid(-10.0)
    wells = 16 * barrier * (x * (x - 1)) ** 2 - depth * fall
    return 0.5 * jnp.sum(h * w[1:] ** 2) + wells

  batches = minibatches.uniform(jnp.zeros((1, 1)), 1)
  options = dict(num_chains=num_chains, step_size=5e-4, burn_in=100)
  return _sample(loss_fn, jnp.zeros(len(WELL)), batches, options, num_runs)


def _sample(loss_fn, center, batches, options, num_runs) -> xr.Dataset:
  return coverage_problems.sample_weights(
    jax.random.key(0, impl='threefry2x32'),
    loss_fn,
    center,
    batches,
    num_runs,
    **POSTERIOR._asdict(),
    **{'sampler': 'leimkuhler_matthews', **options},
    num_draws=NUM_DRAWS,
    num_baseline_batches=0,
  )


def exact(curvatures: np.ndarray) -> float:
  """The estimate of a bowl without any bias."""
  nbeta, localization = POSTERIOR
  stiffness = nbeta * curvatures
  return float(0.5 * np.sum(stiffness / (stiffness + localization)))


def _means(traces: xr.Dataset) -> np.ndarray:
  """Estimates of single chains, [runs, C]."""
  paired = POSTERIOR.nbeta * (traces.loss - traces.center_loss)
  return paired.mean('draw').squeeze().values


def _misses_tenth(traces: xr.Dataset) -> np.ndarray:
  truth = exact(MANY)
  return abs(_means(traces).mean(axis=-1) - truth) > 0.1 * truth


def _has_left(traces: xr.Dataset) -> np.ndarray:
  """Runs of which a chain has spent two fifths or more in the deeper well."""
  return _means(traces).min(axis=-1) < exact(WELL) - 6
