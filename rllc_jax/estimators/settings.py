"""What a run asks for, checked at the door, before anything is compiled."""

from typing import Any
import warnings

import jax
import jax.numpy as jnp

from rllc_jax import types
from rllc_jax import whole_numbers
from rllc_jax.estimators import errors


def check(
  rng_key: types.Key,
  posterior: types.Posterior,
  step_size: float,
  num_chains: int,
  num_steps_between_draws: int = 1,
  estimator_nbeta: float | None = None,
) -> None:
  """Raises ValueError if a setting is out of range, saying which and why."""
  check_key(rng_key)
  nbeta, localization = (float(value) for value in posterior)
  check_positive('step_size', step_size, 'noise has this variance')
  check_positive('num_chains', num_chains, 'there must be something to sample')
  check_positive(
    'num_steps_between_draws', num_steps_between_draws, 'draws are steps apart'
  )
  if not nbeta >= 0:
    raise ValueError(
      'nbeta must be at least 0, because the posterior tempers exp(-nbeta '
      f'loss); got {nbeta}.'
    )
  if nbeta == 0 and estimator_nbeta is None:
    raise ValueError(
      'estimator_nbeta must be given when nbeta is 0, because the estimate is '
      'nbeta (E[loss] - loss*) and would be 0 whatever the chains do; got None.'
    )
  if not localization >= 0:
    raise ValueError(
      'localization must be at least 0, because it is the precision of a '
      f'Gaussian; got {localization}.'
    )
  if step_size * localization >= 4:
    raise ValueError(
      'step_size times localization must be under 4, because SGLD diverges '
      'along every direction from there on; got '
      f'{step_size} x {localization} = {step_size * localization:g}.'
    )


def check_key(rng_key: types.Key) -> None:
  """Raises unless the key is a typed threefry key of shape []."""
  typed = isinstance(rng_key, jax.Array) and jnp.issubdtype(
    rng_key.dtype, jax.dtypes.prng_key
  )
  kind = str(jax.random.key_impl(rng_key)) if typed else type(rng_key).__name__
  if 'threefry2x32' not in kind or rng_key.shape:
    raise ValueError(
      'rng_key must be one typed threefry key, jax.random.key(seed, '
      "impl='threefry2x32'), because random numbers are addressed by folding "
      f'into it; got {kind}{list(rng_key.shape) if typed else ""}.'
    )


def counts(**given: Any) -> list[int]:
  """Counts by the names of their arguments, as Python's whole numbers."""
  return [whole_numbers.whole(name, x) for name, x in given.items()]


def check_positive(name: str, value: float, reason: str) -> None:
  """Raises unless `value` > 0 (a NaN is not)."""
  if not value > 0:
    raise ValueError(f'{name} must be positive, because {reason}; got {value}.')


def warn_of_bias(sampler: types.Sampler) -> None:
  """Warns if a sampler's estimates miss the exact value at any step size."""
  if sampler.bias:
    warnings.warn(
      f'Estimates by {sampler.name} are biased: {sampler.bias}.', stacklevel=3
    )


def burn_in_draws(
  burn_in: int | None,
  step_size: float,
  posterior: types.Posterior,
  num_steps_between_draws: int,
) -> int:
  """How many draws a burn-in of so many steps (None: the default) takes."""
  if burn_in is None:
    burn_in = errors.default_burn_in(step_size, float(posterior.localization))
  burn_in = whole_numbers.whole('burn_in', burn_in, 'it counts steps')
  if burn_in < 0:
    raise ValueError(
      f'burn_in must be at least 0, because it counts steps; got {burn_in}.'
    )
  return -(-burn_in // num_steps_between_draws)


def check_lengths(
  num_chains: int, num_draws: int, num_steps_between_draws: int
) -> None:
  """Raises if there are more chains, draws or steps than anybody means.

  Args:
    num_chains: chains a refinement.
    num_draws: with those of the burn-in.
    num_steps_between_draws: steps a draw.
  """
  num_steps = int(num_draws) * int(num_steps_between_draws)
  for name, count, most, reason in (
    ('num_chains', num_chains, 2**20, 'each of them is kept'),
    ('num_draws and burn_in', num_draws, 2**24, 'every draw is kept'),
    (
      'num_draws and burn_in, in steps,',
      num_steps,
      2**32 - 1,
      'steps address random numbers',
    ),
  ):
    if not count <= most:
      raise ValueError(
        f'{name} must be at most {most:,}, because {reason}; got {count:,}.'
      )


def check_window(
  name: str, window: types.PyTree, minibatches: types.Minibatches
) -> None:
  """Raises unless a window lies within the data: JAX would clamp indices."""
  count = len(jax.tree.leaves(minibatches.data)[0])
  if not isinstance(window, types.Window | types.WeightedWindow):
    return
  start, length = int(window.start), int(window.length)
  if start < 0 or length < 1 or start + length > count:
    raise ValueError(
      f'The window of data set {name!r} must hold at least one of the {count} '
      f'sequences and lie within them; got start {start}, length {length}.'
    )
