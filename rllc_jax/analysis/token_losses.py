"""Per-token losses, of a model and of changed heads of its last layer."""

from collections.abc import Iterator
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer

_BATCH = 16  # Sequences whose tokens have losses at once.

# Shapes: B sequences, T tokens of one, D = d_model.


def minibatches(tokens: np.ndarray) -> Iterator[np.ndarray]:
  """Yields [16, T] of [N, T] each, or all sequences if there are fewer.

  Those that do not fill a minibatch are left out, so that all have the same
  weight and shape.
  """
  size = min(_BATCH, len(tokens))
  for start in range(0, len(tokens) - size + 1, size):
    yield np.asarray(tokens[start : start + size], np.int32)


@functools.partial(jax.jit, static_argnums=0)
def token_losses(
  model: transformer.Architecture, params: types.Params, batch: types.Array
) -> types.Array:
  """The loss of predicting each token, [B, T] -> [B, T - 1], in nats.

  Args:
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    batch: integers; entry j of a row is the loss of its token j + 1.
  """
  inputs, targets, _ = losses.predictions(batch)
  normed = frozen_layers.Runner(model).final_norm(params, inputs)
  return of_normed(params, normed, targets)


def of_normed(
  params: types.Params, normed: types.Array, targets: types.Array
) -> types.Array:
  """Losses from normed residual streams, [B, T, D] and [B, T] -> [B, T].

  Logits exist for one tile of tokens at a time, never for all.
  """
  W_U, b_U = transformer.unembedding(params)

  def of_token(token):
    x, target = token
    return losses.cross_entropy(x @ W_U + b_U, target)

  rows = normed.reshape(-1, normed.shape[-1]), targets.ravel()
  tile = frozen_layers.default_tiles().tokens
  return jax.lax.map(of_token, rows, batch_size=tile).reshape(targets.shape)


def of_changed_heads(
  model: transformer.Architecture,
  params: types.Params,
  residual: types.Array,
  changes: types.Array,
  targets: types.Array,
) -> types.Array:
  """Losses of tokens under changes of one head of the last layer.

  The change of the logits has the rank of a head, so the shared stream is
  unembedded once for all changes.

  Args:
    model: of which `heads_come_last`.
    params: the weights.
    residual: [B, T, D], the stream after the last layer.
    changes: [H, C, B, T, E], C changes of each head's values, before W_O.
    targets: [B, T].

  Returns:
    [H, C, B, T], in nats.
  """
  norm, (W_U, b_U) = params['ln_final'], transformer.unembedding(params)
  is_layer_norm = model.norm == 'layer'
  center = transformer.centered if is_layer_norm else lambda x: x
  W_O = center(params[f'blocks_{model.num_layers - 1}']['attn']['W_O'])
  # The final norm's gain and bias are folded into the unembedding.
  bias = norm.get('b', jnp.zeros_like(norm['w'])) @ W_U + b_U
  W_U = norm['w'][:, None] * W_U
  heads = W_O, W_O @ W_U

  def of_tile(tile):
    stream, changed, target_ids = tile  # [n, D], [H, C, n, E], [n].
    stream = center(stream)
    shared = stream @ W_U

    def of_head(head):
      (writes, unembeds), of_changes = head

      def of_change(z):
        scale = 1 / transformer.norm_divisor(model, stream + z @ writes)
        logits = (shared + z @ unembeds) * scale + bias[None]
        return jax.vmap(losses.cross_entropy)(logits, target_ids)

      return jax.lax.map(of_change, of_changes)

    return jax.lax.map(of_head, (heads, changed))

  return _over_tiles(of_tile, residual, changes, targets)


def _over_tiles(of_tile, residual, changes, targets):
  """Maps over tiles of tokens; the last is padded, and the padding cut off."""
  # Padded, because `lax.map` needs tiles of one size.
  count, size = targets.size, frozen_layers.default_tiles().tokens
  size = min(size, count)
  tiles = -(-count // size)

  def tiled(x, axis):
    """[..., B, T, ...] -> [tiles, ..., size, ...]."""
    shape = *x.shape[:axis], count, *x.shape[axis + 2 :]
    widths = [(0, 0)] * len(shape)
    widths[axis] = 0, tiles * size - count
    padded = jnp.pad(x.reshape(shape), widths)
    split = padded.reshape(*shape[:axis], tiles, size, *shape[axis + 1 :])
    return jnp.moveaxis(split, axis, 0)

  losses_of_tiles = jax.lax.map(
    of_tile, (tiled(residual, 0), tiled(changes, 2), tiled(targets, 0))
  )  # [tiles, H, C, size].
  joined = jnp.moveaxis(losses_of_tiles, 0, 2).reshape(*changes.shape[:2], -1)
  return joined[..., :count].reshape(*changes.shape[:2], *targets.shape)
