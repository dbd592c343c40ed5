"""What a run asks for, checked at the door, before anything is compiled."""

from collections.abc import Callable
import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.estimators import compilation
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


def check_family(
  family: types.Refinements,
  params: types.Params,
  window: types.PyTree,
  minibatches: types.Minibatches,
) -> None:
  """Raises unless a family is a lens, and a loss, of these weights and data.

  Tried on its first member: a lens that writes elsewhere than it reads would
  give numbers, and wrong ones.
  """
  for leaf in jax.tree.leaves(family.indices):
    if len(leaf) != len(family.names):
      raise ValueError(
        f'A family must have one index a name; got {len(family.names)} names '
        f'and {len(leaf)} indices.'
      )
  params = jax.tree.map(jnp.asarray, params)  # As compiled code sees them.
  lens = family.lens
  index = jax.tree.map(lambda leaf: leaf[0], family.indices)
  position = lens.extract(params, index)
  for leaf in jax.tree.leaves(position):
    if jnp.result_type(leaf) not in (jnp.float32, jnp.float64):
      raise ValueError(
        f'Weights of {family.names[0]!r} must be float32 or float64, because '
        'steps are too small for less; got '
        f'{jnp.result_type(leaf)}. Cast the weights that move.'
      )
  moved = jax.tree.map(lambda leaf: leaf + 1, position)
  if not (
    _same(lens.insert(position, params, index), params)
    and _same(lens.extract(lens.insert(moved, params, index), index), moved)
  ):
    raise ValueError(
      f'The lens of {family.names[0]!r} must read what it writes and change '
      'nothing else, or the chains would move other weights than they record; '
      'got an insert and an extract that do not fit.'
    )

  def value(params, data, window):
    key = jax.random.key(0)
    batch = minibatches.draw(key, jnp.int32(0), data, window)
    context, center_loss = family.loss.context(params, batch)
    return center_loss, family.loss.loss(position, context, index)

  for loss in jax.eval_shape(value, params, minibatches.data, window):
    if loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
      raise ValueError(
        'A loss must be one floating-point number, the mean over a minibatch; '
        f'got {loss.dtype} of shape {list(loss.shape)}.'
      )


def probe(
  family: types.Refinements,
  params: types.Params,
  window: types.PyTree,
  minibatches: types.Minibatches,
) -> np.ndarray:
  """A number a refinement that tells one loss from another, [R].

  Each loss on one minibatch, at weights that are made up, so that checkpoints
  do not matter, and away from where the chains would start, so that what the
  moving weights do does. As exact as arithmetic is the same between devices.
  """
  with compilation.matmul_precision_scope('float32'):
    values = _probe(family.lens, family.loss, minibatches.draw)
    found = values(params, family.indices, minibatches.data, window)
  return np.asarray(found, float)


@functools.lru_cache(maxsize=64)
def _probe(
  lens: types.Lens, loss: types.RefinedLoss, draw: types.Draw
) -> Callable[..., jax.Array]:
  """The compiled side of `probe`, built once for the same functions."""

  @jax.jit
  def values(params, indices, data, window):
    params = _made_up(params)
    count = len(jax.tree.leaves(params))
    batch_key = jax.random.fold_in(jax.random.key(0), count)
    batch = draw(batch_key, jnp.int32(0), data, window)
    context, _ = loss.context(params, batch)

    def value(index):
      position = lens.extract(params, index)
      moved = jax.tree.map(lambda leaf: leaf + 0.1, position)
      return loss.loss(moved, context, index)

    return jax.lax.map(value, indices)

  return values


def _made_up(params: types.Params) -> types.Params:
  """Small normal numbers in place of every leaf of floating point."""
  leaves, structure = jax.tree.flatten(params)

  def normal(i, leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    key = jax.random.fold_in(jax.random.key(0), i)
    return (0.1 * jax.random.normal(key, leaf.shape)).astype(leaf.dtype)

  return structure.unflatten([normal(i, x) for i, x in enumerate(leaves)])


def _same(a: types.PyTree, b: types.PyTree) -> bool:
  if jax.tree.structure(a) != jax.tree.structure(b):
    return False
  equal = jax.tree.map(
    lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), a, b
  )
  return all(jax.tree.leaves(equal))
