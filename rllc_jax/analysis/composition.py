r"""Composition scores of two heads in different layers (Elhage et al., 2021).

With row vectors, :math:`OV = W_V W_O` of the earlier head and
:math:`QK = W_Q W_K^T` of the later one,

.. math:: \frac{\|OV\,QK^T\|}{\|OV\|\,\|QK\|} \text{ (K)}, \quad
          \frac{\|OV\,QK\|}{\|OV\|\,\|QK\|} \text{ (Q)}, \quad
          \frac{\|OV\,OV'\|}{\|OV\|\,\|OV'\|} \text{ (V)}

in Frobenius norms, without LayerNorm and without a baseline. Independent random
matrices give :math:`1/\sqrt{d_{model}}`; a head whose weights are zero has 0.
"""

import functools

import jax
import jax.numpy as jnp

from rllc_jax import types

KINDS = ('K', 'Q', 'V')


@functools.partial(jax.jit, static_argnums=(1, 2))
def composition(
  params: types.Params, earlier: int, later: int
) -> dict[str, types.Array]:
  """Computes the three scores of every pair of heads of two layers.

  Args:
    params: the weights. Traced: map over checkpoints.
    earlier: layer that writes.
    later: layer that reads.

  Returns:
    {'K', 'Q', 'V'}: [H earlier, H later].

  Raises:
    ValueError: if the second layer does not come after the first.
  """
  num_layers = sum(name.startswith('blocks_') for name in params)
  if not 0 <= earlier < later < num_layers:
    raise ValueError(
      'A later layer reads what an earlier one writes: 0 <= earlier < later < '
      f'{num_layers} was expected; got {earlier} and {later}.'
    )
  writes, reads = (
    _per_query_head(params[f'blocks_{i}']['attn']) for i in (earlier, later)
  )
  right = {
    'K': (reads['W_K'], reads['W_Q']),
    'Q': (reads['W_Q'], reads['W_K']),
    'V': (reads['W_V'], jnp.swapaxes(reads['W_O'], 1, 2)),
  }
  # Each matrix is a pair of tall ones, X = a b^T: never D x D.
  left = writes['W_V'], jnp.swapaxes(writes['W_O'], 1, 2)
  pairs = jax.vmap(jax.vmap(_score, (None, 0)), (0, None))
  return {kind: pairs(left, right[kind]) for kind in KINDS}


def _per_query_head(attention):
  """Matrices of heads; those of shared keys and values stand for each head."""
  count = len(attention['W_Q'])
  return {
    name: jnp.repeat(attention[name], count // len(attention[name]), axis=0)
    for name in ('W_Q', 'W_K', 'W_V', 'W_O')
  }


def _score(X, Y):
  """Score ||X Y|| / (||X|| ||Y||) of X = a b^T and Y = c d^T."""
  (a, b), (c, d) = X, Y
  product = _norm(a, d @ (c.T @ b))  # a (b^T c) d^T.
  scale = _norm(a, b) * _norm(c, d)
  return jnp.where(scale > 0, product / jnp.where(scale > 0, scale, 1.0), 0.0)


def _norm(a, b):
  """Frobenius norm of a b^T: sqrt of trace(a^T a b^T b)."""
  return jnp.sqrt(jnp.sum((a.T @ a) * (b.T @ b)))
