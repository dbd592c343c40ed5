"""The same numbers on any devices, of a process that has eight."""

import os
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
  import jax
  jax.config.update('jax_num_cpu_devices', 8)
  import numpy as np
  from rllc_jax.estimators import layout
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

  whole, _ = program_text(layout.make_mesh(1, 1))
  shapes = [(1, 2), (2, 1), (3, 1), (1, 3), (8, 1), (1, 8), (2, 4)]
  for shape in shapes:  # 6 rows, 6 columns: some do not divide.
    found, text = program_text(layout.make_mesh(*shape))
    toy.assert_same_traces(found, whole)
    for word in ('all-reduce', 'all-gather', 'all-to-all', 'permute('):
      assert word not in text, (shape, word)
    assert f'num_partitions={np.prod(shape)}' in text

  grid = np.array(jax.devices()).reshape(2, 2, 2)
  axes = (jax.sharding.AxisType.Auto,) * 3
  own = jax.sharding.Mesh(grid, ('row', 'model', 'column'), axis_types=axes)
  found, text = program_text(own)
  toy.assert_same_traces(found, whole)
  print('done')
"""


@pytest.mark.filterwarnings('ignore')
def test_meshes_of_one_to_eight_devices_and_one_of_the_users_own():
  result = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(SCRIPT)],
    capture_output=True,
    text=True,
    timeout=300,
    env={**os.environ, 'PYTHONPATH': os.getcwd()},
  )
  assert result.stdout.strip() == 'done', result.stderr[-3000:]
