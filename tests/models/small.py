"""Small transformers of every kind, with random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax.models import architecture

SIZES = dict(
  num_layers=2,
  num_heads=4,
  d_model=16,
  d_head=6,
  context_length=12,
  vocab_size=50,
)
# The paper's; GPT-2's; GPT-NeoX's; Llama's and Qwen3's with 2 and 1 key and
# value heads; GPT-Neo's.
KINDS = {
  'shortformer': architecture.Architecture(**SIZES),
  'gpt2': architecture.Architecture(
    **SIZES,
    d_mlp=20,
    positions='learned',
    activation='gelu_tanh',
    tied=True,
    biases=('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out'),
  ),
  'neox': architecture.Architecture(
    **SIZES,
    d_mlp=20,
    parallel=True,
    positions='rotary',
    rotary=architecture.Rotary(4, 100.0),
    biases=('b_Q', 'b_K', 'b_V', 'b_O', 'b_in', 'b_out'),
  ),
  'llama': architecture.Architecture(
    **SIZES,
    num_kv_heads=2,
    d_mlp=20,
    gated=True,
    activation='silu',
    norm='rms',
    norm_epsilon=1e-6,
    positions='rotary',
    rotary=architecture.Rotary(6, 100.0),
    biases=('b_Q', 'b_K', 'b_V'),
  ),
  'qwen3': architecture.Architecture(
    **SIZES,
    num_kv_heads=1,
    d_mlp=20,
    gated=True,
    activation='silu',
    norm='rms',
    norm_heads=True,
    positions='rotary',
    rotary=architecture.Rotary(6, 100.0),
    tied=True,
    biases=(),
  ),
  'neo': architecture.Architecture(
    **SIZES,
    d_mlp=20,
    positions='learned',
    tied=True,
    score_divisors=(1.0, 1.0),
    windows=(0, 5),
    biases=('b_O', 'b_in', 'b_out'),
  ),
}


@functools.cache
def random_params(model, seed=0):
  """Draws weights with no leaf at its special initial value.

  By NumPy, because JAX takes seconds to compile a draw for every leaf.
  """
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    center = 1.0 if path[-1].key == 'w' else 0.0  # Gains of norms.
    return jnp.asarray(rng.normal(center, 0.4, leaf.shape), jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, model.shapes())
