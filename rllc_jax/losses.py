"""Losses of a language model, in nats per predicted token."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rllc_jax import types


def cross_entropy(logits: types.Array, targets: types.Array) -> types.Array:
  """Mean of -log softmax(logits)[target].

  Args:
    logits: [..., V].
    targets: [...], integers.

  Examples:
    >>> print(cross_entropy(jnp.zeros((3, 4)), jnp.array([0, 1, 2])))
    1.3862944
  """
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - chosen)


def next_token_loss(
  apply: Callable[[types.Params, types.Array], types.Array],
) -> types.LossFn:
  """The loss of predicting each token of a sequence from those before it.

  Args:
    apply: `apply(params, tokens [B, T]) -> logits [B, T, V]`.

  Returns:
    `loss_fn(params, batch) -> []`, mean over B (T - 1) predictions: the first
    token of a sequence is given, the logits at the last are not used. `batch`
    is [B, T], of any integer type.
  """

  def loss_fn(params, batch):
    inputs, targets = inputs_and_targets(batch)
    return cross_entropy(apply(params, inputs), targets)

  return loss_fn


def inputs_and_targets(batch: types.Batch) -> tuple[types.Array, types.Array]:
  """Splits sequences [B, T] into inputs and targets, both [B, T-1] int32."""
  if batch.shape[1] < 2:
    raise ValueError(
      'Sequences must be at least 2 tokens long, because the first predicts '
      f'the second; got {batch.shape[1]}.'
    )
  tokens = batch.astype(jnp.int32)
  return tokens[:, :-1], tokens[:, 1:]
