"""What is asked of a run: checked at the door, and with an identity.

The identity says what the numbers are; a store goes on with no other. It holds
hashes of weights and data, what moves, and everything else that changes a
number, but not how many there are and how they are laid out.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rllc_jax import trees
from rllc_jax import types
from rllc_jax.estimators import blocks
from rllc_jax.estimators import compilation
from rllc_jax.estimators import door
from rllc_jax.estimators import errors
from rllc_jax.estimators import layout
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.refinement import weights
from rllc_jax.results import store as stores
from rllc_jax.samplers import sgld


class Request(NamedTuple):
  """A run that makes sense.

  Attributes:
    refinements: families.
    extent: its coordinates.
    identity: what its numbers are, JSON.
    made_with: versions and devices.
    job: what all its blocks have in common.
  """

  refinements: Sequence[types.Refinements]
  extent: stores.Extent
  identity: dict[str, Any]
  made_with: str
  job: blocks.Job


def check(
  rng_key: types.Key,
  refinements: Sequence[types.Refinements] | types.Refinements,
  trajectory: types.Trajectory,
  datasets: Mapping[str, types.PyTree],
  minibatches: types.Minibatches,
  *,
  posterior: types.Posterior,
  step_size: float,
  num_chains: int = 4,
  num_draws: int = 200,
  burn_in: int | None = None,
  num_steps_between_draws: int = 1,
  sampler: types.Sampler | None = None,
  share_batches: bool = True,
  num_baseline_batches: int = 64,
  chunk_size: int | None = None,
  rows_per_block: int | None = None,
  segment: int | None = None,
  mesh: jax.sharding.Mesh | None = None,
  matmul_precision: str = 'float32',
  provenance: Mapping[str, Any] | None = None,
  observe: types.Observe | None = None,
  with_losses: bool = True,
) -> Request:
  """Checks all that a run is asked for, before anything is compiled.

  Args:
    rng_key: as all others, of `trajectory.estimate_trajectory`.
    refinements: families, or one.
    trajectory: the checkpoints; all are read if they come without fingerprints.
    datasets: windows by name.
    minibatches: what the windows look into.
    posterior: n beta and gamma.
    step_size: epsilon.
    num_chains: chains a refinement.
    num_draws: draws after the burn-in.
    burn_in: steps before them.
    num_steps_between_draws: steps from one draw to the next.
    sampler: SGLD by default.
    share_batches: whether columns see the same minibatches.
    num_baseline_batches: minibatches for the corpus baseline.
    chunk_size: columns of a device in parallel.
    rows_per_block: rows a call.
    segment: draws a call.
    mesh: all local devices by default.
    matmul_precision: of matrix products.
    provenance: what else makes the numbers what they are.
    observe: what is recorded at draws.
    with_losses: whether the identity tells losses and refinements apart by
      what they do, which takes a compilation a family: needed for a store.

  Raises:
    ValueError: if something is out of range, given twice or not finite.
  """
  if isinstance(refinements, types.Refinements):
    refinements = [refinements]
  num_chains, num_draws, num_steps_between_draws = settings.counts(
    num_chains=num_chains,
    num_draws=num_draws,
    num_steps_between_draws=num_steps_between_draws,
  )
  settings.check(
    rng_key, posterior, step_size, num_chains, num_steps_between_draws, 1.0
  )
  errors.check_num_draws(num_draws)
  left_out = settings.burn_in_draws(
    burn_in, step_size, posterior, num_steps_between_draws
  )
  settings.check_lengths(
    num_chains, left_out + num_draws, num_steps_between_draws
  )
  extent = stores.Extent(
    checkpoints=tuple(int(step) for step in trajectory.steps),
    datasets=tuple(datasets),
    refinements=tuple(name for family in refinements for name in family.names),
    num_chains=num_chains,
    num_draws=left_out + num_draws,
  )
  stores.check_extent(extent)
  num_rows = len(extent.checkpoints) * len(extent.datasets)
  mesh = layout.default_mesh(num_rows) if mesh is None else mesh
  rows_per_block = rows_per_block or mesh.shape['row']
  layout.check_rows_per_block(rows_per_block, mesh)
  compilation.check_matmul_precision(
    matmul_precision, mesh.devices.flat[0].platform
  )
  for name, window in datasets.items():
    settings.check_window(name, window, minibatches)
  fingerprint = trajectory.fingerprint or (
    lambda step: trees.content_hash(_checkpoint(trajectory, step))
  )
  hashes = {str(step): fingerprint(step) for step in extent.checkpoints}
  params = _checkpoint(trajectory, extent.checkpoints[0])
  dataset = min(datasets)
  sampler = sampler or sgld.sgld()
  settings.warn_of_bias(sampler)
  subject = door.Subject(
    params, datasets[dataset], minibatches, posterior, sampler, observe
  )
  door.check(refinements, subject)
  identity = {
    'provenance': dict(provenance or {}),
    'sampler': sampler.name,
    'nbeta': float(posterior.nbeta),
    'localization': float(posterior.localization),
    'step_size': float(step_size),
    'burn_in': left_out * num_steps_between_draws,
    'num_steps_between_draws': int(num_steps_between_draws),
    'share_batches': bool(share_batches),
    'num_baseline_batches': int(num_baseline_batches),
    'params': hashes,
    'num_coordinates': {
      name: programs.num_coordinates(family, params)
      for family in refinements
      for name in family.names
    },
    **_identity_of_data(minibatches, datasets),
    **_identity_of_numbers(rng_key, matmul_precision),
  }
  if with_losses:
    identity |= _identity_of_refinements(
      refinements, subject, extent.checkpoints[0], dataset
    )
  job = blocks.make_job(
    rng_key,
    datasets,
    minibatches,
    programs.make_settings(posterior, step_size),
    sampler,
    mesh=mesh,
    rows_per_block=rows_per_block,
    num_draws=extent.num_draws,
    segment=segment,
    chunk_size=chunk_size,
    num_steps_between_draws=num_steps_between_draws,
    num_baseline_batches=num_baseline_batches,
    share_batches=share_batches,
    observe=observe,
    matmul_precision=matmul_precision,
  )
  return Request(refinements, extent, identity, _made_with(mesh), job)


def _checkpoint(trajectory: types.Trajectory, step: int) -> types.Params:
  """One checkpoint; raises if `load` does not stack or it is not finite."""
  stacked = trees.copied(trajectory.load([step]))
  for path, leaf in jax.tree_util.tree_leaves_with_path(stacked):
    name = jax.tree_util.keystr(path)
    if np.shape(leaf)[:1] != (1,):
      raise ValueError(
        'load(steps) must give leaves with a leading axis, one entry a step; '
        f'got shape {list(np.shape(leaf))} for {name} of load([{step}]).'
      )
    count = np.size(leaf) - np.isfinite(np.asarray(leaf, float)).sum()
    if count:
      raise ValueError(
        'A checkpoint must be finite, because chains start from it; got '
        f'{count} values that are not in {name} at step {step}.'
      )
  return jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), stacked)


def _identity_of_refinements(
  refinements: Sequence[types.Refinements],
  subject: door.Subject,
  step: int,
  dataset: str,
) -> dict[str, Any]:
  """Which numbers move, and what the loss does: names do not tell either.

  On one data set: what differs between data sets is in the windows.
  """
  identity: dict[str, Any] = {'moving': {}, 'losses': {}, 'observed': {}}
  for family in refinements:
    for i, name in enumerate(family.names):
      index = door.member(family, i)
      mask = weights.mask_of(family.lens, index, subject.params)
      identity['moving'][name] = trees.content_hash(mask)
    computed = door.identity_of_losses(family, subject, step, dataset)
    for name, values in computed.items():
      identity[name] |= values
  return identity


def _identity_of_data(minibatches, datasets) -> dict[str, Any]:
  window = next(iter(datasets.values()))
  key = jax.random.key(0)
  batch = jax.eval_shape(minibatches.draw, key, 0, minibatches.data, window)
  return {
    'data': trees.content_hash(minibatches.data),
    'batch': str([f'{x.dtype}{list(x.shape)}' for x in jax.tree.leaves(batch)]),
    'windows': {
      name: [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(window)]
      for name, window in datasets.items()
    },
  }


def _made_with(mesh) -> str:
  devices = mesh.devices.flatten()
  kind = devices[0].device_kind
  return f'jax {jax.__version__}, {devices.size} x {kind}'


def _identity_of_numbers(rng_key, matmul_precision) -> dict[str, Any]:
  config: Any = jax.config  # Its values are made at run time.
  return {
    'rng_key': np.asarray(jax.random.key_data(rng_key)).tolist(),
    'threefry_partitionable': config.jax_threefry_partitionable,
    'enable_x64': config.jax_enable_x64,
    'matmul_precision': matmul_precision,
  }
