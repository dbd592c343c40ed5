"""Checkpoints of blocks, loaded while the block before is worked on."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures

import jax

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import grid
from rllc_jax.estimators import missing


def loaded_ahead(
  trajectory: types.Trajectory,
  works: list[missing.Work],
  rows_per_block: int,
  hashes: Mapping[str, str] | None,
) -> Iterator[tuple[missing.Work, types.Params]]:
  """Blocks with their checkpoints; the next loads while one is worked on.

  Raises:
    ValueError: if weights are others than those with these hashes.
  """

  def load(work):
    rows = grid.padded(work.rows, rows_per_block)
    steps = [step for step, _ in rows]
    # What a caller hands out may be memory that its next call writes to.
    params = trees.copied(trajectory.load(steps))
    if hashes is not None:
      _check_hashes(params, steps, hashes)
    return params

  with futures.ThreadPoolExecutor(max_workers=1) as loader:
    ahead = [loader.submit(load, work) for work in works[:1]]
    for i, work in enumerate(works):
      params = ahead.pop().result()
      ahead = [loader.submit(load, after) for after in works[i + 1 : i + 2]]
      yield work, params


def _check_hashes(
  params: types.Params, steps: Sequence[int], hashes: Mapping[str, str]
) -> None:
  """Raises unless the weights to be sampled are those that were checked."""
  for place, step in enumerate(steps):
    weights = jax.tree.map(lambda leaf, i=place: leaf[i], params)
    if trees.content_hash(weights) != hashes[str(step)]:
      raise ValueError(
        'load(steps) must give the same weights whenever it is asked for a '
        'step, because results are kept under its number; got others for step '
        f'{step} than before.'
      )
