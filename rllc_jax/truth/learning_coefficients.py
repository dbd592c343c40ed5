r"""Learning coefficients and multiplicities in closed form.

As :math:`n\beta` grows,

.. math:: Z(n\beta) = \int e^{-n\beta K(w)}\,dw
  \sim c\,(\ln n\beta)^{m-1} (n\beta)^{-\lambda},

where :math:`\lambda` is the learning coefficient of K and m its multiplicity
(Watanabe, "Algebraic Geometry and Statistical Learning Theory", 2009). Hence
:math:`E[n\beta K] = -\partial \ln Z / \partial \ln n\beta` tends to
:math:`\lambda`, for m > 1 as slowly as :math:`(m - 1) / \ln n\beta` falls. So
compare an estimate at one :math:`n\beta` with the exact value there
(`truth.finite_temperature`), not with :math:`\lambda`.

**A trap: global and local.** For linear networks the literature gives the
*global* coefficient, the least over all true parameters. It belongs to the most
degenerate ones, such as w* = 0 at rank 0. An estimate is local to one
checkpoint. A random true parameter, or a trained one, can have a larger
coefficient: for two layers 4 -> 4 -> 4 of product 0,

>>> print(reduced_rank_regression(4, 4, 4, rank=0))
λ = 6, m = 1
>>> for first in range(5):
...   print(first, local_reduced_rank_regression(
...       4, 4, 4, ranks=(first, 0), rank=0))
0 λ = 6, m = 1
1 λ = 6, m = 1
2 λ = 6, m = 1
3 λ = 6.5, m = 1
4 λ = 8, m = 1

(a first layer of full rank leaves a bowl of 16 directions). So test an
estimator against the global value at the most degenerate parameter, or against
the local value of the parameter at hand.
"""

from collections.abc import Sequence
import itertools
import math
from typing import NamedTuple


class LearningCoefficient(NamedTuple):
  """The order of a singular integral.

  Attributes:
    value: lambda.
    multiplicity: m, at least 1.
  """

  value: float
  multiplicity: int

  def __str__(self) -> str:
    return f'λ = {self.value:g}, m = {self.multiplicity}'


def leading_order(coefficient: LearningCoefficient, nbeta: float) -> float:
  r"""Approximates E[n beta K] by :math:`\lambda - (m - 1) / \ln n\beta`.

  These are the first two terms at large n beta. It is no value to test against:
  the rest falls like :math:`1 / \ln^2 n\beta`, and depends on the localization.

  Examples:
    >>> print(f'{leading_order(LearningCoefficient(5, 25), nbeta=1e12):.4f}')
    4.1314
  """
  if not nbeta > 1:
    raise ValueError(
      'nbeta must be over 1, because the expansion is in 1 / ln nbeta; got '
      f'{nbeta}.'
    )
  return coefficient.value - (coefficient.multiplicity - 1) / math.log(nbeta)


def normal_crossing(powers: Sequence[int]) -> LearningCoefficient:
  r"""The coefficient of :math:`K = \prod_i w_i^{2 k_i}` at 0.

  :math:`\lambda = \min_i 1 / 2 k_i`, and m counts the i that attain it.

  Args:
    powers: the k_i, not the exponents: half of those.

  Raises:
    ValueError: if a power is negative or all are 0.

  Examples:
    >>> print(normal_crossing((1, 1)), '|', normal_crossing((1, 3)))
    λ = 0.5, m = 2 | λ = 0.166667, m = 1
  """
  if min(powers, default=0) < 0 or not any(powers):
    raise ValueError(
      'powers must be at least 0 and not all 0, because a loss is 0 at the '
      f'true parameter; got {tuple(powers)}.'
    )
  most = max(powers)
  return LearningCoefficient(0.5 / most, list(powers).count(most))


def weighted_homogeneous(weights: Sequence[float]) -> LearningCoefficient:
  r"""The coefficient of a weighted homogeneous loss, at 0.

  Such a K has :math:`K(t^{a_1} w_1, t^{a_2} w_2, \dots) = t\,K(w)`.

  :math:`\lambda = \sum_i a_i`, if K vanishes at 0 alone; and without
  localization E[n beta K] is that *at every* n beta, because scaling w by its
  weights takes n beta out of the integral.

  Args:
    weights: the a_i: 1 / p for a coordinate that enters as :math:`|w|^p`.

  Raises:
    ValueError: if a weight is not positive.

  Examples:
    x^2 + x y^2 + y^4 scales with t for the weights 1/2 and 1/4.

    >>> print(weighted_homogeneous((1 / 2, 1 / 4)))
    λ = 0.75, m = 1
  """
  if not weights or min(weights) <= 0:
    raise ValueError(
      'weights must be positive, because K vanishes at 0 alone; got '
      f'{tuple(weights)}.'
    )
  return LearningCoefficient(math.fsum(weights), 1)


def reduced_rank_regression(
  inputs: int, hidden: int, outputs: int, rank: int
) -> LearningCoefficient:
  """The global coefficient of two linear layers inputs -> hidden -> outputs.

  Aoyagi and Watanabe, "Stochastic complexities of reduced rank regression in
  Bayesian estimation", Neural Networks 18 (2005).

  Args:
    inputs: width of the input.
    hidden: width of the hidden layer.
    outputs: width of the output.
    rank: of the true matrix, which is outputs x inputs.

  Raises:
    ValueError: if the network cannot have a product of that rank.

  Examples:
    >>> for sizes in ((2, 2, 2), (5, 3, 5), (4, 3, 8)):
    ...   print(*(reduced_rank_regression(*sizes, rank=r) for r in (0, 1)))
    λ = 1.5, m = 1 λ = 2, m = 2
    λ = 6.5, m = 2 λ = 8, m = 1
    λ = 6, m = 1 λ = 8.5, m = 1
  """
  _check_rank((inputs, hidden, outputs), rank)
  M, H, N, r = inputs, hidden, outputs, rank
  # The cases of the theorem.
  if M + H < N + r:
    return LearningCoefficient((H * M - H * r + N * r) / 2, 1)
  if N + H < M + r:
    return LearningCoefficient((H * N - H * r + M * r) / 2, 1)
  if M + N < H + r:
    return LearningCoefficient(M * N / 2, 1)
  eighths = 2 * (H + r) * (M + N) + 2 * M * N - (H + r) ** 2 - M**2 - N**2
  odd = (M + H + N + r) % 2
  return LearningCoefficient((eighths + odd) / 8, 1 + odd)


def deep_linear_network(
  widths: Sequence[int], rank: int
) -> LearningCoefficient:
  r"""The global coefficient of L linear layers.

  Aoyagi, "Consideration on the learning efficiency of multiple-layered neural
  networks with linear units", Neural Networks 172 (2024) 106132, theorem 1.
  With :math:`\Delta_s = H_s - r`, the :math:`\ell + 1` smallest count:

  .. math::
    \sum_{j \le \ell} \Delta_j \ge \ell \max_{j \le \ell} \Delta_j, \qquad
    \sum_{j \le \ell} \Delta_j < \ell \min_{j > \ell} \Delta_j

  Args:
    widths: input, hidden ones and output: L + 1.
    rank: r, of the true matrix.

  Raises:
    ValueError: if the network cannot have a product of that rank.

  Examples:
    >>> for widths in ((2, 2, 2, 2), (4, 4, 4, 4), (6, 5, 4, 5, 6)):
    ...   print(*(deep_linear_network(widths, rank=r) for r in (0, 1)))
    λ = 1.5, m = 3 λ = 2, m = 3
    λ = 5.5, m = 3 λ = 6.5, m = 1
    λ = 8, m = 5 λ = 10.5, m = 4
    >>> print(deep_linear_network(11 * (4,), rank=0))
    λ = 5, m = 25
  """
  _check_rank(widths, rank)
  excess = _counted(sorted(width - rank for width in widths))
  ell, total = len(excess) - 1, sum(excess)
  remainder = total - (math.ceil(total / ell) - 1) * ell
  spread = remainder * (ell - remainder)
  pairs = sum(a * b for a, b in itertools.combinations(excess, 2))
  regular = (rank * (widths[0] + widths[-1]) - rank**2) / 2
  singular = (spread - (ell - 1) * total**2) / (4 * ell) + pairs / 2
  return LearningCoefficient(regular + singular, spread + 1)


def _counted(excess: list[int]) -> list[int]:
  """The smallest excess widths, as many as the theorem counts."""
  for size in range(2, len(excess)):
    total, ell = sum(excess[:size]), size - 1
    # The next width is at least the largest so far, so this one condition
    # first holds where both do.
    if total < ell * excess[size]:
      return excess[:size]
  return excess


def local_reduced_rank_regression(
  inputs: int, hidden: int, outputs: int, *, ranks: tuple[int, int], rank: int
) -> LearningCoefficient:
  r"""The local coefficient of two linear layers at layers of given ranks.

  At layers (A*, B*) of ranks (a, b) whose product has rank r, row operations
  leave q = Ma + bN - ab regular directions (N inputs, M outputs) beside a
  two-layer network at 0, of widths n = N - a, h = H - a - b + r, p = M - b:

  .. math:: \lambda = \tfrac12 \bigl(q + \min_{0 \le t \le \min(h, n)} c_t
    \bigr), \qquad c_t = hn + t(p - h - n) + t^2

  m counts the t that attain the minimum. (The form of a candidate proof at
  github.com/lionellevine/MAIS/issues/3.) At ranks (r, r) it is the global one.

  Args:
    inputs: N, width of the input.
    hidden: H, width of the hidden layer.
    outputs: M, width of the output.
    ranks: (a, b), of the first layer, H x N, and of the second, M x H.
    rank: r, of their product.

  Raises:
    ValueError: if no layers of these widths have these ranks.

  Examples:
    >>> print(local_reduced_rank_regression(5, 3, 5, ranks=(3, 0), rank=0))
    λ = 7.5, m = 1
  """
  _check_rank((inputs, hidden, outputs), rank)
  a, b = ranks
  possible = rank <= min(a, b) and a + b - rank <= hidden
  if not possible or a > min(inputs, hidden) or b > min(hidden, outputs):
    raise ValueError(
      f'ranks must lie between rank and the widths of their layers and add up '
      f'to at most hidden + rank, because no other layers exist; got {ranks} '
      f'for rank {rank} of {inputs} -> {hidden} -> {outputs}.'
    )
  n, h, p = inputs - a, hidden - a - b + rank, outputs - b
  regular = outputs * a + b * inputs - a * b
  costs = [h * n + t * (p - h - n) + t * t for t in range(min(h, n) + 1)]
  least = min(costs)
  return LearningCoefficient((regular + least) / 2, costs.count(least))


def _check_rank(widths: Sequence[int], rank: int) -> None:
  """Raises ValueError unless a network of these widths can have this rank."""
  if len(widths) < 2 or min(widths) < 1:
    raise ValueError(
      'widths must be at least two positive numbers, because a layer maps '
      f'from one to the next; got {tuple(widths)}.'
    )
  if not 0 <= rank <= min(widths):
    raise ValueError(
      f'rank must lie between 0 and the least width, {min(widths)}, because '
      f'the product passes through it; got {rank}.'
    )
