"""Traces as an xarray data set: names, coordinates, identity and extent.

The identity fixes the meaning of the numbers; a store never mixes two. The
extent is their coordinates; it may grow along every dim, in any order.
"""

from collections.abc import Mapping
import json
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax import identities
from rllc_jax.results import store

DIMS = ('checkpoint', 'dataset', 'refinement', 'chain', 'draw')
# Parts of an identity with one entry per coordinate, which grow with these.
_GROWING = (
  'params',
  'windows',
  'num_coordinates',
  'moving',
  'losses',
  'observed',
)
# Computed parts: equal up to the arithmetic of devices and versions.
_COMPUTED = ('losses', 'observed')
# Relative. At 1e-3 on one device, a loss times 1.0005 passed as the same.
_SAME_DEVICE, _OTHER_DEVICE = 5e-5, 1e-3
# A reader's defaults, not compared: the last run's are stored.
_LATEST = ('burn_in',)


class StoreError(ValueError):
  """A store that cannot be used this way; nothing in it was changed."""


class EmptyStoreError(StoreError):
  """A store without results."""


def sizes(extent: store.Extent) -> tuple[int, ...]:
  """The lengths of `DIMS`."""
  return (*map(len, extent[:3]), *extent[3:])


def own_dims(name: str, count: int) -> list[str]:
  """Names of the axes that a variable has besides those of `DIMS`."""
  if name == 'baseline_loss':
    return ['baseline_batch']
  return [f'{name}_{i}' for i in range(count)]


def dataset_of(
  arrays: Mapping[str, Any], identity: Mapping[str, Any], extent: store.Extent
) -> xr.Dataset:
  """Arrays over an extent as a data set with coordinates and attributes.

  Args:
    arrays: `recorded` [checkpoint, dataset, refinement, chain], `made_with`
      without [chain], `baseline_loss` with [M] instead, the others with all of
      `DIMS` first.
    identity: the settings and hashes of the run; settings become attributes.
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
    own_axes = (
      own_dims(name, array.ndim - len(dims)) if array.ndim > len(dims) else []
    )
    variables[name] = ((*dims, *own_axes), array)
  spacing = identity['num_steps_between_draws']
  moving = [identity['num_coordinates'][name] for name in extent.refinements]
  coordinates = {
    'checkpoint': np.array(extent.checkpoints, np.int64),
    'dataset': np.array(extent.datasets, str),
    'refinement': np.array(extent.refinements, str),
    'chain': np.arange(extent.num_chains),
    'draw': np.arange(extent.num_draws) * spacing,  # In steps.
    'num_coordinates': ('refinement', np.array(moving, np.int64)),
  }
  settings = ('nbeta', 'localization', 'step_size', 'num_steps_between_draws')
  attributes = {name: identity[name] for name in settings}
  for name in ('burn_in', 'sampler'):
    if name in identity:
      attributes[name] = identity[name]
  attributes['identity'] = json.dumps(identity)
  return xr.Dataset(variables, coordinates, attributes)


def check_within(extent: store.Extent, stored_extent: store.Extent) -> None:
  """Raises unless an extent is part of that of a store.

  Raises:
    StoreError: naming the first coordinate that is not.
    ValueError: if it is none.
  """
  store.check_extent(extent)
  for name in store.Extent._fields:
    values, stored = getattr(extent, name), getattr(stored_extent, name)
    if name.startswith('num_'):
      missing, available = [] if 0 < values <= stored else [values], stored
    else:
      stored_set = {*stored}
      missing, available = (
        [x for x in values if x not in stored_set],
        f'{len(stored)} others',
      )
    if missing:
      raise StoreError(
        f'{name} to be read must be in the store; got {missing[0]!r}, and it '
        f'has {available}. See store.extent.'
      )


def select(traces: xr.Dataset, extent: store.Extent) -> xr.Dataset:
  """The part of traces within an extent, in its order."""
  selected = traces.sel(
    checkpoint=list(extent.checkpoints),
    dataset=list(extent.datasets),
    refinement=list(extent.refinements),
  ).isel(chain=slice(extent.num_chains), draw=slice(extent.num_draws))
  return selected.assign(recorded=selected.recorded.clip(max=extent.num_draws))


def grown(old: store.Extent, new: store.Extent) -> store.Extent:
  """The smallest extent that holds both; new coordinates come last.

  Examples:
    >>> old = store.Extent((0, 8), ('train',), ('0:0',), 4, 100)
    >>> new = store.Extent((0, 4), ('train',), ('0:1',), 2, 200)
    >>> grown(old, new).checkpoints, grown(old, new).num_draws
    ((0, 8, 4), 200)
  """
  union = lambda a, b: tuple(dict.fromkeys([*a, *b]))
  return store.Extent(
    checkpoints=union(old.checkpoints, new.checkpoints),
    datasets=union(old.datasets, new.datasets),
    refinements=union(old.refinements, new.refinements),
    num_chains=max(old.num_chains, new.num_chains),
    num_draws=max(old.num_draws, new.num_draws),
  )


def merge_identity(
  old: Mapping[str, Any], new: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
  """Merges two identities; also returns their first difference, or ''.

  Examples:
    >>> merge_identity({'nbeta': 30}, {'nbeta': 10})[1]
    'nbeta = 30, and this run has 10'
    >>> merge_identity({'params': {'0': 'a'}}, {'params': {'8': 'b'}})
    ({'params': {'0': 'a', '8': 'b'}}, '')
  """
  merged, difference = dict(old), ''
  # Through JSON, as the stored one went: no tuples, no int keys.
  for name, value in identities.identity(**new).items():
    if name in _LATEST:
      merged[name] = value
    stored = merged.setdefault(name, value)
    if name in _GROWING:
      new_entries = {key: x for key, x in value.items() if key not in stored}
      merged[name] = {**stored, **new_entries}
      stored = {key: stored.get(key, value[key]) for key in value}
    if name in _COMPUTED:
      stored = {
        key: value[key] if _close(stored[key], value[key]) else stored[key]
        for key in value
      }
    first = identities.difference({name: stored}, {name: value})
    if first is not None and not difference:
      difference = f'{first.name} = {first.old}, and this run has {first.new}'
  return merged, difference


def settings_of(identity: Mapping[str, Any]) -> dict[str, Any]:
  """The part of an identity that is the same for all coordinates."""
  left_out = (*_GROWING, *_LATEST)
  return {name: x for name, x in identity.items() if name not in left_out}


def _close(old: Any, new: Mapping[str, Any]) -> bool:
  """True if two probes agree up to rounding.

  Relative to the largest of each number over the probed points: at a perfect
  fit the loss itself is only rounding.
  """
  if not isinstance(old, dict) or old.get('kind') != new.get('kind'):
    return False
  a, b = (np.array(x['values'], float) for x in (old, new))
  if a.shape != b.shape:
    return False
  same_device = old['device'] == new['device']
  tolerance = _SAME_DEVICE if same_device else _OTHER_DEVICE
  # The initial value avoids 0 / 0 where all numbers are 0.
  scale = np.nanmax(abs(a), axis=0, initial=1e-30)
  return np.allclose(a / scale, b / scale, 0, tolerance, equal_nan=True)
