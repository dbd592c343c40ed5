r"""Causal attention by blocks of queries, with a gradient that recomputes.

A block of queries sees the keys up to its own end, so scores above the diagonal
are computed only within the blocks on it. At most a block's scores exist at
once. Stored for the gradient are the output and one number per query, the log
of the sum of its exponentials. The pattern is recomputed from them (Dao et al.,
2205.14135, without their tiles along the keys). With o the output, P the
pattern and a bar for a cotangent,

.. math:: \bar S = P \circ (\bar o\, v^T - \delta), \qquad
          \delta_i = \bar o_i \cdot o_i

The products are arranged so that no array as large as the scores is transposed.
"""

import functools

import jax
import jax.numpy as jnp

from rllc_jax import types

# Shapes: T positions, E = d_head, b queries in a block, j keys that it sees.


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def causal_attention(
  q: types.Array,
  k: types.Array,
  v: types.Array,
  block_size: int,
  window: int = 0,
) -> types.Array:
  """Computes softmax(q k^T, causal) v, [..., T, E]; differentiable once.

  Args:
    q: [..., T, E], queries, already divided by sqrt(E).
    k: [..., T, E], keys.
    v: [..., T, E], values.
    block_size: queries a block. Static.
    window: positions that a query sees, its own included; 0 for all before it.
      Static.
  """
  return _forward(q, k, v, block_size, window)[0]


def _forward(q, k, v, block_size, window):
  # k is transposed, so that the far larger scores never are.
  k_T = jnp.swapaxes(k, -1, -2)
  outputs, log_sums = [], []
  for block, seen in _blocks(q.shape[-2], block_size, window):
    scores = _scores(q, k_T, block, seen, window)
    # Subtracted, because exp overflows from 88 on in float32.
    peak = jnp.max(scores, axis=-1, keepdims=True)
    odds = jnp.exp(scores - peak)
    total = jnp.sum(odds, axis=-1, keepdims=True)
    outputs.append(odds @ v[..., seen, :] / total)
    log_sums.append(peak + jnp.log(total))
  output = jnp.concatenate(outputs, axis=-2)
  return output, (q, k, v, output, jnp.concatenate(log_sums, axis=-2))


def _backward(block_size, window, residual, d_output):
  q, k, v, output, log_sum = residual
  q_T, k_T, v_T, d_T = (jnp.swapaxes(x, -1, -2) for x in (q, k, v, d_output))
  delta = jnp.sum(output * d_output, axis=-1, keepdims=True)
  d_q, d_k_T, d_v_T = [], jnp.zeros_like(k_T), jnp.zeros_like(v_T)
  for block, seen in _blocks(q.shape[-2], block_size, window):
    rows = lambda x, block=block: x[..., block, :]
    # Recomputed: writing and reading a stored pattern is no faster.
    pattern = jnp.exp(_scores(q, k_T, block, seen, window) - rows(log_sum))
    d_pattern = rows(d_output) @ v_T[..., seen]
    d_scores = pattern * (d_pattern - rows(delta))
    d_q.append(d_scores @ k[..., seen, :])
    d_k_T = d_k_T.at[..., seen].add(q_T[..., block] @ d_scores)
    d_v_T = d_v_T.at[..., seen].add(d_T[..., block] @ pattern)
  d_q = jnp.concatenate(d_q, axis=-2)
  return d_q, jnp.swapaxes(d_k_T, -1, -2), jnp.swapaxes(d_v_T, -1, -2)


causal_attention.defvjp(_forward, _backward)


def _blocks(length, block_size, window):
  """Lists pairs of slices: a block of queries, and the keys that it sees."""
  starts = range(0, length, block_size)
  stops = [min(start + block_size, length) for start in starts]
  first = lambda start: max(0, start - window + 1) if window else 0
  pairs = zip(starts, stops, strict=True)
  return [(slice(a, b), slice(first(a), b)) for a, b in pairs]


def _scores(q, k_T, block, seen, window):
  """Scores of a block, [..., b, j]; -inf where a key comes after its query."""
  scores = q[..., block, :] @ k_T[..., seen]
  queries, keys = (jnp.arange(s.start, s.stop) for s in (block, seen))
  distance = queries[:, None] - keys[None]
  seen_by = distance >= 0
  if window:
    seen_by &= distance < window
  return jnp.where(jnp.broadcast_to(seen_by, scores.shape), scores, -jnp.inf)
