"""Results for other programs: an xarray data set, Zarr, ArviZ's groups."""

from collections.abc import Iterator
import os
import pathlib

import numpy as np
import xarray as xr

from rllc_jax import zarr_records
from rllc_jax.results import disk
from rllc_jax.results import traces as xr_traces

NAME = 'results.zarr'
_PART_BYTES = 2**28  # Of traces in memory, about.


def open_results(directory: str | os.PathLike) -> xr.Dataset:
  """Opens the results of a store, at any moment of its run.

  Args:
    directory: of the store, such as `DIR/rllc` of `experiments.estimate_rllc`.

  Returns:
    Traces with dims (checkpoint, dataset, refinement, chain, draw), steps in
    plain order, NaN where draws are missing. Values are read when they are
    asked for; `.load()` reads all.

  Raises:
    StoreError: if there are none, or a file is damaged, now or when it is read.
  """
  return disk.open_store(directory).open()


def to_zarr(directory: str | os.PathLike, path: str | os.PathLike) -> None:
  """Writes the results of a store as Zarr, with checksums, for other programs.

  Args:
    directory: of the store.
    path: of a Zarr directory, which is replaced.
  """
  dataset = open_results(directory)
  zarr_records.replace_record(
    _parts(dataset), pathlib.Path(os.path.expanduser(path)), 'checkpoint'
  )


def check_zarr(directory: str | os.PathLike, path: str | os.PathLike) -> int:
  """Compares an export, byte by byte and value by value, with its store.

  Returns:
    The number of values that are the same.

  Raises:
    ValueError: if a file is not as it was written, or a value or an attribute
      is not that of the store.
  """
  stored, count = open_results(directory), 0
  exported = zarr_records.open_record(pathlib.Path(os.path.expanduser(path)))
  different = [
    name
    for name in {**stored.attrs, **exported.attrs}
    if stored.attrs.get(name) != exported.attrs.get(name)
  ]
  different += {*stored.variables} ^ {*exported.variables}
  different += ['sizes'] * (stored.sizes != exported.sizes)
  first = 0
  for part in () if different else _parts(stored):
    stop = first + part.sizes['checkpoint']
    other = exported.isel(checkpoint=slice(first, stop))
    different += [
      name
      for name, x in part.variables.items()
      if not _is_same(x.values, other[name].values)
    ]
    first, count = stop, count + sum(x.size for x in part.variables.values())
  if different:
    raise xr_traces.StoreError(
      f'{path} must be what {directory} holds, because others read it; got '
      f'another {different[0]}. Remove it, and export it again.'
    )
  return count


def _is_same(a: np.ndarray, b: np.ndarray) -> bool:
  return a.dtype == b.dtype and np.array_equal(
    a, b, equal_nan=a.dtype.kind == 'f'
  )


def to_datatree(traces: xr.Dataset, burn_in: int | None = None) -> xr.DataTree:
  """Traces in the groups of ArviZ: `posterior` and `sample_stats`.

  Args:
    traces: of `estimate_trajectory` or `open_results`.
    burn_in: steps left out; that of the run if None.

  Returns:
    `posterior` has the draws of the LLC, nbeta * (loss - loss at the
    checkpoint); `sample_stats` has everything that was recorded.
  """
  if burn_in is None:
    burn_in = int(traces.attrs.get('burn_in', 0))
  late = traces.sel(draw=traces.draw >= burn_in)
  draws = (late.loss - late.center_loss) * traces.attrs['nbeta']
  statistics = [name for name, x in late.items() if 'draw' in x.dims]
  posterior = xr.Dataset({'llc': draws}, attrs=dict(traces.attrs))
  first = ('chain', 'draw', ...)
  return xr.DataTree.from_dict(
    {
      'posterior': posterior.transpose(*first),
      'sample_stats': late[statistics].transpose(*first),
    }
  )


def _parts(dataset: xr.Dataset) -> Iterator[xr.Dataset]:
  """A data set in memory, some checkpoints at a time."""
  steps = dataset.sizes['checkpoint']
  count = max(1, _PART_BYTES * steps // max(1, dataset.nbytes))
  for first in range(0, steps, count):
    yield dataset.isel(checkpoint=slice(first, first + count)).load()
