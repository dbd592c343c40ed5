"""One program a shape, and matrix products as precise as they say."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np
import pytest

import rllc_jax
from rllc_jax.estimators import compilation
from rllc_jax.estimators import grid
from tests.estimators import toy

COMPILED = toy.compile_counter()


def test_a_shape_is_compiled_once_wherever_its_arguments_are():
  def wanted(x, y):
    return x * y[None]

  spec = PartitionSpec('row')
  mesh = grid.make_mesh(2, 1)
  function = compilation.sharded(wanted, mesh, (spec, PartitionSpec()), spec)
  y = jnp.float32(2)
  on_second = jax.device_put(np.ones(4, np.float32), jax.devices()[1])
  COMPILED.clear()
  for x in (np.ones(4, np.float32), jnp.ones(4), on_second):
    np.testing.assert_array_equal(function(x, y), 2 * np.ones(4))
  np.testing.assert_array_equal(function(function(on_second, y), y), [4] * 4)
  assert COMPILED['jit(wanted)'] == 1
  placed = function.place(on_second, y)
  assert function.compiled(*placed) is function.compiled(*placed)
  function(jnp.ones(6), y)
  assert COMPILED['jit(wanted)'] == 2


@pytest.mark.parametrize(
  ('name', 'requested'),
  [
    ('float32', 'precision = [HIGHEST, HIGHEST]'),
    ('tensorfloat32', 'precision = [HIGH, HIGH]'),
    ('bfloat16', 'lhs_precision_type = bf16, rhs_precision_type = bf16, '),
  ],
)
def test_products_and_their_gradients_ask_for_the_precision(name, requested):
  """Whatever the default of the process is."""

  def gradient(x):
    return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ x)))(x)

  with (
    jax.default_matmul_precision('highest' if name != 'float32' else 'high'),
    compilation.matmul_precision_scope(name),
  ):
    text = jax.jit(gradient).lower(jnp.ones((4, 4))).as_text()
  products = [line for line in text.splitlines() if 'dot_general' in line]
  assert len(products) >= 3
  for line in products:
    assert requested in line
    assert '-> tensor<4x4xf32>' in line
    if name == 'bfloat16':
      assert 'accumulation_type = f32' in line


@pytest.mark.parametrize('name', ['tensorfloat32', 'bfloat16'])
def test_a_cpu_does_not_round_and_so_is_refused(name):
  """If XLA should begin to, this fails, and the check can go."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 128, 128)).astype(np.float32)
  product = lambda x, y: x @ y
  result = []
  for precision in ('float32', name):
    with compilation.matmul_precision_scope(precision):
      result.append(np.asarray(jax.jit(product)(x, y)))
  np.testing.assert_array_equal(*result)
  with pytest.raises(ValueError, match=f"float32' on a CPU.*got '{name}'"):
    toy.run(matmul_precision=name)
  compilation.check_matmul_precision(name, 'gpu')


@pytest.mark.parametrize('platform', ['cpu', 'gpu'])
def test_an_unknown_precision_is_refused(platform):
  with pytest.raises(ValueError, match="one of float32, .*got 'float16'"):
    compilation.check_matmul_precision('float16', platform)


def test_the_precision_is_part_of_what_the_numbers_are(tmp_path):
  toy.run(store=rllc_jax.open_store(tmp_path / 'store'))
  text = rllc_jax.open_store(tmp_path / 'store').read().attrs['identity']
  assert '"matmul_precision": "float32"' in text


def test_a_program_asks_for_the_precision_of_its_run():
  """Not for that of the process, which a GPU would take as TF32."""
  mesh = grid.make_mesh(1, 1)
  spec = PartitionSpec()
  square = lambda x: x @ x
  for name, requested in (('float32', 'highest'), ('tensorfloat32', 'high')):
    function = compilation.sharded(
      square, mesh, (spec,), spec, matmul_precision=name
    )
    with jax.default_matmul_precision('bfloat16'):
      text = function.compiled(jnp.ones((64, 64))).as_text()
    assert f'operand_precision={{{requested},{requested}}}' in text
