"""Transformers built by hand, whose mechanism is known.

The residual stream has a part for the token, a part for the token before it and
a part for positions, which only queries and keys see. Rows of the embedding are
unit vectors, so LayerNorm scales all positions alike.
"""

from typing import NamedTuple

import jax
import numpy as np

from rllc_jax.models import transformer

SURE = 200.0  # A difference of scores that softmax makes 1 and 0 of.


class Parts(NamedTuple):
  """Coordinates of parts of the residual stream."""

  token: slice
  position: slice
  previous: slice


def circuit(vocab_size=12, context_length=32):
  """A previous-token, a current-token and an idle head; then induction.

  Layer 0: head 0 attends to the token before and writes it beside the token,
  head 1 attends to itself, head 2 to all alike. Layer 1: head 0 attends to
  where the token before is the current one, and writes what stands there; heads
  1 and 2 attend to all alike.

  Returns:
    The model and its weights.
  """
  V, T = vocab_size, context_length
  parts = Parts(slice(0, V), slice(V, V + T), slice(V + T, 2 * V + T))
  model = transformer.Architecture(
    num_layers=2,
    num_heads=3,
    d_model=2 * V + T,
    d_head=max(V, T),
    context_length=T,
    vocab_size=V,
  )
  shapes = model.shapes()
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  for norm in (
    params['blocks_0']['ln1'],
    params['blocks_1']['ln1'],
    params['ln_final'],
  ):
    norm['w'] += 1
  params['embed']['W_E'][:, parts.token] = np.eye(V)
  params['pos_embed']['W_pos'][:, parts.position] = np.eye(T)
  _previous_token_head(params['blocks_0']['attn'], 0, parts)
  _attend_by_position(params['blocks_0']['attn'], 1, parts, offset=0)
  _induction_head(params['blocks_1']['attn'], 0, parts)
  params['unembed']['W_U'][parts.token] = SURE * np.eye(V)
  return model, params


def _attend_by_position(attention, head, parts, offset):
  """Query and key weights by which position i attends to i - offset."""
  T = parts.position.stop - parts.position.start
  attention['W_Q'][head, parts.position, :T] = SURE**2 * np.eye(T)
  attention['W_K'][head, parts.position, :T] = np.eye(T, k=offset)


def _previous_token_head(attention, head, parts):
  V = parts.token.stop
  _attend_by_position(attention, head, parts, offset=1)
  attention['W_V'][head, parts.token, :V] = np.eye(V)
  attention['W_O'][head, :V, parts.previous] = np.eye(V)


def _induction_head(attention, head, parts):
  V = parts.token.stop
  attention['W_Q'][head, parts.token, :V] = SURE * np.eye(V)
  attention['W_K'][head, parts.previous, :V] = np.eye(V)
  attention['W_V'][head, parts.token, :V] = np.eye(V)
  attention['W_O'][head, :V, parts.token] = 20 * np.eye(V)
