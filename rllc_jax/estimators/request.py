"""The specification of a run, its checks and its identity.

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
from rllc_jax.estimators import program as programs
from rllc_jax.estimators import settings
from rllc_jax.refinement import weights
from rllc_jax.results import store as stores


class Spec(NamedTuple):
  """The specification of a run.

  Attributes:
    rng_key: typed threefry key.
    refinements: families.
    trajectory: the checkpoints.
    datasets: windows by name.
    minibatches: what the windows look into, and how minibatches are drawn.
    sampling: settings of the chains.
    layout: where and in which pieces.
    provenance: what else makes the numbers what they are, JSON.
    observe: what is recorded at draws.
  """

  rng_key: types.Key
  refinements: Sequence[types.Refinements]
  trajectory: types.Trajectory
  datasets: Mapping[str, types.PyTree]
  minibatches: types.Minibatches
  sampling: settings.Sampling
  layout: settings.Layout = settings.Layout()
  provenance: Mapping[str, Any] | None = None
  observe: types.Observe | None = None


class Request(NamedTuple):
  """A run that was checked.

  Attributes:
    spec: what was asked.
    extent: its coordinates.
    identity: what its numbers are, JSON.
    made_with: versions and devices.
    job: what all its blocks have in common.
  """

  spec: Spec
  extent: stores.Extent
  identity: dict[str, Any]
  made_with: str
  job: blocks.Job

  def at(self, sampling: settings.Sampling) -> 'Request':
    """The same at other settings of what is swept, without checking again."""
    return self._replace(
      spec=self.spec._replace(sampling=sampling),
      extent=self.extent._replace(num_draws=sampling.num_recorded),
      identity=self.identity | sampling.identity(),
      job=self.job._replace(sampling=sampling),
    )


def check(spec: Spec, *, with_losses: bool) -> Request:
  """Checks all that a run is asked for, before anything is compiled.

  Args:
    spec: its checkpoints are all read if they come without fingerprints.
    with_losses: whether the identity tells losses and refinements apart by
      what they do, which takes a compilation a family: needed for a store.

  Raises:
    ValueError: if something is out of range, given twice or not finite.
  """
  check_key(spec.rng_key)
  extent = _extent(spec)
  num_rows = len(extent.checkpoints) * len(extent.datasets)
  mesh, _ = spec.layout.on_mesh(num_rows)
  compilation.check_matmul_precision(
    spec.sampling.matmul_precision, mesh.devices.flat[0].platform
  )
  for name, window in spec.datasets.items():
    check_window(name, window, spec.minibatches)
  settings.warn_of_bias(spec.sampling.kernel)
  hashes = _fingerprints(spec.trajectory)
  params = _checkpoint(spec.trajectory, extent.checkpoints[0])
  subject = door.Subject(
    params,
    spec.datasets[min(spec.datasets)],
    spec.minibatches,
    spec.sampling.posterior,
    spec.sampling.kernel,
    spec.observe,
  )
  door.check(spec.refinements, subject)
  identity = _identity(spec, params) | {'params': hashes}
  if with_losses:
    identity |= _identity_of_refinements(spec, subject)
  return Request(spec, extent, identity, *_work(spec, num_rows))


def of_worker(spec: Spec) -> Request:
  """A run that another process has checked, on the devices of this one.

  Its identity is in the store.
  """
  extent = _extent(spec)
  num_rows = len(extent.checkpoints) * len(extent.datasets)
  return Request(spec, extent, {}, *_work(spec, num_rows))


def _work(spec: Spec, num_rows: int) -> tuple[str, blocks.Job]:
  """Versions and devices, and what all blocks have in common."""
  mesh, rows_per_block = spec.layout.on_mesh(num_rows)
  job = blocks.make_job(
    spec.rng_key,
    spec.datasets,
    spec.minibatches,
    spec.sampling,
    spec.layout,
    mesh=mesh,
    rows_per_block=rows_per_block,
    observe=spec.observe,
  )
  return _made_with(mesh), job


def check_key(rng_key: types.Key) -> None:
  """Raises unless the key is a typed threefry key of shape []."""
  typed = isinstance(rng_key, jax.Array) and jnp.issubdtype(
    rng_key.dtype, jax.dtypes.prng_key
  )
  kind = str(jax.random.key_impl(rng_key)) if typed else type(rng_key).__name__
  if 'threefry2x32' not in kind or rng_key.shape:
    raise ValueError(
      'rng_key must be one typed threefry key, jax.random.key(seed, '
      "impl='threefry2x32'), because random numbers are addressed by folding "
      f'into it; got {kind}{list(rng_key.shape) if typed else ""}.'
    )


def check_window(
  name: str, window: types.PyTree, minibatches: types.Minibatches
) -> None:
  """Raises unless a window lies within the data: JAX would clamp indices."""
  count = len(jax.tree.leaves(minibatches.data)[0])
  if not isinstance(window, types.Window | types.WeightedWindow):
    return
  start, length = int(window.start), int(window.length)
  if start < 0 or length < 1 or start + length > count:
    raise ValueError(
      f'The window of data set {name!r} must hold at least one of the {count} '
      f'sequences and lie within them; got start {start}, length {length}.'
    )


def _extent(spec: Spec) -> stores.Extent:
  """The coordinates of a run; raises if they cannot be such."""
  extent = stores.Extent(
    checkpoints=tuple(int(step) for step in spec.trajectory.steps),
    datasets=tuple(spec.datasets),
    refinements=tuple(
      name for family in spec.refinements for name in family.names
    ),
    num_chains=spec.sampling.num_chains,
    num_draws=spec.sampling.num_recorded,
  )
  stores.check_extent(extent)
  return extent


def _fingerprints(trajectory: types.Trajectory) -> dict[str, str]:
  """Hashes of the weights by training step."""
  fingerprint = trajectory.fingerprint or (
    lambda step: trees.content_hash(_checkpoint(trajectory, step))
  )
  return {str(int(step)): fingerprint(int(step)) for step in trajectory.steps}


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


def _identity(spec: Spec, params: types.Params) -> dict[str, Any]:
  """The identity of a run, apart from weights and losses."""
  return {
    'provenance': dict(spec.provenance or {}),
    **spec.sampling.identity(),
    'num_coordinates': {
      name: programs.num_coordinates(family, params)
      for family in spec.refinements
      for name in family.names
    },
    **_identity_of_data(spec.minibatches, spec.datasets),
    **_identity_of_numbers(spec.rng_key),
  }


def _identity_of_refinements(
  spec: Spec, subject: door.Subject
) -> dict[str, Any]:
  """Which numbers move, and what the loss does: names do not tell either.

  On one data set: what differs between data sets is in the windows.
  """
  step, dataset = int(spec.trajectory.steps[0]), min(spec.datasets)
  identity: dict[str, Any] = {'moving': {}, 'losses': {}, 'observed': {}}
  for family in spec.refinements:
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


def _identity_of_numbers(rng_key) -> dict[str, Any]:
  config: Any = jax.config  # Its values are made at run time.
  return {
    'rng_key': np.asarray(jax.random.key_data(rng_key)).tolist(),
    'threefry_partitionable': config.jax_threefry_partitionable,
    'enable_x64': config.jax_enable_x64,
  }
