"""Losses of a language model, in nats per predicted token.

A model's predictions are compared with the tokens that follow, or with another
model's predictions on the same text. Either way the loss is a mean over
predictions of

  weight (logsumexp(logits) - sum_v q_v logits_v) - a constant in the logits

where q is one-hot at the token that follows, or the other model's softmax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types

# A token that is not predicted: padding, in data for Hugging Face's models.
IGNORED = -100

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
    is [B, T], of any integer type, or `types.WeightedTokens`. Tokens of -100
    are not predicted: the mean is over the others of the batch, see
    `predictions`. `loss_fn.check(params, data)` refuses other ids outside the
    vocabulary.
  """

  def loss_fn(params, batch):
    inputs, targets, weights = predictions(batch)
    return jnp.mean(weights * cross_entropy(apply(params, inputs), targets))

  return _with_check(loss_fn, apply)


def _with_check(loss_fn: Any, apply: Apply) -> types.LossFn:
  """Gives a loss its attribute `check(params, data)`."""

  def check(params, data):
    # Shapes alone tell the vocabulary: no logits are computed.
    length = _tokens_of(data).shape[-1] - 1
    row = jax.ShapeDtypeStruct((1, length), jnp.int32)
    check_tokens(data, jax.eval_shape(apply, params, row).shape[-1])

  loss_fn.check = check
  return loss_fn


def _tokens_of(data: Any) -> types.Array | np.ndarray:
  """The tokens, [..., T], of what minibatches look into or are."""
  classed = isinstance(data, types.ClassedTokens | types.WeightedTokens)
  return data.tokens if classed else data


def check_tokens(data: types.PyTree, vocab_size: int) -> None:
  """Raises if a token is outside the vocabulary: JAX would read another row.

  Args:
    data: tokens [..., T], `types.ClassedTokens` or `types.WeightedTokens`.
    vocab_size: V; ids are 0 to V - 1, or -100.

  Raises:
    ValueError: naming the first id and where it stands.
  """
  tokens = np.asarray(_tokens_of(data))
  invalid = (tokens >= vocab_size) | ((tokens < 0) & (tokens != IGNORED))
  if invalid.any():
    index = tuple(int(i) for i in np.argwhere(invalid)[0])
    raise ValueError(
      f'Tokens must be ids from 0 to {vocab_size - 1}, the vocabulary of the '
      f'model, or {IGNORED} where nothing is predicted, because JAX reads '
      f'another row for any other; got {tokens[index]} at {list(index)}.'
    )


def reference_loss(
  apply: Apply, reference_apply: Apply, divergence: Divergence = kl_divergence
) -> types.LossFn:
  """The divergence of a model from a reference model, on the same contexts.

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

  return _with_check(
    loss_fn, lambda params, tokens: apply(params['model'], tokens)
  )


class Predictions(NamedTuple):
  """Inputs, targets and weights of the predictions in a batch.

  Attributes:
    inputs: [B, T - 1], int32; 0 in the place of -100.
    targets: [B, T - 1], int32, the tokens after them; 0 in the place of -100.
    weights: [B, T - 1], or [] for the same everywhere. 0 where -100 stands,
      the others scaled such that the mean over B (T - 1) is that over them.
  """

  inputs: types.Array
  targets: types.Array
  weights: types.Array


def predictions(batch: types.Batch) -> Predictions:
  """Splits sequences, [B, T] or `types.WeightedTokens`.

  Where some tokens are -100, the loss of a batch is the mean over its other
  predictions, as Hugging Face's models take it, and the loss that chains see
  is the mean of that over batches: where sequences are not padded alike it
  depends a little on the batch size. Weights of classes average 1 over a data
  set as they are, and -100 only takes its own share out of them.
  """
  weights = jnp.ones(())
  if isinstance(batch, types.WeightedTokens):
    batch, weights = batch.tokens, batch.weights[:, 1:]
  if len(batch.shape) != 2 or batch.shape[1] < 2:
    raise ValueError(
      'Sequences must be [B, T] with T at least 2 tokens, because the first '
      f'predicts the second; got shape {list(batch.shape)}. Cut a stream of '
      'tokens into rows.'
    )
  tokens = jnp.asarray(batch).astype(jnp.int32)
  if jnp.issubdtype(batch.dtype, jnp.unsignedinteger):  # Cannot hold -100.
    return Predictions(tokens[:, :-1], tokens[:, 1:], weights)
  predicted = tokens[:, 1:] != IGNORED
  if not weights.shape:
    # The mean over all places is then that over the predicted ones.
    weights = predicted.size / jnp.maximum(1, predicted.sum())
  weights = jnp.where(predicted, weights, 0.0)
  # JAX wraps -100 to another row; any valid id does, since its weight is 0.
  tokens = jnp.where(tokens == IGNORED, 0, tokens)
  return Predictions(tokens[:, :-1], tokens[:, 1:], weights)
