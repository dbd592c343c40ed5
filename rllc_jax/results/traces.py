"""Traces as an xarray data set: names, coordinates, identity and extent.

The identity says what the numbers are; a store never mixes two. The extent says
how many there are; it may grow in every direction, in any order.
"""

from collections.abc import Mapping
import json
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax.results import store as stores

DIMS = ('checkpoint', 'dataset', 'refinement', 'chain', 'draw')
# Parts of an identity that have an entry a coordinate, and grow with them.
_GROWING = (
  'params',
  'windows',
  'num_coordinates',
  'moving',
  'losses',
  'observed',
)
# Those that were computed: equal up to what devices and versions differ by.
_COMPUTED = ('losses', 'observed')
_SAME_DEVICE, _OTHER_DEVICE = 5e-5, 1e-3
# What a reader takes by default and may change: the last run says.
_LATEST = ('burn_in',)


class StoreError(ValueError):
  """A store that cannot be used as asked; nothing in it was changed."""


class EmptyStoreError(StoreError):
  """A store without results."""


def sizes(extent: stores.Extent) -> tuple[int, ...]:
  """The lengths of `DIMS`."""
  return (*map(len, extent[:3]), *extent[3:])


def own_dims(name: str, count: int) -> list[str]:
  """Names of the axes that a variable has besides those of `DIMS`."""
  if name == 'baseline_loss':
    return ['baseline_batch']
  return [f'{name}_{i}' for i in range(count)]


def dataset_of(
  arrays: Mapping[str, np.ndarray],
  identity: Mapping[str, Any],
  extent: stores.Extent,
) -> xr.Dataset:
  """Arrays over an extent as a data set with coordinates and attributes.

  Args:
    arrays: `recorded` [checkpoint, dataset, refinement, chain], `made_with`
      without [chain], `baseline_loss` with [M] instead, the others with all of
      `DIMS` first.
    identity: what the numbers are; its settings become attributes.
    extent: the coordinates.
  """
  shared_dims = {
    'recorded': DIMS[:4],
    'baseline_loss': DIMS[:3],
    'made_with': DIMS[:3],
  }
  variables = {}
  for name, array in arrays.items():
    dims = shared_dims.get(name, DIMS)
    own = (
      own_dims(name, array.ndim - len(dims)) if array.ndim > len(dims) else []
    )
    variables[name] = ((*dims, *own), array)
  spacing = identity['num_steps_between_draws']
  moving = [identity['num_coordinates'][name] for name in extent.refinements]
  coordinates = {
    'checkpoint': np.array(extent.checkpoints, np.int64),
    'dataset': np.array(extent.datasets, str),
    'refinement': np.array(extent.refinements, str),
    'chain': np.arange(extent.num_chains),
    'draw': np.arange(extent.num_draws) * spacing,
    'num_coordinates': ('refinement', np.array(moving, np.int64)),
  }
  settings = ('nbeta', 'localization', 'step_size', 'num_steps_between_draws')
  attributes = {name: identity[name] for name in settings}
  for name in ('burn_in', 'sampler'):
    if name in identity:
      attributes[name] = identity[name]
  attributes['identity'] = json.dumps(identity)
  return xr.Dataset(variables, coordinates, attributes)


def check_within(asked: stores.Extent, held: stores.Extent) -> None:
  """Raises unless an extent is part of that of a store.

  Raises:
    StoreError: naming the first coordinate that is not.
    ValueError: if it is none.
  """
  stores.check_extent(asked)
  for name in stores.Extent._fields:
    some, known = getattr(asked, name), getattr(held, name)
    if name.startswith('num_'):
      strange, had = [] if 0 < some <= known else [some], known
    else:
      among = {*known}
      strange, had = [x for x in some if x not in among], f'{len(known)} others'
    if strange:
      raise StoreError(
        f'{name} to be read must be in the store; got {strange[0]!r}, and it '
        f'has {had}. See store.extent.'
      )


def select(traces: xr.Dataset, extent: stores.Extent) -> xr.Dataset:
  """The part of traces that an extent asks for, in its order."""
  found = traces.sel(
    checkpoint=list(extent.checkpoints),
    dataset=list(extent.datasets),
    refinement=list(extent.refinements),
  ).isel(chain=slice(extent.num_chains), draw=slice(extent.num_draws))
  return found.assign(recorded=found.recorded.clip(max=extent.num_draws))


def grown(old: stores.Extent, new: stores.Extent) -> stores.Extent:
  """The smallest extent that holds both; what is new comes after.

  Examples:
    >>> old = stores.Extent((0, 8), ('train',), ('0:0',), 4, 100)
    >>> new = stores.Extent((0, 4), ('train',), ('0:1',), 2, 200)
    >>> grown(old, new).checkpoints, grown(old, new).num_draws
    ((0, 8, 4), 200)
  """
  union = lambda a, b: tuple(dict.fromkeys([*a, *b]))
  return stores.Extent(
    checkpoints=union(old.checkpoints, new.checkpoints),
    datasets=union(old.datasets, new.datasets),
    refinements=union(old.refinements, new.refinements),
    num_chains=max(old.num_chains, new.num_chains),
    num_draws=max(old.num_draws, new.num_draws),
  )


def merge_identity(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """Both identities together, and their first difference in words, or ''.

  Examples:
    >>> merge_identity({'nbeta': 30}, {'nbeta': 10})[1]
    'nbeta = 30, and this run has 10'
    >>> merge_identity({'params': {'0': 'a'}}, {'params': {'8': 'b'}})
    ({'params': {'0': 'a', '8': 'b'}}, '')
  """
  merged, difference = dict(old), ''
  for name, value in json.loads(json.dumps(new)).items():
    if name in _LATEST:
      merged[name] = value
    known = merged.setdefault(name, value)
    if name in _GROWING:
      added = {key: x for key, x in value.items() if key not in known}
      merged[name] = {**known, **added}
      known = {key: known.get(key, value[key]) for key in value}
    if name in _COMPUTED:
      known = {
        key: value[key] if _close(known[key], value[key]) else known[key]
        for key in value
      }
    if known != value:
      difference = difference or _first_difference(name, known, value)
  return merged, difference


def _close(old: Any, new: Mapping[str, Any]) -> bool:
  """True if two probes differ by no more than arithmetic does.

  Relative to the largest of each number over the points that were probed: at a
  perfect fit the loss itself is rounding alone.
  """
  if not isinstance(old, dict) or old.get('kind') != new.get('kind'):
    return False
  a, b = (np.array(x['values'], float) for x in (old, new))
  if a.shape != b.shape:
    return False
  same_device = old['device'] == new['device']
  tolerance = _SAME_DEVICE if same_device else _OTHER_DEVICE
  scale = np.nanmax(abs(a), axis=0, initial=1e-30)
  return np.allclose(a / scale, b / scale, 0, tolerance, equal_nan=True)


def _first_difference(name, old, new) -> str:
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted({*old, *new}):
      if old.get(key) != new.get(key):
        return _first_difference(f'{name}.{key}', old.get(key), new.get(key))
  return f'{name} = {old}, and this run has {new}'
