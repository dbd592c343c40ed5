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
import numpy as np

from rllc_jax import types

_TOLERANCE = 0.05  # Of the slope.
# A wrong gradient agrees along one direction in twelve by chance, and a right
# one disagrees beside a kink: two points, and two more if these differ.
_FIRST_POINTS, _MORE_POINTS = 2, 2
_LENGTHS = (
  0.5,
  1 / 16,
)  # Of a chain's width: the shorter asks more of float32.
_ROUNDINGS = 8  # Units of the last place that a mean of many losses is off by.
_WIDTH_STEPS = 8
_NOTICEABLE = 0.01  # Of the potential: finer than this, chains see no rounding.

# evaluate(position) -> what has `value` [] and `gradient`, like the position.
Evaluate = Callable[[types.Position], Any]


Probe = Callable[[list[np.ndarray]], Any]  # The same, of leaves.


class _Start(NamedTuple):
  """A point one chain's width from the center.

  Attributes:
    point: leaves.
    there: what `evaluate` gives.
    width: of a chain, a coordinate.
  """

  point: list[np.ndarray]
  there: Any
  width: float


class _Slope(NamedTuple):
  """A slope along a random direction of one leaf, []s.

  Attributes:
    measured: by a central difference.
    claimed: by the gradient.
    rounding: error of the former from float32.
    scale: what a typical slope of the leaf is.
  """

  measured: float
  claimed: float
  rounding: float
  scale: float

  @property
  def is_wrong(self) -> bool:
    """True if the two differ by more than rounding and curvature explain."""
    allowed = _TOLERANCE * max(abs(self.measured), self.scale) + self.rounding
    return abs(self.measured - self.claimed) > allowed

  @property
  def is_blurred(self) -> bool:
    """True if rounding would hide a slope of the typical size."""
    return self.rounding > max(abs(self.measured), self.scale)


def check(
  name: str,
  evaluate: Evaluate,
  center: types.Position,
  posterior: types.Posterior,
) -> None:
  """Raises unless the gradient is that of the loss near the checkpoint.

  Warns if float32 cannot tell for any leaf.

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
    _start(probe, leaves, posterior, rng)
    for _ in range(_FIRST_POINTS + _MORE_POINTS)
  ]
  blurred = []
  for place, path in enumerate(paths):
    slopes = [_slope(probe, x, place, rng) for x in starts[:_FIRST_POINTS]]
    if sum(slope.is_wrong for slope in slopes) == 1:
      slopes += [_slope(probe, x, place, rng) for x in starts[_FIRST_POINTS:]]
    wrong = [slope for slope in slopes if slope.is_wrong]
    if len(wrong) > 1:
      raise ValueError(
        f'The gradient of the loss must be that of its values; got, along a '
        f'random direction of {path} in {name!r}, a slope of '
        f'{wrong[0].claimed:.4g} by the gradient and {wrong[0].measured:.4g} '
        'by finite differences. Look for stop_gradient, a custom derivative, '
        'or rounding within the loss; what is done on purpose goes to '
        'RefinedLoss.driven_by.'
      )
    blurred += [slope.is_blurred for slope in slopes]
  last_place = float(np.spacing(abs(np.asarray(starts[0].there.value))))
  matters = float(posterior.nbeta) * last_place > _NOTICEABLE
  if all(blurred) and matters:
    warnings.warn(
      f'The gradient of {name!r} could not be checked against its loss: in '
      'float32 the loss is rounded by more than the chains would change it. '
      'Enable float64, or subtract what is constant from the loss.',
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
  return _Start(point, probe(point), width)


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


def _slope(probe: Probe, start: _Start, place: int, rng) -> _Slope:
  """Both slopes along one leaf; the shorter length if the longer disagrees."""
  point, there, width = start
  direction = [np.zeros(leaf.shape) for leaf in point]
  direction[place] = rng.normal(size=point[place].shape)
  gradient = np.asarray(jax.tree.leaves(there.gradient)[place], np.float64)
  claimed = float((gradient * direction[place]).sum())

  def measure(length):
    ends = [
      np.asarray(probe(_moved(point, direction, sign * length * width)).value)
      for sign in (1, -1)
    ]
    step = 2 * length * width
    rounding = _ROUNDINGS * float(np.spacing(abs(ends[0]))) / step
    scale = float(np.linalg.norm(gradient))
    return _Slope(float(ends[0] - ends[1]) / step, claimed, rounding, scale)

  long, short = _LENGTHS
  slope = measure(long)
  return measure(short) if slope.is_wrong else slope


def _moved(leaves, direction, length):
  return [
    (leaf + length * way).astype(leaf.dtype)
    for leaf, way in zip(leaves, direction, strict=True)
  ]
