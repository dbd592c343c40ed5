r"""Two-half losses of the transformer when one attention head moves.

The context holds everything that no chain changes: the normed residual stream
that the layer reads, every head's attention-weighted values z* at the
checkpoint, the layer's output, and the layers above in their fastest form. A
chain recomputes the values z of its own head, replaces that head's contribution
and runs the layers above. Value and gradient agree with the plain model
(`attention_only`).

In the last layer only the unembedding follows. With the final LayerNorm's gain
folded into W_U and its bias into b_U,

.. math:: \text{logits} = (C x\, W_U) / \sigma(x) + b_U,

C subtracts the mean and sigma is one number a token. Head h changes x by
z W_O - z* W_O*, hence the logits by a matrix of rank d_head:

.. math:: C x W_U = \text{base} - z^* (W_O^* C W_U) + z\, (W_O C W_U)

where base, [B, T, V], is shared by all heads and chains of the minibatch.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import attention_only
from rllc_jax.models import frozen_layers
from rllc_jax.models import targets as targets_lib
from rllc_jax.models import unembedding


class HeadContext(NamedTuple):
  """Quantities that do not depend on the moving head of a layer.

  Attributes:
    params: the checkpoint.
    x: [B, T, D], the normed residual stream that the layer reads.
    positioned: [B, T, D], the same with positions: queries and keys read it.
    values: [H, B, T, E], z* of every head of the layer.
    written: [B, T, D], the residual stream after the layer.
    above: the layers that follow.
    targets: the targets of the logits.
  """

  params: types.Params
  x: types.Array
  positioned: types.Array
  values: types.Array
  written: types.Array
  above: tuple[frozen_layers.FrozenLayer, ...]
  targets: targets_lib.Targets


class LastLayerContext(NamedTuple):
  """Quantities that do not depend on the moving head of the last layer.

  Attributes:
    head: the same as in any layer.
    W_U: [D, V], centered, the final gain folded in: C W_U above.
    b_U: [V], the final bias folded in.
    base: [B T, V], the written residual stream times W_U.
    W_OU: [H, E, V], W_O* of every head of the layer times W_U.
    targets: those of the head, of logits before the final LayerNorm's scale.
  """

  head: HeadContext
  W_U: types.Array
  b_U: types.Array
  base: types.Array
  W_OU: types.Array
  targets: targets_lib.Targets


def head_losses(
  model: attention_only.AttentionOnly,
  *,
  objective: targets_lib.Objective | None = None,
  share_logits: bool = True,
  tiles: frozen_layers.Tiles | None = None,
) -> dict[str, types.RefinedLoss]:
  """Builds the two-half losses of all head families, for `weights.families`.

  Args:
    model: its sizes.
    objective: the targets of its logits; by default the next tokens.
    share_logits: True stores the logits of a minibatch at the checkpoint for
      the last layer, B T V numbers a row, and updates them by rank d_head.
      False streams over the tokens instead, as in the other layers.
    tiles: sizes of the pieces of work; by the default backend if None.

  Returns:
    {'0:*': loss, '1:*': loss, ...}.
  """
  tiles = frozen_layers.default_tiles() if tiles is None else tiles
  objective = objective or targets_lib.next_tokens()
  last = model.num_layers - 1
  fast = {
    f'{i}:*': head_loss(model, objective, i, tiles)
    for i in range(model.num_layers)
  }
  # Only there: below, the layers above make the update nonlinear.
  if share_logits:
    fast[f'{last}:*'] = last_layer_head_loss(model, objective, tiles)
  # XLA clamps ids beyond the vocabulary instead of raising.
  check = lambda params, data: losses.check_tokens(data, model.vocab_size)
  return {name: loss._replace(check=check) for name, loss in fast.items()}


def head_loss(
  model: attention_only.AttentionOnly,
  objective: targets_lib.Objective,
  layer: int,
  tiles: frozen_layers.Tiles,
) -> types.RefinedLoss:
  """Builds the two-half loss for the heads of one layer."""

  def from_residual(shared, residual):
    for frozen in shared.above:
      residual = frozen_layers.attend(frozen, residual, model.num_heads, tiles)
    normed = _flat(
      attention_only.layer_norm(shared.params['ln_final'], residual)
    )
    unembed, targets = shared.params['unembed'], shared.targets
    total = unembedding.log_partition(
      normed, unembed['W_U'], unembed['b_U'], targets.weights, tiles.tokens
    )
    return total - _expected_logits(targets, normed, 1.0)

  def context(params, batch):
    shared = _head_context(model, objective, params, batch, layer, tiles)
    return shared, from_residual(shared, shared.written)

  def loss(position, shared, head):
    _, residual = _rewritten(position, shared, head, layer, tiles)
    return from_residual(shared, residual)

  return types.RefinedLoss(context, loss)


def last_layer_head_loss(
  model: attention_only.AttentionOnly,
  objective: targets_lib.Objective,
  tiles: frozen_layers.Tiles,
) -> types.RefinedLoss:
  """Builds the loss of the last layer, by low-rank updates of shared logits."""
  layer = model.num_layers - 1

  def from_residual(shared, frozen, moving, residual):
    scale = 1 / _flat(attention_only.deviation(residual))
    logits = unembedding.LowRankLogits(
      base=shared.base,
      frozen_left=frozen[0],
      frozen_right=frozen[1],
      bias=shared.b_U,
      left=moving[0],
      right=moving[1],
      scale=scale,
    )
    targets = shared.targets
    total = unembedding.low_rank_log_partition(
      logits, targets.weights, tiles.tokens
    )
    return total - _expected_logits(targets, _flat(residual), scale[:, 0])

  def context(params, batch):
    shared = _head_context(model, objective, params, batch, layer, tiles)
    final, unembed = shared.params['ln_final'], shared.params['unembed']
    # The scale of LayerNorm is left out: it depends on the moving head.
    fold = lambda rows: attention_only.centered(rows * final['w'][None])
    folded = fold(unembed['W_U'].T).T
    targets = shared.targets
    last = LastLayerContext(
      head=shared,
      W_U=folded,
      b_U=unembed['b_U'] + final['b'] @ unembed['W_U'],
      base=_flat(shared.written) @ folded,
      W_OU=_weights(shared, layer)['W_O'] @ folded,
      targets=targets._replace(
        W=fold(targets.W), b=targets.b + targets.W @ final['b']
      ),
    )
    # Rank 0: at the checkpoint the shared logits are the logits.
    nothing = jnp.zeros_like(last.base[:, :0]), jnp.zeros_like(folded[:0])
    return last, from_residual(last, nothing, nothing, shared.written)

  def loss(position, shared, head):
    values, residual = _rewritten(position, shared.head, head, layer, tiles)
    # Minus the head at the checkpoint plus the moving head, rank 2 d_head.
    frozen = -_flat(shared.head.values[head]), shared.W_OU[head]
    moving = _flat(values), position['W_O'] @ shared.W_U
    return from_residual(shared, frozen, moving, residual)

  return types.RefinedLoss(context, loss)


def _expected_logits(targets: targets_lib.Targets, x, scale):
  """The weighted sum of q . logits over predictions, plus the offset, []."""
  logits = jnp.sum(x * targets.W, axis=1) * scale + targets.b
  return jnp.sum(targets.weights * logits) + targets.offset


def _head_context(
  model, objective, all_params, batch, layer, tiles
) -> HeadContext:
  """Runs the model up to and including a layer."""
  params = objective.model_params(all_params)
  tokens = losses.predictions(batch).inputs
  residual = params['embed']['W_E'][tokens]
  layers, positions = frozen_layers.of_params(params, tokens.shape[1])
  for below in layers[:layer]:
    residual = frozen_layers.attend(below, residual, model.num_heads, tiles)
  moving, above = layers[layer], layers[layer + 1 :]
  x = attention_only.layer_norm(moving.norm, residual)
  values = frozen_layers.all_values(moving, x, model.num_heads, tiles)
  return HeadContext(
    params=params,
    x=x,
    positioned=x + positions[None],
    values=values.transpose(2, 0, 1, 3),  # [B, T, H, E] -> [H, B, T, E]
    written=residual + frozen_layers.write(moving, values),
    above=above,
    targets=objective.targets(all_params, batch),
  )


def _rewritten(position, shared: HeadContext, head, layer, tiles):
  """Values of the moving head, and the residual stream after the layer."""
  scale = 1 / math.sqrt(position['W_Q'].shape[-1])
  reads = {'Q': shared.positioned, 'K': shared.positioned, 'V': shared.x}
  q, k, v = (
    attention_only.linear(x, position[f'W_{i}'], position[f'b_{i}'])
    for i, x in reads.items()
  )
  values = frozen_layers.patterned(q * scale, k, v, tiles)
  W_O = _weights(shared, layer)['W_O'][head]
  # The other heads' output is not recomputed.
  change = values @ position['W_O'] - shared.values[head] @ W_O
  return values, shared.written + change


def _weights(shared: HeadContext, layer):
  return shared.params[f'blocks_{layer}']['attn']


def _flat(x):
  """Merges batch and positions, [B, T, ...] -> [B T, ...]."""
  return x.reshape(-1, x.shape[-1])
