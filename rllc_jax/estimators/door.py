"""Checks of a family before it is sampled: its lens, loss and gradient.

A lens that reads other weights than it writes, a loss that is not finite or a
gradient that is not the loss's all give numbers, and wrong ones. The loss and
its gradient are one compiled function a family, which also says what a loss
*is*, for the identity of a store.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import logging
from typing import Any, NamedTuple

import jax
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import compilation
from rllc_jax.estimators import slopes

_LOG = logging.getLogger(__name__)


class Subject(NamedTuple):
  """The checkpoint, data and settings that a family is tried on.

  Attributes:
    params: a checkpoint.
    window: a data set.
    minibatches: what it looks into.
    posterior: n beta and gamma: how far chains go.
    sampler: the kernel.
    observe: what is recorded at draws.
  """

  params: types.Params
  window: types.PyTree
  minibatches: types.Minibatches
  posterior: types.Posterior
  sampler: types.Sampler
  observe: types.Observe | None = None


def check(families: Sequence[types.Refinements], subject: Subject) -> None:
  """Raises unless each family is a lens, and a loss, of these weights and data.

  Raises:
    ValueError: naming the family or its member, and what to change.
  """
  check_params(subject.params)
  if subject.sampler.needs_full_data:
    _check_full_data(subject)
  for i, family in enumerate(families):
    _LOG.info(
      'checking family %d of %d (%s)', i + 1, len(families), family.names[0]
    )
    check_family(family, subject)


def check_family(family: types.Refinements, subject: Subject) -> None:
  """Checks one family: every member's lens, one member's loss and gradient."""
  for leaf in jax.tree.leaves(family.indices):
    if len(leaf) != len(family.names):
      raise ValueError(
        f'A family must have one index a name; got {len(family.names)} names '
        f'and {len(leaf)} indices.'
      )
  params = jax.tree.map(jnp.asarray, subject.params)  # As compiled code sees.
  _check_position(family, params)
  _check_lenses(family, params)
  if family.loss.check is not None:
    family.loss.check(params, subject.minibatches.data)
  _check_one_number(family, subject._replace(params=params))
  evaluate = evaluator(family, subject)
  index = member(family, 0)
  at_center = evaluate(params, family.lens.extract(params, index), index)
  _check_finite(family, float(at_center.center_loss))
  slopes.check(
    family.names[0],
    lambda position: evaluate(params, position, index),
    family.lens.extract(params, index),
    subject.posterior,
  )


def check_params(params: types.Params) -> None:
  """Raises unless all leaves are arrays of numbers, naming the first other."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    dtype = getattr(leaf, 'dtype', None)
    number = isinstance(leaf, int | float)
    if not number and not isinstance(dtype, np.dtype | jnp.dtype):
      kind = f'{type(leaf).__module__}.{type(leaf).__name__}'
      raise ValueError(
        'Weights must be NumPy or JAX arrays, because they are differentiated; '
        f'got {kind} at {jax.tree_util.keystr(path) or "the top"}. Turn a '
        'tensor into x.detach().numpy(); keep what is no array out of the '
        'weights and put it back within loss_fn.'
      )


def member(family: types.Refinements, place: int) -> types.Index:
  """The index of one member of a family."""
  return jax.tree.map(lambda leaf: leaf[place], family.indices)


def _check_position(family: types.Refinements, params: types.Params) -> None:
  """Raises unless something moves, and all of it in full precision."""
  position = jax.eval_shape(family.lens.extract, params, member(family, 0))
  if not trees.size(position):
    raise ValueError(
      f'{family.names[0]!r} must have weights that move, or there is nothing '
      'to sample; got none.'
    )
  for path, leaf in jax.tree_util.tree_leaves_with_path(position):
    if leaf.dtype not in (jnp.float32, jnp.float64):
      raise ValueError(
        f'Weights of {family.names[0]!r} must be float32 or float64, because '
        f'steps are too small for less; got {leaf.dtype} at '
        f'{jax.tree_util.keystr(path) or "the top"}. Cast the weights that '
        'move, or hold these fixed.'
      )


def _check_lenses(family: types.Refinements, params: types.Params) -> None:
  """Raises unless every member reads what it writes and changes nothing else.

  Out of range indices are clamped by reads and dropped by writes, so no other
  sign of them is left.
  """
  keeps, reads_back = _lens_laws(family.lens)(params, family.indices)
  for name, same, back in zip(
    family.names, np.asarray(keeps), np.asarray(reads_back), strict=True
  ):
    if not (same and back):
      what = (
        'inserting what was extracted changes the weights'
        if not same
        else 'what was inserted is not what is extracted'
      )
      raise ValueError(
        f'The lens of {name!r} must read what it writes and change nothing '
        'else, or the chains would move other weights than they record; got '
        f'one where {what}. Is its index within the weights?'
      )


@functools.lru_cache(maxsize=64)
def _lens_laws(lens: types.Lens) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """laws(params, indices) -> ([R] bool, [R] bool), compiled once a lens."""

  @jax.jit
  def keeps(params, indices):
    def of_index(index):
      position = lens.extract(params, index)
      noise = trees.normal_like(jax.random.key(0), position)
      moved = jax.tree.map(lambda u, xi: u + xi * (1 + abs(u)), position, noise)
      return _same(lens.insert(position, params, index), params), moved

    return jax.lax.map(of_index, indices)

  # Of its own: XLA may compute `moved` twice, and round in two ways.
  @jax.jit
  def reads_back(params, indices, moved):
    def of_index(index_moved):
      index, moved = index_moved
      back = lens.extract(lens.insert(moved, params, index), index)
      return _same(back, moved)

    return jax.lax.map(of_index, (indices, moved))

  def laws(params, indices):
    same, moved = keeps(params, indices)
    return same, reads_back(params, indices, moved)

  return laws


def _same(a: types.PyTree, b: types.PyTree) -> jax.Array:
  """True if two trees are one, bit for bit (NaN is NaN), []."""
  if jax.tree.structure(a) != jax.tree.structure(b):
    return jnp.array(False)
  equal = jnp.array(True)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jnp.shape(x) != jnp.shape(y):
      return jnp.array(False)
    equal &= jnp.all((x == y) | ((x != x) & (y != y)))
  return equal


def _check_one_number(family: types.Refinements, subject: Subject) -> None:
  """Raises unless both halves of the loss give one floating-point number."""

  def value(params, data, window):
    index = member(family, 0)
    batch = subject.minibatches.draw(_key(0), jnp.int32(0), data, window)
    context, center_loss = family.loss.context(params, batch)
    position = family.lens.extract(params, index)
    return center_loss, family.loss.loss(position, context, index)

  data = subject.minibatches.data
  for loss in jax.eval_shape(value, subject.params, data, subject.window):
    leaves = jax.tree.leaves(loss)
    if len(leaves) != 1 or leaves[0] is not loss:
      got = f'{type(loss).__name__} of {len(leaves)}. Return the loss alone'
    elif loss.shape or not jnp.issubdtype(loss.dtype, jnp.floating):
      got = f'{loss.dtype} of shape {list(loss.shape)}'
    else:
      continue
    raise ValueError(
      'A loss must be one floating-point number, the mean over a minibatch; '
      f'got {got}.'
    )


def _check_finite(family: types.Refinements, center_loss: float) -> None:
  if not np.isfinite(center_loss):
    raise ValueError(
      'The loss must be finite at the checkpoint, because chains start there; '
      f'got {center_loss} for {family.names[0]!r} on the first minibatch. No '
      'step size helps: look for NaN in the data or the weights, ids outside '
      'the vocabulary, or the logarithm of a number that is not positive.'
    )


# Of the loss at the checkpoint, by how products are rounded: the two halves of
# a loss may add up in different orders.
_SAME_LOSS = {'float32': 1e-5, 'tensorfloat32': 1e-3, 'bfloat16': 1e-2}
_NOTICEABLE = 1e-3  # Of an estimate: less is nobody's concern.


def check_first_draw(
  names: Sequence[str],
  traces: Mapping[str, np.ndarray],
  posterior: types.Posterior,
  matmul_precision: str,
) -> None:
  """Raises unless the loss is that at the checkpoint where chains start there.

  The halves of a loss meet at draw 0, so this costs nothing and sees any loss
  at the checkpoint that belongs to another function.

  Args:
    names: N, of the columns.
    traces: `loss` and `center_loss`, [K, N, D], from draw 0 on.
    posterior: n beta, which says what matters.
    matmul_precision: of the run.
  """
  loss, center = (
    np.asarray(traces[x][:, :, 0], np.float64) for x in ('loss', 'center_loss')
  )
  gap = abs(loss - center)
  wrong = gap > _SAME_LOSS[matmul_precision] * abs(center)
  wrong &= float(posterior.nbeta) * gap > _NOTICEABLE
  for row, column in np.argwhere(wrong):
    raise ValueError(
      'The two halves of a loss must agree at the checkpoint, where all chains '
      f'start; got a loss of {loss[row, column]:.8g} for {names[column]!r} and '
      f'a center loss of {center[row, column]:.8g} from the context. Both '
      'must be of one function, on the same minibatch.'
    )


def _check_full_data(subject: Subject) -> None:
  """Raises if two draws differ, for a kernel whose law minibatches break."""
  draw, data = subject.minibatches.draw, subject.minibatches.data
  batches = [draw(_key(i), jnp.int32(i), data, subject.window) for i in (0, 1)]
  if not _same(*batches):
    raise ValueError(
      f'{subject.sampler.name} must see all of the data at every step, because '
      'with minibatches its law is neither exact nor that of any other kernel; '
      'got minibatches that differ. Give rllc_jax.full(data), which is '
      'batch_size=None in estimate_llc, or take leimkuhler_matthews().'
    )


class Evaluation(NamedTuple):
  """A loss at a position, on one minibatch.

  Attributes:
    loss: [].
    gradient: that of the loss, like the position.
    value: [], what the gradient is that of: the loss, or what drives chains.
    center_loss: [], the loss at the checkpoint.
    observed: what `observe` says there.
  """

  loss: jax.Array
  gradient: types.Position
  value: jax.Array
  center_loss: jax.Array
  observed: Mapping[str, jax.Array]


# evaluate(params, position, index) -> Evaluation.
Evaluate = Callable[[types.Params, types.Position, types.Index], Evaluation]


def evaluator(family: types.Refinements, subject: Subject) -> Evaluate:
  """The loss of a family on a fixed minibatch, compiled once a family."""
  draw, data = subject.minibatches.draw, subject.minibatches.data
  compiled = _evaluation(family.loss, draw, subject.observe)

  def evaluate(params, position, index):
    with compilation.matmul_precision_scope('float32'):
      return compiled(params, position, index, data, subject.window)

  return evaluate


@functools.lru_cache(maxsize=64)
def _evaluation(
  loss: types.RefinedLoss, draw: types.Draw, observe: types.Observe | None
) -> Callable[..., Evaluation]:
  @jax.jit
  def evaluate(params, position, index, data, window):
    batch = draw(_key(0), jnp.int32(0), data, window)
    context, center_loss = loss.context(params, batch)
    here, gradient = jax.value_and_grad(loss.loss)(position, context, index)
    value = here
    if loss.driven_by is not None:
      value = loss.driven_by(position, context, index)
    observed = dict(observe(position, context)) if observe else {}
    return Evaluation(here, gradient, value, center_loss, observed)

  return evaluate


def _key(i: int) -> types.Key:
  return jax.random.key(i, impl='threefry2x32')


# What a loss is, for the identity of a store.


def identity_of_losses(
  family: types.Refinements, subject: Subject, step: int, dataset: str
) -> dict[str, dict[str, Any]]:
  """Numbers that tell one loss, gradient or observation from another.

  Of every member on one minibatch: at the checkpoint, and away from two sets of
  weights that are made up, so that other checkpoints can be compared, too.

  Args:
    family: whose members.
    subject: what they are tried on.
    step: the training step of its checkpoint.
    dataset: the name of its data set.

  Returns:
    'losses' and 'observed': by data set, member (and step), the kind of device
    and three numbers a point: loss, norm of the gradient, and one between the
    norm and three times the norm that depends on its direction.
  """
  evaluate, params = evaluator(family, subject), subject.params
  device = jax.devices()[0].device_kind
  made_up = [_made_up(params, seed) for seed in (0, 1)]
  losses: dict[str, Any] = {}
  observed: dict[str, Any] = {}
  for place, name in enumerate(family.names):
    index = member(family, place)
    extract = lambda weights, index=index: family.lens.extract(weights, index)
    here = evaluate(params, extract(params), index)
    moved = [jax.tree.map(lambda u: u + 0.1, extract(x)) for x in made_up]
    away = [evaluate(*x, index) for x in zip(made_up, moved, strict=True)]
    losses[f'{step}/{dataset}/{name}'] = _numbers([here, *away], device)
    losses[f'{dataset}/{name}'] = _numbers(away, device)
    for what in here.observed:
      observed[f'{dataset}/{name}/{what}'] = _seen(away, what, device)
  return {'losses': losses, 'observed': observed}


def _numbers(points: Sequence[Evaluation], device: str) -> dict[str, Any]:
  values = []
  for point in points:
    flat = np.asarray(ravel_pytree(point.gradient)[0], np.float64)
    norm = float(np.linalg.norm(flat))
    values.append([float(point.loss), norm, 2 * norm + _along(flat)])
  return {'device': device, 'values': values}


def _seen(points: Sequence[Evaluation], what: str, device: str):
  """Kind and numbers of one observation."""
  arrays = [np.asarray(point.observed[what]) for point in points]
  flats = [array.astype(np.float64).ravel() for array in arrays]
  values = [[float(np.linalg.norm(x)), _along(x)] for x in flats]
  kind = f'{arrays[0].dtype}{list(arrays[0].shape)}'
  return {'device': device, 'kind': kind, 'values': values}


def _along(flat: np.ndarray) -> float:
  """The part of a vector along one fixed random direction."""
  direction = np.random.default_rng(0).normal(size=flat.size)
  return float(flat @ direction / max(np.linalg.norm(direction), 1e-30))


def _made_up(params: types.Params, seed: int) -> types.Params:
  """Small normal numbers in place of every leaf of floating point."""
  leaves, structure = jax.tree.flatten(params)
  rng = np.random.default_rng(seed)

  def normal(leaf):
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
      return leaf
    return jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype)

  return structure.unflatten(map(normal, leaves))
