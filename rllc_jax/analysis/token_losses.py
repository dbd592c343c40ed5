"""The loss of every token, and scores that are differences of such losses."""

import functools

import jax
import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import frozen_layers

# Shapes: B sequences, T tokens of one, D = d_model.


@functools.partial(jax.jit, static_argnums=0)
def token_losses(
  model: attention_only.AttentionOnly, params: types.Params, batch: types.Array
) -> types.Array:
  """The loss of predicting each token, [B, T] -> [B, T - 1], in nats.

  Args:
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    batch: integers; entry j of a row is the loss of its token j + 1.
  """
  inputs, targets, _ = losses.predictions(batch)
  tiles = frozen_layers.default_tiles()
  normed = frozen_layers.final_norm(params, inputs, model.num_heads, tiles)
  return of_normed(params, normed, targets)


def of_normed(
  params: types.Params, normed: types.Array, targets: types.Array
) -> types.Array:
  """Losses from what is unembedded, [B, T, D] and [B, T] -> [B, T].

  No array of all logits is made: a tile of tokens has its own at a time.
  """
  W_U, b_U = params['unembed']['W_U'], params['unembed']['b_U']

  def of_token(token):
    x, target = token
    return losses.cross_entropy(x @ W_U + b_U, target)

  rows = normed.reshape(-1, normed.shape[-1]), targets.ravel()
  tile = frozen_layers.default_tiles().tokens
  return jax.lax.map(of_token, rows, batch_size=tile).reshape(targets.shape)


def in_context_score(
  losses_of_tokens: types.Array, late: int = 500, early: int = 50
) -> types.Array:
  """How much later tokens are easier, [B, T - 1] -> []; negative if they are.

  The mean loss of one token less that of an earlier one, as in Hoogland et al.
  (2402.02364), whose 500th and 50th token of a row these are: entries 498 and
  48, since the first is not predicted.

  Args:
    losses_of_tokens: from `token_losses`.
    late: which token of a row, counted from 1.
    early: likewise.

  Raises:
    ValueError: if rows are too short.
  """
  length = losses_of_tokens.shape[1] + 1
  if not 2 <= early < late <= length:
    raise ValueError(
      'Of a row an early token and a later one are compared, 2 <= early < late '
      f'<= {length}; got {early} and {late}.'
    )
  mean = jnp.mean(losses_of_tokens, axis=0)
  return mean[late - 2] - mean[early - 2]
