r"""Is a gradient that of the loss: finite differences, leaf by leaf.

A `stop_gradient`, a custom derivative or a rounding within the loss leaves its
values right and sends the chains elsewhere. At a point as far from the
checkpoint as chains go, each leaf is moved along a random direction; never
along the gradient, which is blind to a leaf that it leaves out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types

_TOLERANCE = 0.05  # Of a slope, where a loss is smooth.
# Of a gap: over a shorter way curvature and kinks take more, noise adds more.
_FADING = 0.3
_POINTS, _MORE_POINTS, _MAJORITY = 2, 1, 2  # One may lie beside a kink.
_LENGTHS = (1 / 2, 1 / 16, 1 / 128)  # Of a chain's width.
_ROUNDINGS = 8  # Units of the last place that a mean of many losses is off by.
_WIDTH_STEPS = 8
_NOTICEABLE = 0.1  # Of the potential: finer than this, chains see no rounding.

# evaluate(position) -> what has `value` [] and `gradient`, like the position.
Evaluate = Callable[[types.Position], Any]
Probe = Callable[[list[np.ndarray]], Any]  # The same, of leaves.


class _Start(NamedTuple):
  """A point one chain's width from the center.

  Attributes:
    point: leaves.
    there: what `evaluate` gives.
    width: of a chain, a coordinate.
    rounding: of the loss there, in nats: a model may compute in less than its
      weights have.
  """

  point: list[np.ndarray]
  there: Any
  width: float
  rounding: float


class _Slope(NamedTuple):
  """A slope along a random direction of one leaf, at one point.

  Attributes:
    measured: by a central difference.
    claimed: by the gradient.
    rounding: error of the former from the loss's rounding.
  """

  measured: float
  claimed: float
  rounding: float

  @property
  def size(self) -> float:
    """The larger of the two."""
    return max(abs(self.measured), abs(self.claimed))

  @property
  def gap(self) -> float:
    """The distance between the two."""
    return abs(self.measured - self.claimed)

  @property
  def is_blurred(self) -> bool:
    """True if rounding would hide such a slope."""
    return not self.size > 2 * self.rounding

  @property
  def agrees(self) -> bool:
    """True unless the two differ by more than curvature and rounding explain.

    Where the loss is not finite there is nothing to compare.
    """
    return not self.gap > _TOLERANCE * self.size + 2 * self.rounding


def check(
  name: str,
  evaluate: Evaluate,
  center: types.Position,
  posterior: types.Posterior,
) -> None:
  """Raises unless the gradient is that of the loss near the checkpoint.

  Warns if rounding hides the slopes of all leaves and is large enough to count.

  Args:
    name: of the refinement, for messages.
    evaluate: value and gradient on one fixed minibatch.
    center: the weights that move, at the checkpoint.
    posterior: n beta and gamma, which set how far chains go.

  Raises:
    ValueError: naming a leaf and both slopes.
  """
  leaves, structure = jax.tree.flatten(jax.device_get(center))
  paths = [
    jax.tree_util.keystr(path) or 'the weights that move'
    for path, _ in jax.tree_util.tree_leaves_with_path(center)
  ]
  probe: Probe = lambda arrays: evaluate(structure.unflatten(arrays))
  rng = np.random.default_rng(0)
  starts = [
    _start(probe, leaves, posterior, rng) for _ in range(_POINTS + _MORE_POINTS)
  ]
  blurred = []
  for place, path in enumerate(paths):
    look = lambda start, i=place: _slope_if_wrong(probe, start, i, rng)
    slopes = [*map(look, starts[:_POINTS])]
    if any(is_wrong for _, is_wrong in slopes):
      slopes += map(look, starts[_POINTS:])
    wrong = [slope for slope, is_wrong in slopes if is_wrong]
    if len(wrong) >= _MAJORITY:
      raise ValueError(
        f'The gradient of the loss must be that of its values; got, along a '
        f'random direction of {path} in {name!r}, a slope of '
        f'{wrong[0].claimed:.4g} by the gradient and {wrong[0].measured:.4g} '
        'by finite differences. Look for stop_gradient, a custom derivative, '
        'or rounding within the loss; what is done on purpose goes to '
        'RefinedLoss.driven_by.'
      )
    blurred += [slope.is_blurred for slope, _ in slopes]
  rounding = max(start.rounding for start in starts)
  if all(blurred) and float(posterior.nbeta) * rounding > _NOTICEABLE:
    warnings.warn(
      f'The gradient of {name!r} could not be checked against its loss, which '
      f'is rounded by some {rounding:.1g}, more than the chains would change '
      'it. Compute it in more digits, or take constants out of it.',
      stacklevel=2,
    )


def _start(probe: Probe, leaves, posterior, rng) -> _Start:
  noise = [rng.normal(size=leaf.shape) for leaf in leaves]
  value = float(probe(leaves).value)
  width = _width(
    lambda s: float(probe(_moved(leaves, noise, s)).value) - value,
    sum(leaf.size for leaf in leaves),
    posterior,
  )
  point = _moved(leaves, noise, width)
  there = probe(point)
  return _Start(point, there, width, _rounding(probe, point, noise, width))


def _rounding(probe: Probe, point, noise, width) -> float:
  """Estimates how rough the loss is, in nats: its distance from a smooth one.

  A model may compute in less than its weights have. By third differences, in
  which curvature does not show, and by the last place of half precision where
  all values are such.
  """
  ways = 0.01 * width * np.arange(9)
  values = np.array([probe(_moved(point, noise, way)).value for way in ways])
  third = np.diff(values.astype(np.float64), 3)
  rough = np.sqrt(np.mean(third**2) / 20)  # 1, 3, 3, 1: squares add up to 20.
  halves = values.astype(jnp.bfloat16)
  in_halves = bool((halves.astype(values.dtype) == values).all())
  last_half = np.spacing(abs(halves)).max() if in_halves else 0.0
  last_place = _ROUNDINGS * np.spacing(abs(values)).max()
  return float(max(rough, last_half, last_place))


def _width(rise, size, posterior) -> float:
  r"""The length at which the potential has risen by d / 2, as chains do.

  About :math:`1 / \sqrt{n\beta h + \gamma}` a coordinate. Found by a damped
  iteration, which converges in bowls and quartics alike.
  """
  nbeta, gamma = float(posterior.nbeta), float(posterior.localization)
  width = gamma**-0.5 if gamma else 1.0
  for _ in range(_WIDTH_STEPS):
    energy = nbeta * rise(width) + gamma / 2 * size * width**2
    if not np.isfinite(energy):
      width /= 10
      continue
    ratio = np.clip(size / 2 / energy, 1e-9, 1e9) if energy > 0 else 1.0
    width *= ratio ** (1 / 3)
    if 0.5 < ratio < 2:
      break
  return float(width)


def _slope_if_wrong(
  probe: Probe, start: _Start, place: int, rng
) -> tuple[_Slope, bool]:
  """The slope along one leaf, and whether the gradient is wrong there.

  The gap of a wrong gradient is the same over long and short ways. That of
  curvature and kinks fades over short ones; that of low precision grows.
  """
  direction = rng.normal(size=start.point[place].shape)
  measure = lambda length: _slope(probe, start, place, direction, length)
  long = measure(_LENGTHS[0])
  if long.agrees or long.is_blurred:
    return long, False
  stays = False
  for length in _LENGTHS[1:]:
    short = measure(length)
    if short.is_blurred:
      # Too coarse for a second look: but nothing has no slope by chance.
      return long, stays or long.claimed == 0
    if short.agrees or abs(short.measured - long.measured) > _FADING * long.gap:
      return short, False
    stays, long = True, short
  return long, True


def _slope(
  probe: Probe, start: _Start, place: int, direction, length: float
) -> _Slope:
  """Both slopes over a way of so many widths."""
  half = length * start.width
  moves = [np.zeros(leaf.shape) for leaf in start.point]
  moves[place] = direction
  ends = [_moved(start.point, moves, way) for way in (half, -half)]
  values = [np.asarray(probe(end).value) for end in ends]
  # As far as the ends are apart in the precision of the weights.
  way = np.subtract(*(end[place].astype(np.float64) for end in ends))
  leaf = jax.tree.leaves(start.there.gradient)[place]
  rise = float((np.asarray(leaf, np.float64) * way).sum())
  fall = float(values[0] - values[1])
  return _Slope(fall / (2 * half), rise / (2 * half), start.rounding / half)


def _moved(leaves, direction, length):
  return [
    (leaf + length * way).astype(leaf.dtype)
    for leaf, way in zip(leaves, direction, strict=True)
  ]
