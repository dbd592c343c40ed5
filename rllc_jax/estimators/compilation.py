"""Functions over a mesh, compiled ahead of time: once for each shape.

Two calls with arguments of one shape run one compiled object, wherever the
arguments come from: they are first put where the mesh wants them.
"""

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from rllc_jax import types

# What JAX calls the precisions. The name 'bfloat16' of JAX means the fastest
# that a device has, which is TF32 on a GPU; the algorithm means bfloat16.
_MATMUL_PRECISIONS = {
  'float32': 'float32',
  'tensorfloat32': 'tensorfloat32',
  'bfloat16': 'BF16_BF16_F32',
}


def matmul_precision_scope(name: str) -> Any:
  """A context in which matrix products are traced with a precision.

  Args:
    name: 'float32', 'tensorfloat32' or 'bfloat16'; see
      `check_matmul_precision`.
  """
  return jax.default_matmul_precision(_MATMUL_PRECISIONS[name])


def check_name_of_precision(name: str) -> None:
  """Raises unless there is a precision of that name."""
  if name not in _MATMUL_PRECISIONS:
    raise ValueError(
      f'matmul_precision must be one of {", ".join(_MATMUL_PRECISIONS)}, what '
      f'matrix products are rounded to; got {name!r}.'
    )


def check_matmul_precision(name: str, platform: str) -> None:
  """Raises unless a platform multiplies matrices as the name says.

  'tensorfloat32' and 'bfloat16' round what is multiplied to 10 and 7 bits of
  mantissa (a TPU takes three products of bfloat16 for the former) and add up in
  float32. On a CPU, XLA takes such a request and multiplies float32 all the
  same (measured: equal bits), so results would claim what was not done.

  Args:
    name: of the precision.
    platform: of the devices, such as 'cpu'.
  """
  check_name_of_precision(name)
  if platform == 'cpu' and name != 'float32':
    raise ValueError(
      "matmul_precision must be 'float32' on a CPU, because XLA multiplies "
      f'float32 there whatever is asked for; got {name!r}.'
    )


class ShardedFunction(NamedTuple):
  """A function over a mesh. Calling it places, compiles if needed, and runs.

  Attributes:
    place: `place(*args)` puts arguments where the mesh wants them.
    compiled: `compiled(*args) -> jax.stages.Compiled`, for arguments that are
      placed: the same object for the same shapes, for as long as this lives.
  """

  place: Callable[..., tuple[types.PyTree, ...]]
  compiled: Callable[..., Any]

  def __call__(self, *args: types.PyTree) -> Any:
    placed = self.place(*args)
    return self.compiled(*placed)(*placed)


def sharded(
  function: Callable[..., Any],
  mesh: jax.sharding.Mesh,
  in_specs: Sequence[PartitionSpec],
  out_specs: Any,
  *,
  matmul_precision: str = 'float32',
  donate: tuple[int, ...] = (),
) -> ShardedFunction:
  """Runs a function on every device of a mesh, each on its part.

  Args:
    function: of pytrees; its name is that of the compiled program.
    mesh: the devices.
    in_specs: how each argument is cut up.
    out_specs: how the results are put together.
    matmul_precision: of its matrix products.
    donate: arguments whose memory the results may take.

  Examples:
    >>> mesh = jax.make_mesh((1,), ('row',))
    >>> spec = PartitionSpec('row')
    >>> double = sharded(lambda x: 2 * x, mesh, (spec,), spec)
    >>> print(double(jax.numpy.arange(3)), double(jax.numpy.ones(2)))
    [0 2 4] [2. 2.]
  """
  # check_vma needs the types of loop buffers to name mesh axes; no collective
  # runs here, so there is nothing for it to check.
  mapped = jax.shard_map(
    function,
    mesh=mesh,
    in_specs=tuple(in_specs),
    out_specs=out_specs,
    check_vma=False,
  )
  jitted = jax.jit(mapped, donate_argnums=donate)
  shardings = [NamedSharding(mesh, spec) for spec in in_specs]
  compiled_by_shape: dict[Any, Any] = {}

  def place(*args):
    return tuple(map(jax.device_put, args, shardings))

  def compiled(*args):
    leaves, structure = jax.tree.flatten(args)
    shapes = structure, *map(jax.typeof, leaves)
    if shapes not in compiled_by_shape:
      with matmul_precision_scope(matmul_precision):
        compiled_by_shape[shapes] = jitted.lower(*args).compile()
    return compiled_by_shape[shapes]

  return ShardedFunction(place, compiled)


def replicated(tree: types.PyTree, mesh: jax.sharding.Mesh) -> types.PyTree:
  """Arrays on every device of a mesh, so that calls need not copy them."""
  return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
