"""What a step takes: bytes that can be counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import footprint
from rllc_jax.estimators import grid
from rllc_jax.estimators import program
from rllc_jax.refinement import weights
from rllc_jax.samplers import leimkuhler_matthews

WIDTH, BATCH, N = 64, 512, 1000


def loss_fn(params, batch):
  """Two layers: [BATCH, WIDTH] activations, kept for the way back."""
  hidden = jnp.tanh(batch @ params['a'])
  return jnp.mean(jnp.tanh(hidden @ params['b']) ** 2)


LENS = weights.subtree('a')
FAMILY = types.Refinements(
  ('a',), LENS, jnp.arange(1), weights.refine(loss_fn, LENS)
)
PARAMS = {name: jnp.ones((1, WIDTH, WIDTH)) for name in 'ab'}
BATCHES = minibatches.uniform(jnp.ones((N, WIDTH)), BATCH)
SQUARE, ACTIVATIONS = 4 * WIDTH**2, 4 * BATCH * WIDTH


def measured(num_columns, share_batches=True):
  rows = program.make_rows(
    jax.random.key(0), PARAMS, [(0, 'x')], [types.Window(0, N)]
  )
  return footprint.measured(
    FAMILY,
    rows,
    BATCHES,
    leimkuhler_matthews.leimkuhler_matthews(),
    num_columns,
    grid.make_mesh(1, 1),
    share_batches=share_batches,
    matmul_precision='float32',
  )


def test_what_is_there_once_is_data_weights_context_and_chains():
  """The context of a plain loss is its weights and its minibatch.

  A chain has its position, its last noise and the noise of its minibatches.
  """
  for num_columns in (1, 7):
    data, checkpoint = 4 * N * WIDTH, 2 * SQUARE
    chains = 3 * num_columns * SQUARE
    context = 2 * SQUARE + ACTIVATIONS
    expected = data + checkpoint + chains + context
    np.testing.assert_allclose(
      measured(num_columns).shared, expected, rtol=1e-3
    )


def test_a_column_has_activations_and_a_gradient():
  column = measured(1).column
  assert ACTIVATIONS + SQUARE <= column <= 6 * ACTIVATIONS + 4 * SQUARE


def test_minibatches_of_its_own_are_a_column_s():
  shared, own = measured(3), measured(3, share_batches=False)
  context = 2 * SQUARE + ACTIVATIONS
  assert shared.shared - own.shared == context
  assert own.column >= shared.column + context


def test_temporary_memory_grows_with_the_work():
  work = lambda x: jnp.sum(jnp.exp(x @ x.T) @ x)
  small, large = (
    footprint.temporary_bytes(work, (jnp.ones((n, 8)),), 'float32')
    for n in (64, 256)
  )
  assert small >= 4 * 64 * 64
  assert large > 8 * small
