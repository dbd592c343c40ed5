"""Losses of a language model, in nats per predicted token.

What a model says is compared with the tokens that follow, or with what another
model says of the same text. Either way it is a mean over predictions of

  weight (logsumexp(logits) - sum_v q_v logits_v) - what does not depend on them

where q puts all on the token that follows, or is the other model's softmax.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import types

# apply(params, tokens [B, T]) -> logits [B, T, V].
Apply = Callable[[types.Params, types.Array], types.Array]
# divergence(logits [..., V], of a reference [..., V]) -> [...].
Divergence = Callable[[types.Array, types.Array], types.Array]


def cross_entropy(logits: types.Array, targets: types.Array) -> types.Array:
  """-log softmax(logits)[target], [..., V] and integers [...] -> [...].

  Examples:
    >>> print(cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 1])))
    [1.3862944 1.3862944]
  """
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jax.nn.logsumexp(logits, axis=-1) - chosen


def soft_cross_entropy(
  logits: types.Array, reference: types.Array
) -> types.Array:
  """-sum_v softmax(reference)_v log softmax(logits)_v, [..., V] -> [...]."""
  odds = jax.nn.softmax(reference, axis=-1)
  return -jnp.sum(odds * jax.nn.log_softmax(logits, axis=-1), axis=-1)


def kl_divergence(logits: types.Array, reference: types.Array) -> types.Array:
  """KL(softmax(reference) || softmax(logits)), [..., V] -> [...].

  The soft cross-entropy less the entropy of the reference. No weight that moves
  is in the second: gradients and paired estimates of the two are the same.

  Examples:
    >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
    >>> print(kl_divergence(logits, logits))
    0.0
  """
  log_odds = jax.nn.log_softmax(reference, axis=-1)
  difference = log_odds - jax.nn.log_softmax(logits, axis=-1)
  return jnp.sum(jnp.exp(log_odds) * difference, axis=-1)


def next_token_loss(apply: Apply) -> types.LossFn:
  """The loss of predicting each token of a sequence from those before it.

  Args:
    apply: `apply(params, tokens [B, T]) -> logits [B, T, V]`.

  Returns:
    `loss_fn(params, batch) -> []`, mean over B (T - 1) predictions: the first
    token of a sequence is given, the logits at the last are not used. `batch`
    is [B, T], of any integer type, or `types.WeightedTokens`.
  """

  def loss_fn(params, batch):
    inputs, targets, weights = predictions(batch)
    return jnp.mean(weights * cross_entropy(apply(params, inputs), targets))

  return loss_fn


def reference_loss(
  apply: Apply, reference_apply: Apply, divergence: Divergence = kl_divergence
) -> types.LossFn:
  """How far a model is from another one, on the same contexts.

  The paper's second loss (Wang et al., 2410.02984, l = L1), with a one-layer
  transformer as the reference. It leaves open in which direction it takes the
  divergence: here the reference is the first argument of KL, so that weights
  that move stand in a cross-entropy as they do in training.

  Args:
    apply: of the model.
    reference_apply: of the reference.
    divergence: `kl_divergence` or `soft_cross_entropy`.

  Returns:
    `loss_fn({'model': params, 'reference': params}, batch) -> []`, mean over
    the predictions of `next_token_loss`. Let a lens see 'model' alone:
    `refinement.weights.within`.
  """

  def loss_fn(params, batch):
    inputs, _, weights = predictions(batch)
    logits = apply(params['model'], inputs)
    reference = reference_apply(params['reference'], inputs)
    return jnp.mean(weights * divergence(logits, reference))

  return loss_fn


class Predictions(NamedTuple):
  """What a batch asks of a model.

  Attributes:
    inputs: [B, T - 1], int32.
    targets: [B, T - 1], int32, the tokens after them.
    weights: [B, T - 1], or [] for the same everywhere.
  """

  inputs: types.Array
  targets: types.Array
  weights: types.Array


def predictions(batch: types.Batch) -> Predictions:
  """Splits sequences, [B, T] or `types.WeightedTokens`."""
  weights = jnp.ones(())
  if isinstance(batch, types.WeightedTokens):
    batch, weights = batch.tokens, batch.weights[:, 1:]
  if batch.shape[1] < 2:
    raise ValueError(
      'Sequences must be at least 2 tokens long, because the first predicts '
      f'the second; got {batch.shape[1]}.'
    )
  tokens = batch.astype(jnp.int32)
  return Predictions(tokens[:, :-1], tokens[:, 1:], weights)
