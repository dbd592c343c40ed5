r"""Settings before any chain, from curvature and gradient noise.

In a bowl everything about a chain of Leimkuhler and Matthews' is a function of
the Hessian H of the loss: with :math:`P = n\beta H + \gamma`,
:math:`K = n\beta H / P` and :math:`r = 1 - \epsilon P / 2`,

- the estimate is :math:`\tfrac12 \operatorname{tr} K`;
- :math:`n\beta L` has the variance :math:`\tfrac12 \operatorname{tr} K^2`;
  summed over time,
  :math:`\tfrac12 \operatorname{tr} K^2 (1 + r^2) / (1 - r^2)`;
- noise n of the gradient of :math:`n\beta\ell` adds
  :math:`\tfrac\epsilon8 E[n^T K (1 - \epsilon P / 4)^{-1} n]` to the estimate.

Traces and forms are by Lanczos quadrature (Golub and Meurant, "Matrices,
Moments and Quadrature", 2010), from random vectors and from gradient noise.
Directions in which the loss bends down count as flat. What minibatches add to
the variance of a draw is measured, on draws of the Gaussian of covariance
:math:`P^{-1}`: a part that chains have each for themselves, and a part that
those which share minibatches have in common, so that more chains do not help.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import math
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np
import xarray as xr

from rllc_jax import types
from rllc_jax.analysis import curvature
from rllc_jax.analysis import krylov
from rllc_jax.estimators import errors
from rllc_jax.estimators import settings
from rllc_jax.refinement import weights

# Of step size times the largest curvature; chains diverge from 4 on, and that
# of single minibatches is larger than that of their mean.
_MAX_PRODUCT = 2.0
# Without a localization: curvatures of the posterior span 1 to 1 + this.
_CONDITION = 10.0
_NUM_MINIBATCHES = 32  # For what they add to the variance of a draw.
_GRID = 2.0 ** np.arange(0, -12, -0.25)  # Of step sizes, below the largest.


class Suggestion(NamedTuple):
  """Settings for all parts and checkpoints, with what they should give.

  Attributes:
    sampling: settings of the chains; hand it to `plan` for time and memory.
    relaxation: steps in which the flattest direction forgets its start,
      2 / (step_size localization).
    each: over (checkpoint, refinement): `curvature`, the largest of the loss,
      nats / weight^2; `llc`, predicted; `step_bias_share`, of it; `num_draws`,
      of a chain after the burn-in, for the asked error.
    why: a sentence: what bounds the step size.
  """

  sampling: settings.Sampling
  relaxation: float
  each: xr.Dataset
  why: str


class _Spectrum(NamedTuple):
  """The Hessian of a cell as sums over points: sum weights f(values).

  Attributes:
    top: its largest eigenvalue.
    values: of tr f(H), with `weights`.
    noisy_values: of E[n^T f(H) n], n of the loss, with `noisy_weights`.
    energies: `energies(posterior) -> [B, K]`, n beta (l - l*) of minibatches at
      draws of the Gaussian.
  """

  top: float
  values: np.ndarray
  weights: np.ndarray
  noisy_values: np.ndarray
  noisy_weights: np.ndarray
  energies: Callable[[types.Posterior], np.ndarray]


def suggest(
  rng_key: types.Key,
  refinements: Sequence[types.Refinements] | types.Refinements,
  trajectory: types.Trajectory,
  window: types.PyTree,
  minibatches: types.Minibatches,
  *,
  nbeta: float,
  localization: float | None = None,
  relative_error: float = 0.05,
  max_bias: float = 0.02,
  num_chains: int = 4,
  plain_loss: types.LossFn | None = None,
  num_batches: int = 8,
  num_iterations: int = 24,
) -> Suggestion:
  r"""Suggests one setting for all parts and checkpoints, so that they compare.

  It takes some dozens of Hessian-vector products a cell. Predictions are those
  of a bowl: trained heads are near one, young ones less so.

  Args:
    rng_key: typed key.
    refinements: families, or one.
    trajectory: the checkpoints to look at; the last is where curvature is
      largest as a rule.
    window: the data set.
    minibatches: as in the run: gradient noise depends on the batch size.
    nbeta: n beta.
    localization: gamma; by default n beta times the largest curvature over 10.
    relative_error: standard error asked for, as a share of the estimate.
    max_bias: most of an estimate that minibatches may add through the step.
    num_chains: of the run.
    plain_loss: `loss_fn(params, batch)` to differentiate twice; see
      `calibrate`.
    num_batches: minibatches that the Hessian is the mean over.
    num_iterations: Hessian-vector products a vector.

  Raises:
    ValueError: if a curvature is not finite, or the loss is flat and no
      localization is given.
  """
  refinements = types.as_families(refinements)
  spectra = {}
  for step in trajectory.steps:
    params = jax.tree.map(lambda x: jnp.asarray(x[0]), trajectory.load([step]))
    for family in refinements:
      if plain_loss is not None:
        plain = weights.refine(plain_loss, family.lens)
        family = family._replace(loss=plain)
      look = functools.partial(
        _spectrum, family, params, minibatches, window, rng_key
      )
      for r, name in enumerate(family.names):
        spectra[int(step), name] = look(r, num_batches, num_iterations)
  top = max(spectrum.top for spectrum in spectra.values())
  if localization is None:
    if not top > 0:
      raise ValueError(
        'localization must be given where the loss is flat, because it is '
        f'scaled by the largest curvature otherwise; got {top:.3g}.'
      )
    localization = nbeta * top / _CONDITION
  posterior = types.Posterior(nbeta, localization)
  largest = _MAX_PRODUCT / (nbeta * max(top, 0.0) + localization)
  step_size, why = _step_size(spectra, posterior, largest, max_bias)
  each = _each(spectra, posterior, step_size, relative_error, num_chains)
  sampling = settings.Sampling(
    nbeta=nbeta,
    localization=localization,
    step_size=step_size,
    num_chains=num_chains,
    num_draws=int(each.num_draws.max()),
  )
  return Suggestion(sampling, 2 / (step_size * localization), each, why)


def _step_size(
  spectra: dict[Any, _Spectrum],
  posterior: types.Posterior,
  largest: float,
  max_bias: float,
) -> tuple[float, str]:
  """The largest step size that is stable and not too biased, and its bound."""
  step_size, biases = float(largest), dict[Any, float]()
  for step_size in map(float, largest * _GRID):
    biases = {
      cell: _bias(spectrum, posterior, step_size) / llc
      for cell, spectrum in spectra.items()
      if (llc := _llc(spectrum, posterior)) > 0
    }
    if max(biases.values(), default=0.0) <= max_bias:
      break
  if step_size == largest:
    product = f'{_MAX_PRODUCT:g} over the largest curvature of the posterior'
    return step_size, f'The step size is {product}.'
  (step, name), bias = max(biases.items(), key=lambda item: item[1])
  return step_size, (
    f'Minibatch noise bounds the step size: it adds {100 * bias:.2g} % to the '
    f'estimate of {name} at step {step}; a larger batch would allow more.'
  )


def _llc(spectrum: _Spectrum, posterior: types.Posterior) -> float:
  K, _ = _functions(spectrum.values, posterior)
  return 0.5 * float(np.sum(spectrum.weights * K))


def _bias(
  spectrum: _Spectrum, posterior: types.Posterior, step_size: float
) -> float:
  K, P = _functions(spectrum.noisy_values, posterior)
  square = posterior.nbeta**2 * spectrum.noisy_weights
  return step_size / 8 * float(np.sum(square * K / (1 - step_size * P / 4)))


def _functions(values, posterior) -> tuple[np.ndarray, np.ndarray]:
  """K and P at eigenvalues of the Hessian."""
  stiffness = posterior.nbeta * np.maximum(values, 0)
  P = stiffness + posterior.localization
  return stiffness / P, P


def _each(
  spectra: dict[Any, _Spectrum],
  posterior: types.Posterior,
  step_size: float,
  relative_error: float,
  num_chains: int,
) -> xr.Dataset:
  """Predictions for every cell at a setting."""
  steps = list(dict.fromkeys(step for step, _ in spectra))
  names = list(dict.fromkeys(name for _, name in spectra))
  shape = (len(steps), len(names))
  values = {
    name: np.zeros(shape)
    for name in ('curvature', 'llc', 'step_bias_share', 'num_draws')
  }
  for (step, name), spectrum in spectra.items():
    where = steps.index(step), names.index(name)
    energies = spectrum.energies(posterior)
    llc = energies.mean()
    shared, own = _variances(energies)
    own += _thermal_variance(spectrum, posterior, step_size)
    variance = shared + own / num_chains
    draws = variance / max(relative_error * abs(llc), 1e-30) ** 2
    values['curvature'][where] = spectrum.top
    values['llc'][where] = llc
    bias = _bias(spectrum, posterior, step_size)
    values['step_bias_share'][where] = bias / max(abs(llc), 1e-30)
    values['num_draws'][where] = max(errors.MIN_DRAWS, math.ceil(draws))
  dims = ('checkpoint', 'refinement')
  return xr.Dataset(
    {name: (dims, array) for name, array in values.items()},
    {'checkpoint': steps, 'refinement': names},
  )


def _thermal_variance(
  spectrum: _Spectrum, posterior: types.Posterior, step_size: float
) -> float:
  """Long-run variance of n beta (L - L*) of one chain in a bowl, []."""
  K, P = _functions(spectrum.values, posterior)
  squares = (1 - step_size * P / 2) ** 2
  return 0.5 * float(
    np.sum(spectrum.weights * K**2 * (1 + squares) / (1 - squares))
  )


def _variances(energies: np.ndarray) -> tuple[float, float]:
  """Variances that minibatches add to a draw: in common, and by chain.

  Args:
    energies: [B, K], minibatches by draws of the weights.
  """
  B, K = energies.shape
  # Two-way analysis of variance: what is left of rows and columns is own.
  rest = energies - energies.mean(axis=0) - energies.mean(axis=1)[:, None]
  own = ((rest + energies.mean()) ** 2).sum() / ((B - 1) * (K - 1))
  shared = energies.mean(axis=1).var(ddof=1) - own / K
  return max(0.0, float(shared)), float(own)


def _spectrum(
  family: types.Refinements,
  params: types.Params,
  minibatches: types.Minibatches,
  window: types.PyTree,
  rng_key: types.Key,
  r: int,
  num_batches: int,
  num_iterations: int,
) -> _Spectrum:
  """Looks at a refinement by Lanczos iterations from three vectors."""
  index = jax.tree.map(lambda leaf: leaf[r], family.indices)
  flat, _ = ravel_pytree(family.lens.extract(params, index))
  data = (rng_key, params, index, minibatches.data, window)
  multiply = curvature.hessian_product(
    family.lens, family.loss, minibatches.draw, num_batches
  )
  product = lambda vector: np.asarray(
    multiply(jnp.asarray(vector, flat.dtype), *data), np.float64
  )
  rng = np.random.default_rng(0)  # Equal inputs give equal suggestions.
  # One vector's error is some 1 / sqrt(d) of a trace: in few dimensions, more.
  count = min(16, 2 + 1000 // flat.size)
  probes = rng.choice([-1.0, 1.0], size=(count, flat.size))
  noise = _noise(family.lens, family.loss, minibatches.draw, count)
  form = lambda vectors: _mean_form(product, vectors, num_iterations)
  thermal, noisy = form(probes), form(noise(*data))
  top = max(thermal[0].max(), noisy[0].max())
  measure = _energies(family.lens, family.loss, minibatches.draw)

  def energies(posterior):
    scale = lambda values: _functions(values, posterior)[1] ** -0.5
    draws = [
      krylov.applied(product, rng.normal(size=flat.size), scale, num_iterations)
      for _ in range(4 * count)
    ]
    draws = jnp.asarray(np.stack(draws), flat.dtype)
    return posterior.nbeta * np.asarray(measure(draws, *data), np.float64)

  return _Spectrum(float(top), *thermal, *noisy, energies)


def _mean_form(product, vectors, num_iterations):
  """Points and weights of the mean of forms over vectors [n, d]."""
  forms = [
    krylov.quadrature(product, np.asarray(vector, np.float64), num_iterations)
    for vector in vectors
  ]
  values, weights_ = (np.concatenate(x) for x in zip(*forms, strict=True))
  return values, weights_ / len(forms)


# Cached: a new function at each checkpoint would compile anew.
@functools.lru_cache(maxsize=64)
def _noise(
  lens: types.Lens, loss: types.RefinedLoss, draw: types.Draw, count: int
) -> Callable[..., types.Array]:
  """Draws of a minibatch's gradient noise at the checkpoint, [count, d]."""

  def noise(rng_key, params, index, data, window):
    flat, unravel = ravel_pytree(lens.extract(params, index))

    def gradient(i):
      batch = draw(jax.random.fold_in(rng_key, i), i, data, window)
      context, _ = loss.context(params, batch)
      return jax.grad(lambda u: loss.loss(unravel(u), context, index))(flat)

    gradients = jax.lax.map(gradient, jnp.arange(2 * count))
    return (gradients[::2] - gradients[1::2]) / math.sqrt(2)

  return jax.jit(noise)


@functools.lru_cache(maxsize=64)
def _energies(
  lens: types.Lens, loss: types.RefinedLoss, draw: types.Draw
) -> Callable[..., types.Array]:
  """Paired losses of minibatches at displacements [K, d], [B, K]."""

  def energies(displacements, rng_key, params, index, data, window):
    flat, unravel = ravel_pytree(lens.extract(params, index))

    def of_batch(i):
      batch = draw(jax.random.fold_in(rng_key, i), i, data, window)
      context, center_loss = loss.context(params, batch)
      at = lambda u: loss.loss(unravel(flat + u), context, index)
      return jax.lax.map(at, displacements) - center_loss

    return jax.lax.map(of_batch, jnp.arange(_NUM_MINIBATCHES))

  return jax.jit(energies)
