"""Losses with known answers, and the settings to sample them.

Every exact value is that at the problem's n beta, localization and step size
(`truth.finite_temperature`). Freezing coordinates makes another problem with
another answer: each family has such restricted cases.
"""

from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rllc_jax import types
from rllc_jax.refinement import masks
from rllc_jax.refinement import weights
from rllc_jax.truth import finite_temperature
from rllc_jax.truth import learning_coefficients
from rllc_jax.truth import toy
from rllc_jax.truth import two_layer_linear


class Sampling(NamedTuple):
  """Settings and lengths of the chains of a problem.

  Attributes:
    nbeta: n beta.
    localization: gamma.
    step_size: epsilon.
    num_chains: C.
    num_steps: after the burn-in.
    burn_in: steps.
  """

  nbeta: float
  localization: float
  step_size: float
  num_chains: int
  num_steps: int
  burn_in: int

  @property
  def posterior(self) -> types.Posterior:
    return types.Posterior(self.nbeta, self.localization)


class Problem(NamedTuple):
  """A loss with its free coordinates, its sampling and its exact value.

  Attributes:
    family: of the loss.
    name: of the loss and its frozen coordinates.
    loss: with w* and data.
    coefficient: lambda and m, of the free coordinates.
    exact: the limit of the estimate; None if there is no formula.
    sampling: settings and lengths.
    moves: lens and index of the free coordinates; None if all are free.
    largest_error: limit of the standard error, as a share of `exact`.
    note: remark for the table.
  """

  family: str
  name: str
  loss: toy.Toy
  coefficient: learning_coefficients.LearningCoefficient
  exact: float | None
  sampling: Sampling
  moves: tuple[types.Lens, Any] | None = None
  largest_error: float = 0.03
  note: str = ''


def problems(quick: bool = False) -> Iterator[Problem]:
  """Yields all problems, family by family; one or two of each if quick."""
  for family in (bowls, powers, crossings, two_layers, deep_networks):
    yield from family(quick)


def bowls(quick: bool) -> Iterator[Problem]:
  """Quadratic losses, with the exact bias of the step size, up to a third."""
  ones, uneven = np.ones(10), np.logspace(-3, 0, 10)
  even_bowl, uneven_bowl = toy.quadratic_toy(ones), toy.quadratic_toy(uneven)
  every_third = np.arange(10) % 3 == 0
  yield _bowl(
    '10 directions',
    even_bowl,
    ones,
    Sampling(30, 200, 1e-3, 64, 4000, 200),
    note='set by γ, as refined LLCs in practice are',
  )
  if quick:
    return
  for sampling in (
    Sampling(100, 0, 1e-3, 64, 4000, 500),
    Sampling(100, 0, 1e-2, 64, 4000, 500),
    Sampling(100, 100, 1e-3, 64, 4000, 500),
    Sampling(1000, 1, 1e-4, 64, 8000, 500),
  ):
    yield _bowl('10 directions', even_bowl, ones, sampling)
  long = Sampling(1e3, 10, 1e-3, 64, 20_000, 2000)
  yield _bowl('10 uneven directions', uneven_bowl, uneven, long)
  yield _bowl(
    '4 of 10 uneven directions',
    uneven_bowl,
    uneven[every_third],
    long,
    moves=(masks.coordinates(), masks.mask_index(every_third, uneven)),
  )


def powers(quick: bool) -> Iterator[Problem]:
  """Weighted homogeneous losses without localization.

  There E[n beta K] is lambda at every n beta.
  """
  family, name = 'weighted homogeneous', 'x² + x y² + y⁴'
  loss = toy.Polynomial((1.0, 1.0, 1.0), ((2, 0), (1, 2), (0, 4)))
  coefficient = learning_coefficients.weighted_homogeneous
  first = Sampling(1e2, 0, 2e-4, 64, 100_000, 10_000)
  all_free = coefficient((1 / 2, 1 / 4))
  yield _polynomial(family, name, loss, all_free, first)
  if quick:
    return
  frozen = f'{name}, x frozen at 0'
  yield _polynomial(
    family, frozen, loss, coefficient((1 / 4,)), first, frozen=(0.0, None)
  )
  second = Sampling(1e4, 0, 5e-6, 64, 400_000, 40_000)
  yield _polynomial(family, name, loss, all_free, second)


def crossings(quick: bool) -> Iterator[Problem]:
  """Normal crossings, far below lambda at any n beta that can be sampled."""
  family = 'normal crossing'
  cross, coefficient = (
    toy.normal_crossing,
    learning_coefficients.normal_crossing,
  )
  short = Sampling(144.76, 10, 5e-4, 64, 100_000, 8000)
  for powers, name, frozen in (
    ((1, 1), 'x² y²', None),
    ((1, 1), 'x² y², y frozen at ½', (None, 0.5)),
    ((1, 2), 'x² y⁴', None),
    ((1, 2), 'x² y⁴, x frozen at ½', (0.5, None)),
    ((1, 1, 1), 'x² y² z²', None),
  )[: 1 if quick else None]:
    values = frozen or len(powers) * (None,)
    free = [k for k, v in zip(powers, values, strict=True) if v is None]
    yield _polynomial(
      family, name, cross(powers), coefficient(free), short, frozen
    )
  if quick:
    return
  for sampling in (
    Sampling(1085.7, 10, 1e-4, 64, 400_000, 40_000),
    Sampling(144.76, 1, 1e-4, 64, 1_000_000, 200_000),
  ):
    yield _polynomial(
      family, 'x² y²', cross((1, 1)), coefficient((1, 1)), sampling
    )


def two_layers(quick: bool) -> Iterator[Problem]:
  """Two linear layers at 0, with one frozen, and away from 0.

  Flat directions relax in 2 / (epsilon gamma) steps; at 0 everything is flat.
  Steps are 100 / (epsilon gamma) at least, after a burn-in of a fifth of that.
  """
  small, wide, square = (2, 2, 2), (5, 3, 5), (4, 4, 4)
  yield _at_zero(small, Sampling(1e4, 100, 5e-5, 16, 80_000, 4000))
  draw = np.random.default_rng(0).normal
  yield _network(
    'two linear layers',
    '5→3→5, the second layer frozen',
    [draw(size=(3, 5)), draw(size=(5, 3))],
    Sampling(1e3, 10, 5e-5, 32, 20_000, 4000),
    layer='layer_0',
  )
  if quick:
    return
  for widths, sampling in (
    (wide, Sampling(1e4, 100, 5e-5, 16, 80_000, 4000)),
    (square, Sampling(1e4, 100, 5e-5, 16, 80_000, 4000)),
    (small, Sampling(1e4, 10, 1e-5, 16, 1_000_000, 200_000)),
    (wide, Sampling(1e4, 10, 1e-5, 16, 1_000_000, 200_000)),
    (square, Sampling(1e4, 10, 1e-5, 16, 1_000_000, 200_000)),
    (small, Sampling(1e4, 1, 5e-6, 8, 20_000_000, 4_000_000)),
    (wide, Sampling(1e4, 1, 5e-6, 4, 20_000_000, 4_000_000)),
    (square, Sampling(1e4, 1, 5e-6, 4, 20_000_000, 4_000_000)),
  ):
    yield _at_zero(widths, sampling)
  rotation = np.linalg.qr(draw(size=(4, 4)))[0]
  yield _network(
    'two linear layers',
    '4→4→4 at ranks (4, 0)',
    [rotation, np.zeros((4, 4))],
    Sampling(1e6, 1e4, 1e-7, 32, 20_000, 2000),
    note='λ is the local one; the global one, at ranks (0, 0), is 6',
  )


def deep_networks(quick: bool) -> Iterator[Problem]:
  """Ten linear layers: bowls at full rank, far from lambda at rank 0."""
  family, draw = 'deep linear network', np.random.default_rng(1).normal
  yield _network(
    family,
    'one of ten 32×32 layers',
    [np.eye(32) + 0.02 * draw(size=(32, 32)) for _ in range(10)],
    Sampling(1e5, 1e4, 5e-7, 4, 1000, 200),
    layer='layer_4',
  )
  if quick:
    return
  # The loss depends on 1,024 of 10,240 directions, which relax in four steps.
  # The remaining ones still spread after the burn-in, without effect: the
  # network is the same bowl everywhere along them.
  yield _network(
    family,
    'ten 32×32 layers at 1',
    10 * [np.eye(32)],
    Sampling(1e7, 1e4, 5e-9, 4, 2000, 100),
  )
  coefficient = learning_coefficients.deep_linear_network(11 * (4,), 0)
  leading = learning_coefficients.leading_order(coefficient, 1e4)
  yield Problem(
    family,
    'ten 4×4 layers at 0',
    toy.linear_network_toy(10 * [np.zeros((4, 4))]),
    coefficient,
    None,
    Sampling(1e4, 3, 5e-5, 8, 100_000, 100_000),
    note=f'no exact value is known; λ − (m − 1) / ln nβ = {leading:.3g}',
  )


def _bowl(
  name: str,
  loss: toy.Toy,
  curvatures: np.ndarray,
  sampling: Sampling,
  *,
  family: str = 'bowl',
  **options: Any,
) -> Problem:
  exact = finite_temperature.quadratic(
    curvatures, sampling.posterior, sampling.step_size
  )
  half = len(curvatures) / 2
  coefficient = learning_coefficients.LearningCoefficient(half, 1)
  return Problem(
    family,
    name,
    loss,
    coefficient,
    exact,
    sampling,
    largest_error=0.01,
    **options,
  )


def _polynomial(
  family: str,
  name: str,
  polynomial: toy.Polynomial,
  coefficient: learning_coefficients.LearningCoefficient,
  sampling: Sampling,
  frozen: Sequence[float | None] | None = None,
) -> Problem:
  free, center, moves = polynomial, None, None
  if frozen:
    free = toy.freeze(polynomial, frozen)
    center = np.array([value or 0.0 for value in frozen])
    mask = np.array([value is None for value in frozen])
    moves = (masks.coordinates(), masks.mask_index(mask, center))
  exact = finite_temperature.polynomial(
    free, sampling.posterior, sampling.step_size
  )
  loss = toy.polynomial_toy(polynomial, center)
  return Problem(family, name, loss, coefficient, exact, sampling, moves)


def _at_zero(widths: tuple[int, int, int], sampling: Sampling) -> Problem:
  inputs, hidden, outputs = widths
  layers = [np.zeros((hidden, inputs)), np.zeros((outputs, hidden))]
  return Problem(
    'two linear layers',
    '→'.join(map(str, widths)) + ' at 0',
    toy.linear_network_toy(layers),
    learning_coefficients.reduced_rank_regression(*widths, rank=0),
    two_layer_linear.at_zero(widths, sampling.posterior, sampling.step_size),
    sampling,
  )


def _network(
  family: str,
  name: str,
  layers: Sequence[np.ndarray],
  sampling: Sampling,
  *,
  layer: str | None = None,
  note: str = '',
) -> Problem:
  """A network whose loss is a bowl, with the eigenvalues of its Hessian."""
  loss = toy.linear_network_toy(layers)
  moves = (weights.subtree(layer), np.int32(0)) if layer else None
  lens, index = moves or (weights.all_weights(), np.int32(0))
  curvatures = toy.squared_norm_curvatures(
    lambda u: toy.linear_network_residual(
      lens.insert(u, loss.params, index), loss.data
    ),
    lens.extract(loss.params, index),
  )
  return _bowl(
    name, loss, curvatures, sampling, family=family, moves=moves, note=note
  )
