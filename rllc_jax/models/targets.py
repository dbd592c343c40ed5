"""Targets of a transformer's logits, in the form of the fast losses.

Every loss in `losses` is a sum over predictions n of

  weights_n (logsumexp(logits_n) - q_n . logits_n) - offset

and logits are affine in the normed residual stream x, so q_n . logits_n is
x_n . (W_U q_n) + b_U . q_n. The targets are brought into that form once a
minibatch. A chain then needs the vocabulary in logsumexp alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer


class Targets(NamedTuple):
  """Targets of N predictions, in the order of a batch.

  Attributes:
    weights: [N], shares of the loss: 1 / N each unless tokens are weighted.
    W: [N, D], W_U q.
    b: [N], b_U . q.
    offset: [], subtracted from the loss.
  """

  weights: types.Array
  W: types.Array
  b: types.Array
  offset: types.Array


class Objective(NamedTuple):
  """A kind of target for a model's logits.

  Attributes:
    model_params: `model_params(params)`: the weights of the sampled model.
    targets: `targets(params, batch) -> Targets`.
  """

  model_params: Callable[[types.Params], types.Params]
  targets: Callable[[types.Params, types.Batch], Targets]


def next_tokens() -> Objective:
  """Targets of `losses.next_token_loss`: the tokens that follow."""

  def targets(params, batch):
    _, following, weights = losses.predictions(batch)
    # q is one-hot, so W_U q is a column of W_U.
    (W_U, b_U), flat = transformer.unembedding(params), following.ravel()
    return Targets(
      _shares(weights, following.shape), W_U.T[flat], b_U[flat], jnp.zeros(())
    )

  return Objective(lambda params: params, targets)


def reference_model(
  reference: architectures.Architecture,
  tiles: frozen_layers.Tiles | None = None,
) -> Objective:
  """Targets of `losses.reference_loss`, KL included: another model's odds.

  Args:
    reference: its architecture; its weights are params['reference'].
    tiles: sizes of the pieces of work; by the default backend if None.
  """
  tiles = tiles or frozen_layers.default_tiles()
  runner = frozen_layers.Runner(reference, tiles)

  def targets(params, batch):
    inputs, _, weights = losses.predictions(batch)
    W_U, b_U = transformer.unembedding(params['model'])
    reference_W_U, reference_b_U = transformer.unembedding(params['reference'])
    final = runner.final_norm(params['reference'], inputs)

    def of_token(x):
      log_odds = jax.nn.log_softmax(x @ reference_W_U + reference_b_U)
      odds = jnp.exp(log_odds)
      return W_U @ odds, b_U @ odds, -odds @ log_odds

    # In batches of tokens, because all logits would fill the memory.
    rows = final.reshape(-1, final.shape[-1])
    W, b, entropies = jax.lax.map(of_token, rows, batch_size=tiles.tokens)
    shares = _shares(weights, inputs.shape)
    # Minus the entropy of the reference makes the cross-entropy a KL.
    return Targets(shares, W, b, jnp.sum(shares * entropies))

  return Objective(lambda params: params['model'], targets)


def _shares(weights, shape):
  """Weights of single predictions in the mean over a batch, [N]."""
  return jnp.broadcast_to(weights, shape).ravel() / (shape[0] * shape[1])
