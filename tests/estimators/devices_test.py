"""The same numbers on any devices, of a process that has eight."""

import pytest

from tests import binaries

SCRIPT = """
  import jax
  jax.config.update('jax_num_cpu_devices', 8)
  import jax.numpy as jnp
  import numpy as np
  from rllc_jax import types
  from rllc_jax.estimators import grid
  from rllc_jax.refinement import weights
  from tests.estimators import toy

  def program_text(mesh):
    '''The compiled program of a run, from `jax.stages.Compiled`.'''
    from rllc_jax.estimators import blocks
    texts, compiled = [], blocks.compiled
    def keep(*arguments):
      texts.append(compiled(*arguments).as_text())
      return compiled(*arguments)
    blocks.compiled = keep
    try:
      found = toy.run(mesh=mesh)
    finally:
      blocks.compiled = compiled
    return found, texts[0]

  def random_numbers(mesh, **options):
    '''Minibatches, and where noise alone takes the chains.'''
    flat = lambda params, batch: 0 * (jnp.sum(params['v']) + jnp.sum(batch))
    heads = types.Refinements(
      ('0:0', '0:1', '0:2'),
      toy.LENS,
      jnp.arange(3),
      weights.refine(flat, toy.LENS),
    )
    return toy.run(
      refinements=heads,
      nbeta=30.0, localization=0.0,
      observe=lambda position, context: {'batch': context[1], **position},
      mesh=mesh,
      **options,
    )

  alone = grid.make_mesh(1, 1)
  (whole, _), bits = program_text(alone), random_numbers(alone)
  assert len(np.unique(bits.W.isel(draw=-1))) == bits.W.isel(draw=-1).size
  shapes = {
    (1, 2): {'segment': 7},
    (3, 1): {'chunk_size': 1},
    (2, 4): {'rows_per_block': 6, 'segment': 4},
  }
  words = 'all-reduce all-gather all-to-all reduce-scatter collective'
  for shape, options in shapes.items():  # 6 rows, 6 columns: 8 do not divide.
    mesh = grid.make_mesh(*shape)
    found, text = program_text(mesh)
    toy.assert_same_traces(found, whole)
    for word in words.split():
      assert word not in text, (shape, word)
    assert f'num_partitions={np.prod(shape)}' in text
    found = random_numbers(mesh, **options)
    for name in ('batch', 'W', 'v'):
      np.testing.assert_array_equal(found[name], bits[name])

  grid = np.array(jax.devices()).reshape(2, 2, 2)
  axes = (jax.sharding.AxisType.Auto,) * 3
  own = jax.sharding.Mesh(grid, ('row', 'model', 'column'), axis_types=axes)
  found, text = program_text(own)
  toy.assert_same_traces(found, whole)
  print('done')
"""


@pytest.mark.filterwarnings('ignore')
def test_meshes_of_one_to_eight_devices_and_one_of_the_users_own():
  result = binaries.run(SCRIPT)
  assert result.stdout.strip() == 'done', result.stderr[-3000:]
