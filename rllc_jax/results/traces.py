"""Traces as an xarray data set: names, coordinates, identity and extent.

The identity fixes the meaning of the numbers; a store never mixes two. The
extent is their coordinates; it may grow along every dim, in any order.
"""

from collections.abc import Mapping
import json
from typing import Any

import numpy as np
import xarray as xr

from rllc_jax.results import store

DIMS = ('checkpoint', 'dataset', 'refinement', 'chain', 'draw')


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
