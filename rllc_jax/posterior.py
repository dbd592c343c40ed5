r"""The localized, tempered posterior that the LLC is an expectation under.

:math:`n\beta` is one number here, and it is yours to choose: estimates at two
values of it are estimates of two things, often orders of magnitude apart, so
fix it for whatever is to be compared. `nbeta_from_*` are the conventions in
use. All are :math:`n / \ln n`, from :math:`\beta = 1 / \ln n`, where the
widely applicable Bayesian information criterion is evaluated (Watanabe, "A
Widely Applicable Bayesian Information Criterion", JMLR 2013). They differ in
what they count as n.
"""

from collections.abc import Callable
import math

from rllc_jax import trees
from rllc_jax import types


def localized_potential(
  loss: Callable[[types.Position], types.Array],
  center: types.Position,
  posterior: types.Posterior,
) -> types.Potential:
  r"""Returns the potential whose Gibbs measure is the localized posterior.

  The density over the weights that move is :math:`e^{-U(u)}`, with

  .. math:: U(u) = n\beta\,\ell(u) + \tfrac{\gamma}{2}\lVert u - u^*\rVert^2

  The loss is a mean, so `nbeta` alone sets the scale: a larger minibatch makes
  :math:`U` less noisy, not larger.

  Args:
    loss: `loss(position) -> []`, of this step's minibatch, in nats per token.
    center: :math:`u^*`, the part of the checkpoint that moves.
    posterior: :math:`n\beta` and :math:`\gamma`.

  Returns:
    The potential, in its parts.

  Examples:
    >>> import jax.numpy as jnp
    >>> potential = localized_potential(
    ...     lambda u: jnp.sum(u**2), jnp.zeros(2), types.Posterior(10.0, 4.0))
    >>> u = jnp.ones(2)
    >>> print(potential.nbeta * potential.loss(u) + potential.tether(u))
    24.0
  """

  def tether(position):
    displacement = trees.subtract(position, center)
    square = trees.dot(displacement, displacement)
    return 0.5 * posterior.localization * square

  return types.Potential(loss, tether, posterior.nbeta)


def nbeta_from_sequences(num_sequences: int) -> float:
  r"""The n beta of a data set whose n is its sequences: :math:`n / \ln n`.

  The textbook choice where examples are independent and the loss is a mean over
  examples. Of a language model, whose loss is a mean over tokens, it counts a
  sequence of a thousand tokens as one observation. It grows with the data:
  chains at its value need small steps, since curvatures grow with it.

  Lau et al. (AISTATS 2025) and the libraries validating_lambdahat and
  canonical-interp (`nbeta_from_dataset`) use it; lambda_hat and hijax with a
  further factor in front.

  Args:
    num_sequences: n, sequences (examples, images) of the training set.

  Raises:
    ValueError: if there are fewer than 2.

  Examples:
    >>> print(f'{nbeta_from_sequences(10**6):,.0f}')
    72,382
    >>> print(f'{nbeta_from_sequences(10**4):.0f}')
    1086
  """
  return _n_over_log_n('num_sequences', num_sequences)


def nbeta_from_tokens(num_tokens: int) -> float:
  r"""The n beta of a data set whose n is its tokens: :math:`n / \ln n`.

  With it :math:`n\,\ell` is minus the log likelihood of the corpus, which is
  what the theory tempers, as far as tokens are independent given those before
  them. What a token adds about the weights depends on its neighbors, so this is
  the upper end of what n can be. No library that we read does it; it is here
  for comparisons with the theory.

  Args:
    num_tokens: n, *predicted* tokens of the training set: N sequences of T
      tokens have N (T - 1), because the first is given.

  Raises:
    ValueError: if there are fewer than 2.

  Examples:
    >>> print(f'{nbeta_from_tokens(1000 * (65 - 1)):,.0f}')
    5,783
  """
  return _n_over_log_n('num_tokens', num_tokens)


def nbeta_from_batch(batch_size: int) -> float:
  r"""The n beta of a minibatch whose n is its sequences: :math:`m / \ln m`.

  Not the posterior of the data set: a far warmer one, that of m observations.
  It is used because chains move freely at it, and it is why values near 10 to
  30 are common for language models. It says nothing about how noisy minibatches
  are; the same n beta may be used with any batch size.

  It is `default_nbeta` of devinterp, which version 1 takes where none is given;
  the fixed default of canonical-interp is its value at 32.

  Args:
    batch_size: m, sequences of a gradient: with gradient accumulation, of all
      that are accumulated.

  Raises:
    ValueError: if it is under 2.

  Examples:
    >>> print(f'{nbeta_from_batch(32):.2f}, {nbeta_from_batch(64):.1f}')
    9.23, 15.4
  """
  return _n_over_log_n('batch_size', batch_size)


def nbeta_from_effective_size(effective_size: float) -> float:
  r"""The n beta of so many independent observations: :math:`n / \ln n`.

  For data that are neither independent sequence by sequence nor token by token:
  n is then what :func:`effective_size` says, or a choice. canonical-interp has
  it under this name.

  Args:
    effective_size: n, of the training set, in whatever it is counted.

  Raises:
    ValueError: if it is under 2.

  Examples:
    >>> print(f'{nbeta_from_effective_size(effective_size(1000, 64, 0.1)):.0f}')
    966
  """
  return _n_over_log_n('effective_size', effective_size)


def effective_size(
  num_sequences: int, length: int, correlation: float
) -> float:
  r"""The number of independent tokens that dependent ones are worth.

  .. math:: \frac{N T}{1 + (T - 1)\,\rho}

  the design effect of clusters of T with correlation :math:`\rho` within (Kish,
  "Survey Sampling", 1965): all :math:`N T` tokens at :math:`\rho = 0`, the N
  sequences at :math:`\rho = 1`. Measure :math:`\rho` at w*: the correlation of
  the losses of two tokens of one sequence.

  Args:
    num_sequences: N, sequences of the training set.
    length: T, predicted tokens of a sequence.
    correlation: rho, from 0 to 1.

  Raises:
    ValueError: if the correlation is not in that range.

  Examples:
    >>> print(effective_size(1000, 64, 0.0), effective_size(1000, 64, 1.0))
    64000.0 1000.0
  """
  if not 0 <= correlation <= 1:
    raise ValueError(
      'correlation must be from 0 to 1, because it is a share of a variance; '
      f'got {correlation}.'
    )
  return num_sequences * length / (1 + (length - 1) * correlation)


def _n_over_log_n(name: str, n: float) -> float:
  if not n >= 2:
    raise ValueError(
      f'{name} must be at least 2, because n / ln n grows without bound '
      f'towards 1; got {n}.'
    )
  return n / math.log(n)
