"""Per-token loss under zero, mean and resample ablation of each head.

A head's attention-weighted values z are replaced, at all positions:

  zero      by 0, as in the authors' tools
  mean      by their mean over all positions of the minibatch
  resample  by those of another sequence of the minibatch

and the layers above run again. The paper resamples without saying how often;
here every sequence takes the values of one other. A joint cut subtracts the
outputs of some heads from the inputs of all heads of a later layer, and nowhere
else.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import losses
from rllc_jax import types
from rllc_jax.analysis import token_losses
from rllc_jax.models import frozen_layers
from rllc_jax.models import transformer

KINDS = ('zero', 'mean', 'resample')

# Shapes: L layers, H heads, B sequences, T positions, D = d_model, E = d_head.


class _Pass(NamedTuple):
  """A forward pass, with the inputs and outputs of each layer.

  Attributes:
    layers: frozen.
    reads: L residual streams before each layer, [B, T, D].
    values: L arrays [H, B, T, E].
    attended: L outputs of all heads of a layer, [B, T, D].
    targets: [B, T].
  """

  layers: tuple[frozen_layers.FrozenLayer, ...]
  reads: list[types.Array]
  values: list[types.Array]
  attended: list[types.Array]
  targets: types.Array


@functools.partial(jax.jit, static_argnums=(0, 3))
def ablated_losses(
  model: transformer.Architecture,
  params: types.Params,
  batch: types.Array,
  kind: str,
  rng_key: types.Key | None = None,
) -> types.Array:
  """Losses of tokens without each head, [L, H, B, T - 1], in nats.

  Subtract `token_losses` of the same minibatch to get effects of ablations.

  Args:
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    batch: [B, T], integers.
    kind: one of `KINDS`.
    rng_key: for 'resample', which sequence takes the values of which.

  Raises:
    ValueError: if there is no such kind, or it lacks a key or sequences.
  """
  _check(kind, rng_key, len(batch))
  forward = _run(model, params, batch)
  order = None
  if rng_key is not None:
    order = jax.random.permutation(rng_key, len(batch))
  replace = functools.partial(_replacement, kind, order)

  def losses_of_layer(layer):
    change = jax.vmap(lambda z: replace(z) - z)(forward.values[layer])
    return _losses_of_changes(model, params, forward, change[:, None], layer)

  layers = [losses_of_layer(layer)[:, 0] for layer in range(model.num_layers)]
  return jnp.stack(layers)


def resampling_effects(
  rng_key: types.Key,
  model: transformer.Architecture,
  params: types.Params,
  tokens: np.ndarray,
) -> np.ndarray:
  """Rises of losses under resampling, by `token_losses.minibatches`.

  Returns:
    [L, H, N, T - 1], nats, of the sequences that fill a minibatch.
  """
  effects = []
  for number, batch in enumerate(token_losses.minibatches(tokens)):
    key = jax.random.fold_in(rng_key, number)
    plain = np.asarray(token_losses.token_losses(model, params, batch))
    ablated = ablated_losses(model, params, batch, 'resample', key)
    effects.append(np.asarray(ablated) - plain)
  return np.concatenate(effects, axis=2)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def joint_path_losses(
  model: transformer.Architecture,
  params: types.Params,
  batch: types.Array,
  writers: types.Array,
  reader_layer: int,
  writer_layer: int = 0,
) -> types.Array:
  """Losses of tokens with all paths from some heads to a later layer cut.

  The outputs of the heads are subtracted from the input of the later layer's
  queries, keys and values. All other inputs keep them.

  Args:
    model: its sizes.
    params: its weights. Traced: map over checkpoints.
    batch: [B, T], integers.
    writers: [H], 1 for heads whose outputs are cut, else 0.
    reader_layer: layer of the heads that read.
    writer_layer: layer of the heads that write.

  Returns:
    [B, T - 1], in nats.

  Raises:
    ValueError: if the second layer does not come after the first.
  """
  if not 0 <= writer_layer < reader_layer < model.num_layers:
    raise ValueError(
      'A path must lead to a later layer, 0 <= writer_layer < reader_layer < '
      f'{model.num_layers}, because heads read what was written before; got '
      f'{writer_layer} and {reader_layer}.'
    )
  forward = _run(model, params, batch)
  runner = frozen_layers.Runner(model)
  layer = forward.layers[reader_layer]
  W_O = params[f'blocks_{writer_layer}']['attn']['W_O']
  cut = jnp.einsum(
    'h,hbte,hed->btd',
    writers.astype(W_O.dtype),
    forward.values[writer_layer],
    W_O,
  )
  x = runner.norm(layer.ln1, forward.reads[reader_layer] - cut)
  values = runner.values(reader_layer, layer, x)
  attended = runner.write(layer, values)
  return _losses_of_attended(model, params, forward, attended, reader_layer)


def _check(kind, rng_key, num_sequences):
  if kind not in KINDS:
    raise ValueError(
      f'The kind of an ablation must be one of {", ".join(KINDS)}; got '
      f'{kind!r}.'
    )
  if kind == 'resample' and (rng_key is None or num_sequences < 2):
    raise ValueError(
      'Resampling takes the values of another sequence, so it needs a key and '
      f'at least 2 sequences; got {num_sequences}.'
    )


def _replacement(kind, order, z):
  """The replacement of a head's values, [B, T, E] or broadcast to it."""
  if kind == 'zero':
    return jnp.zeros_like(z)
  if kind == 'mean':
    return jnp.mean(z, axis=(0, 1), keepdims=True)
  # A cycle through all sequences: none gets its own values.
  return jnp.zeros_like(z).at[order].set(z[jnp.roll(order, 1)])


def _run(model, params, batch) -> _Pass:
  inputs, targets, _ = losses.predictions(batch)
  runner = frozen_layers.Runner(model)
  layers = runner.layers(params, inputs.shape[1])
  residual = transformer.embedded(model, params, inputs)
  forward = _Pass(layers, [], [], [], targets)
  for i, layer in enumerate(layers):
    values = runner.values(i, layer, runner.norm(layer.ln1, residual))
    attended = runner.write(layer, values)
    forward.reads.append(residual)
    forward.values.append(values.transpose(2, 0, 1, 3))
    forward.attended.append(attended)
    residual = runner.finish(layer, residual, attended)
  return forward


def _losses_of_changes(model, params, forward: _Pass, changes, layer):
  """Losses if the values of a layer's heads change, one head at a time.

  Changes [H, C, B, T, E], C of each head, give losses [H, C, B, T].
  """
  attended = forward.attended[layer]
  if layer == model.num_layers - 1 and model.heads_come_last:
    # Faster: nothing follows, so the change has the rank of the head.
    stream = frozen_layers.Runner(model).finish(
      forward.layers[layer], forward.reads[layer], attended
    )
    return token_losses.of_changed_heads(
      model, params, stream, changes, forward.targets
    )

  def of_head(head):
    W_O, of_changes = head
    return jax.lax.map(
      lambda change: _losses_of_attended(
        model, params, forward, attended + change @ W_O, layer
      ),
      of_changes,
    )

  return jax.lax.map(
    of_head, (params[f'blocks_{layer}']['attn']['W_O'], changes)
  )


def _losses_of_attended(model, params, forward: _Pass, attended, layer):
  """Losses if the heads of a layer write something else, [B, T, D]."""
  runner = frozen_layers.Runner(model)
  residual = runner.finish(
    forward.layers[layer], forward.reads[layer], attended
  )
  for i in range(layer + 1, model.num_layers):
    residual = runner.run(i, forward.layers[i], residual)
  normed = runner.norm(params['ln_final'], residual)
  return token_losses.of_normed(params, normed, forward.targets)
