r"""Two-half losses of a transformer when a part of one layer moves.

The context holds everything that no chain changes: what the layer reads, every
head's attention-weighted values z* at the checkpoint, the stream after it, and
the layers above in their fastest form. A chain computes what its own part
changes and runs what follows. Value and gradient agree with the plain model
(`models.transformer`).

Where nothing but the unembedding follows the heads of the last layer (a model
without MLPs, or with MLPs beside attention), the final norm's gain is folded
into W_U and its bias into b_U,

.. math:: \text{logits} = (C x\, W_U) / \sigma(x) + b_U,

C subtracts the mean (LayerNorm) and sigma is one number a token. Head h changes
x by z W_O - z* W_O*, hence the logits by a matrix of rank d_head:

.. math:: C x W_U = \text{base} - z^* (W_O^* C W_U) + z\, (W_O C W_U)

where base, [B, T, V], is shared by all heads and chains of the minibatch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.models import architecture as architectures
from rllc_jax.models import frozen_layers
from rllc_jax.models import targets as targets_lib
from rllc_jax.models import transformer
from rllc_jax.models import unembedding

# Shapes: B sequences, T positions, D = d_model, E = d_head, H query heads, G
# of them share a key and value head.


class LayerContext(NamedTuple):
  """Quantities that do not depend on the part of a layer that moves.

  Attributes:
    params: the checkpoint.
    frozen: the layer at the checkpoint.
    residual: [B, T, D], the stream before the layer.
    x: [B, T, D], the same normed: values read it.
    positioned: [B, T, D], what queries and keys read.
    values: [H, B, T, E], z* of every head.
    attended: [B, T, D], the stream with what the heads write.
    above: the layers that follow.
    W_U: [D, V], the unembedding.
    b_U: [V].
    targets: the targets of the logits.
  """

  params: types.Params
  frozen: frozen_layers.FrozenLayer
  residual: types.Array
  x: types.Array
  positioned: types.Array
  values: types.Array
  attended: types.Array
  above: tuple[frozen_layers.FrozenLayer, ...]
  W_U: types.Array
  b_U: types.Array
  targets: targets_lib.Targets


class LastLayerContext(NamedTuple):
  """Quantities that do not depend on the moving head of the last layer.

  Attributes:
    layer: the same as in any layer.
    W_U: [D, V], centered, the final gain folded in: C W_U above.
    b_U: [V], the final bias folded in.
    base: [B T, V], the stream after the layer times W_U.
    W_OU: [H, E, V], W_O* of every head of the layer times W_U.
    targets: those of the layer, of logits before the final norm's scale.
  """

  layer: LayerContext
  W_U: types.Array
  b_U: types.Array
  base: types.Array
  W_OU: types.Array
  targets: targets_lib.Targets


# stream(position, context, index) -> the stream after the layer, [B, T, D].
Stream = Callable[[types.Position, LayerContext, types.Index], types.Array]


def part_losses(
  architecture: architectures.Architecture,
  *,
  objective: targets_lib.Objective | None = None,
  share_logits: bool = True,
  tiles: frozen_layers.Tiles | None = None,
) -> dict[str, types.RefinedLoss]:
  """Builds the two-half losses of all parts of layers, for `weights.families`.

  Args:
    architecture: of the model.
    objective: the targets of its logits; by default the next tokens.
    share_logits: True stores the logits of a minibatch at the checkpoint for
      heads of the last layer, B T V numbers a row, and updates them by rank
      d_head, where that is exact. False streams over the tokens, as elsewhere.
    tiles: sizes of the pieces of work; by the default backend if None.

  Returns:
    {'0:*': of heads, '0:g*': of groups, '0:attn', '0:mlp', '0', ...}.
  """
  runner = frozen_layers.Runner(
    architecture, tiles or frozen_layers.default_tiles()
  )
  objective = objective or targets_lib.next_tokens()
  fast = {}
  for i in range(architecture.num_layers):
    for name, stream in _streams(runner, i).items():
      fast[name] = streamed_loss(runner, objective, i, stream)
  last = architecture.num_layers - 1
  if share_logits and has_low_rank_logits(architecture):
    fast[f'{last}:*'] = low_rank_loss(runner, objective)
  # XLA clamps ids beyond the vocabulary instead of raising.
  check = lambda params, data: losses.check_tokens(
    data, architecture.vocab_size
  )
  return {name: loss._replace(check=check) for name, loss in fast.items()}


def probe_losses(
  architecture: architectures.Architecture,
  *,
  tiles: frozen_layers.Tiles | None = None,
) -> dict[str, types.ProbeLosses]:
  """Builds the losses of single tokens when a part of a layer moves.

  Args:
    architecture: of the model.
    tiles: sizes of the pieces of work; by the default backend if None.

  Returns:
    By the names of `part_losses`: losses of tokens 1 to T - 1 of every row of
    [B, T] ids, in nats, [B (T - 1)].
  """
  runner = frozen_layers.Runner(
    architecture, tiles or frozen_layers.default_tiles()
  )
  objective = targets_lib.next_tokens()
  return {
    name: _probe(runner, objective, i, stream)
    for i in range(architecture.num_layers)
    for name, stream in _streams(runner, i).items()
  }


def _probe(runner, objective, layer, stream: Stream) -> types.ProbeLosses:
  def of_tokens(position, shared, index):
    residual = stream(position, shared, index)
    normed = _normed(runner, shared, layer, residual)
    sizes = runner.tiles.tokens, runner.tiles.vocabulary
    total = unembedding.log_partitions(normed, shared.W_U, shared.b_U, sizes)
    return total - _target_logits(shared.targets, normed, 1.0)

  return types.ProbeLosses(
    lambda params, ids: _context(runner, objective, params, ids, layer),
    of_tokens,
  )


def has_low_rank_logits(architecture: architectures.Architecture) -> bool:
  """Whether a head of the last layer changes its logits by a low rank."""
  return architecture.heads_come_last and architecture.group_size == 1


def _streams(runner: frozen_layers.Runner, layer: int) -> dict[str, Stream]:
  """What moving parts of a layer do to the stream after it."""

  def of_head(position, shared, head):
    group = _group_with(runner, position, shared, layer, head)
    return _with_group(runner, group, shared, layer, head // _size(runner))[1]

  def of_group(position, shared, group):
    return _with_group(runner, position, shared, layer, group)[1]

  def of_attention(position, shared, index):
    del index
    block = shared.params[f'blocks_{layer}'] | {'attn': position}
    return of_block(block, shared, ())

  def of_mlp(position, shared, index):
    del index
    moved = shared.frozen._replace(mlp=position)
    return _after_heads(runner, moved, shared, shared.attended)

  def of_block(position, shared, index):
    del index
    frozen = runner.of_block(layer, position, shared.params, shared.x.shape[1])
    return runner.run(layer, frozen, shared.residual)

  streams: dict[str, Stream] = {f'{layer}:*': of_head}
  streams |= {f'{layer}:attn': of_attention, f'{layer}': of_block}
  if _size(runner) > 1:
    streams[f'{layer}:g*'] = of_group
  if runner.architecture.d_mlp:
    streams[f'{layer}:mlp'] = of_mlp
  return streams


def streamed_loss(
  runner: frozen_layers.Runner,
  objective: targets_lib.Objective,
  layer: int,
  stream: Stream,
) -> types.RefinedLoss:
  """Builds the two-half loss of a part of a layer.

  Args:
    runner: of the model.
    objective: the targets of its logits.
    layer: that the part is in.
    stream: what the part does.
  """

  def from_stream(shared, residual):
    normed = _normed(runner, shared, layer, residual)
    sizes = runner.tiles.tokens, runner.tiles.vocabulary
    total = unembedding.log_partition(
      normed, shared.W_U, shared.b_U, shared.targets.weights, sizes
    )
    return total - _expected_logits(shared.targets, normed, 1.0)

  def context(params, batch):
    shared = _context(runner, objective, params, batch, layer)
    at_center = _after_heads(runner, shared.frozen, shared, shared.attended)
    return shared, from_stream(shared, at_center)

  def loss(position, shared, index):
    return from_stream(shared, stream(position, shared, index))

  return types.RefinedLoss(context, loss)


def _normed(runner, shared: LayerContext, layer, residual):
  """What is unembedded, [B T, D], from the stream after a layer."""
  for i, frozen in enumerate(shared.above, start=layer + 1):
    residual = runner.run(i, frozen, residual)
  return _flat(runner.norm(shared.params['ln_final'], residual))


def low_rank_loss(
  runner: frozen_layers.Runner, objective: targets_lib.Objective
) -> types.RefinedLoss:
  """Builds the loss of heads of the last layer, by updates of shared logits."""
  architecture, layer = runner.architecture, runner.architecture.num_layers - 1

  def from_stream(shared, frozen, moving, residual):
    scale = 1 / _flat(transformer.norm_divisor(architecture, residual))
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
      logits, targets.weights, runner.tiles.whole_rows(shared.b_U.size)
    )
    return total - _expected_logits(targets, _flat(residual), scale[:, 0])

  def context(params, batch):
    shared = _context(runner, objective, params, batch, layer)
    at_center = _after_heads(runner, shared.frozen, shared, shared.attended)
    last = _last_layer_context(architecture, shared, at_center)
    # Rank 0: at the checkpoint the shared logits are the logits.
    nothing = jnp.zeros_like(last.base[:, :0]), jnp.zeros_like(last.W_U[:0])
    return last, from_stream(last, nothing, nothing, at_center)

  def loss(position, shared, head):
    group = jax.tree.map(lambda leaf: leaf[None], position)
    values, residual = _with_group(
      runner, _as_group(position, group), shared.layer, layer, head
    )
    # Minus the head at the checkpoint plus the moving head, rank 2 d_head.
    frozen = -_flat(shared.layer.values[head]), shared.W_OU[head]
    moving = _flat(values[0]), position['W_O'] @ shared.W_U
    return from_stream(shared, frozen, moving, residual)

  return types.RefinedLoss(context, loss)


def _last_layer_context(architecture, shared, stream) -> LastLayerContext:
  final, targets = shared.params['ln_final'], shared.targets
  bias = final.get('b', jnp.zeros_like(final['w']))

  # The scale of the norm is left out: it depends on the moving head.
  def fold(rows):
    gained = rows * final['w'][None]
    is_centered = architecture.norm == 'layer'
    return transformer.centered(gained) if is_centered else gained

  folded = fold(shared.W_U.T).T
  W_O = shared.params[f'blocks_{architecture.num_layers - 1}']['attn']['W_O']
  return LastLayerContext(
    layer=shared,
    W_U=folded,
    b_U=shared.b_U + bias @ shared.W_U,
    base=_flat(stream) @ folded,
    W_OU=W_O @ folded,
    targets=targets._replace(W=fold(targets.W), b=targets.b + targets.W @ bias),
  )


def _expected_logits(targets: targets_lib.Targets, x, scale):
  """The weighted sum of q . logits over predictions, plus the offset, []."""
  logits = _target_logits(targets, x, scale)
  return jnp.sum(targets.weights * logits) + targets.offset


def _target_logits(targets: targets_lib.Targets, x, scale):
  """Targets times logits of every prediction, q . logits, [N]."""
  return jnp.sum(x * targets.W, axis=1) * scale + targets.b


def _context(runner, objective, all_params, batch, layer) -> LayerContext:
  """Runs the model up to the heads of a layer."""
  params = objective.model_params(all_params)
  tokens = losses.predictions(batch).inputs
  residual = transformer.embedded(runner.architecture, params, tokens)
  layers = runner.layers(params, tokens.shape[1])
  for i, below in enumerate(layers[:layer]):
    residual = runner.run(i, below, residual)
  frozen = layers[layer]
  x = runner.norm(frozen.ln1, residual)
  values = runner.values(layer, frozen, x)
  W_U, b_U = transformer.unembedding(params)
  return LayerContext(
    params=params,
    frozen=frozen,
    residual=residual,
    x=x,
    positioned=transformer.positioned(runner.architecture, params, x),
    values=values.transpose(2, 0, 1, 3),  # [B, T, H, E] -> [H, B, T, E]
    attended=residual + runner.write(frozen, values),
    above=layers[layer + 1 :],
    W_U=W_U,
    b_U=b_U,
    targets=objective.targets(all_params, batch),
  )


def _after_heads(runner, frozen, shared: LayerContext, attended):
  """The stream after the layer, from the stream with what its heads write."""
  before = shared.residual if runner.architecture.parallel else attended
  return attended + runner.mlp(frozen, before)


# Heads, in groups that share keys and values; most models' have one head.


def _size(runner) -> int:
  return runner.architecture.group_size


def _as_group(position, leading) -> types.PyTree:
  """A head as a group of one: keys and values have no axis of heads there."""
  shared = {name: w for name, w in position.items() if name[2] in 'KV'}
  return leading | shared


def _group_with(runner, position, shared: LayerContext, layer, head):
  """The group of a head that moves, with its other heads as they are."""
  group = jax.tree.map(lambda leaf: leaf[None], position)
  if (size := _size(runner)) > 1:
    attention = shared.params[f'blocks_{layer}']['attn']
    for name in transformer.head_leaves(attention, 'QO'):
      leaf = attention[name]
      others = leaf.reshape(-1, size, *leaf.shape[1:])[head // size]
      group[name] = others.at[head % size].set(position[name])
  return _as_group(position, group)


def _with_group(runner, group, shared: LayerContext, layer, number):
  """Values of a moving group, [G, B, T, E], and the stream after the layer."""
  size, (B, T, _) = _size(runner), shared.x.shape
  of = lambda x, name: transformer.linear(
    x, group[f'W_{name}'], group.get(f'b_{name}')
  )
  k, v = of(shared.positioned, 'K'), of(shared.x, 'V')
  queries = transformer.head_leaves(group, 'Q')
  q = jax.vmap(
    lambda w: transformer.linear(shared.positioned, w['W_Q'], w.get('b_Q'))
  )(queries)
  q, k = runner.scored(layer, shared.frozen, q, k)
  tile = lambda x: jnp.broadcast_to(x[None], (size, *x.shape))
  q, k, v = (x.reshape(size * B, T, -1) for x in (q, tile(k), tile(v)))
  values = runner.attended(layer, q, k, v).reshape(size, B, T, -1)
  attention = shared.params[f'blocks_{layer}']['attn']
  rows = lambda leaf: leaf.reshape(-1, size, *leaf.shape[1:])[number]
  written = lambda z, W_O: jnp.einsum('gbte,ged->btd', z, W_O)
  # The other groups' output is not recomputed.
  change = written(values, group['W_O']) - written(
    rows(shared.values), rows(attention['W_O'])
  )
  stream = _after_heads(runner, shared.frozen, shared, shared.attended + change)
  return values, stream


def _flat(x):
  """Merges batch and positions, [B, T, ...] -> [B T, ...]."""
  return x.reshape(-1, x.shape[-1])
