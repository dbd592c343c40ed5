"""Results of a saved study, prepared for figures."""

from collections.abc import Sequence
import functools
import pathlib
from typing import NamedTuple

from absl import logging
import numpy as np
import xarray as xr

from experiments.paper import study
from experiments.runtime import sections
from rllc_jax.analysis import curves
from rllc_jax.analysis import head_types
from rllc_jax.analysis import readings as reading
from rllc_jax.estimators import llc
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.plots import style
from rllc_jax.refinement import names as naming

WRLLC = 'refined LLC (wrLLC)'
BANDS = 'bands: 95 % intervals'


class Saved(NamedTuple):
  """The directory of a study, and the settings of a figure."""

  workdir: pathlib.Path
  settings: sections.Figure

  def estimates(self, name: str = 'rllc') -> xr.Dataset:
    """Estimates from a store of the study."""
    result = llc.llc_from_traces(study.traces(self.workdir, name))
    # A store appends later checkpoints; curves need them in order.
    return result.sortby('checkpoint')

  def text(self) -> xr.Dataset:
    """Estimates on the text that the model was trained on."""
    return on(self.estimates(), self.settings.text)

  def readings(self) -> xr.Dataset:
    """Measurements of the heads."""
    return study.readings(self.workdir)

  def classes(self) -> dict[str, str]:
    """The class of every head; {} if heads were not analyzed."""
    if not (self.workdir / study.ANALYSIS).exists():
      logging.warning('colors are those of layers: no %s', study.ANALYSIS)
      return {}
    return head_types.of_readings(self.readings())

  def boundaries(self) -> list[float]:
    """Ends of stages, from the whole model's LLC; [] if there are none."""
    estimates = on(self.estimates('full'), self.settings.text)
    estimates = estimates.isel(refinement=0)
    try:
      stages = curves.stages(
        estimates.checkpoint.values,
        estimates.llc.values,
        estimates.standard_error.values,
      )
    except ValueError as error:
      logging.warning('no stages: %s', error)
      return []
    return stages.boundaries.tolist()

  def clusters(self, names: list[str], values: np.ndarray) -> curves.Clusters:
    """Clusters curves [n, K], with as many clusters as classes of heads."""
    classes = self.classes()
    return cluster(
      values,
      len({classes[name] for name in names}),
      self.settings.method,
      self.settings.normalisation,
    )


def cluster(
  values: np.ndarray, count: int, method: str, normalisation: str
) -> curves.Clusters:
  """Clusters curves [n, K]; all together where they do not make so many."""
  try:
    return curves.cluster_curves(
      values, count, method=method, normalisation=normalisation
    )
  except ValueError as error:
    logging.warning('no clusters: %s', error)
    # One cluster, so that the figure is still drawn.
    return curves.Clusters(np.zeros(len(values), int), np.nan)


def on(estimates: xr.Dataset, dataset: str) -> xr.Dataset:
  """Estimates on one data set.

  Raises:
    ValueError: if there are none.
  """
  available = estimates.dataset.values.tolist()
  if dataset not in available:
    raise ValueError(
      f'Estimates on {dataset!r} were expected, because they are drawn; got '
      f'those on {", ".join(available)}. Set config.figure.text and '
      'config.figure.datasets to some of these, or run experiments.study.'
    )
  return estimates.sel(dataset=dataset)


def names(estimates: xr.Dataset) -> list[str]:
  """Names of the refinements of estimates."""
  return [str(name) for name in estimates.refinement.values]


def notes(estimates: xr.Dataset) -> list[str]:
  """Footnotes of a figure of estimates: its bands and settings."""
  return [BANDS, style.settings_text(estimates.attrs)]


def measured(
  readings: xr.Dataset, name: str, heads: Sequence[str]
) -> xr.Dataset:
  """Curves of a measure of heads, with its errors where it has some."""
  # `hessian_trace` has `hessian_error`, a score NAME_error.
  of_trace = name.removesuffix('_trace') + '_error'
  present = [x for x in (f'{name}_error', of_trace) if x in readings]
  of = functools.partial(reading.of_heads, names=heads)
  curve = panels.as_curves(
    of(readings[name]),
    readings.checkpoint.values,
    heads,
    of(readings[present[0]]) if present else None,
  )
  # Some measures are taken where there are estimates alone.
  return curve.dropna('checkpoint', how='all', subset=['llc'])


def memorized(readings: xr.Dataset, heads: Sequence[str]) -> np.ndarray:
  """Multigrams of heads above chance at every checkpoint, [K, n]."""
  counts = [
    reading.of_heads(readings[name], heads)
    for name in ('num_ngrams', 'num_skip_ngrams', 'null_multigrams')
  ]
  return counts[0] + counts[1] - counts[2]


def scatter(
  saved_study: Saved, step: int, layer: int, title: str
) -> memory.Scatter:
  """Scatter of wrLLC and memorized multigrams of a layer's multigram heads.

  Args:
    saved_study: of the run.
    step: a checkpoint with estimates.
    layer: of the heads.
    title: of the panel.
  """
  text, readings = saved_study.text(), saved_study.readings()
  classes = saved_study.classes()
  heads = [
    name
    for name in naming.heads_by_layer(names(text))[layer]
    if classes[name] == head_types.MULTIGRAM
  ]
  place = readings.checkpoint.values.tolist().index(step)
  cell = text.sel(checkpoint=step, refinement=heads)
  return memory.Scatter(
    title,
    memorized(readings, heads)[place],
    'multigrams above chance',
    cell.llc.values,
    (cell.high - cell.low).values / 2,
    heads,
    panels.by_kind(heads, classes),
  )


def by_layer(
  curves_of_heads: xr.Dataset, classes: dict[str, str], title: str, unit: str
) -> list[panels.Panel]:
  """Panels of curves by layer; the title is formatted with its number."""
  layers = naming.heads_by_layer(names(curves_of_heads))
  return [
    panels.Panel(
      title.format(layer), unit, curves_of_heads, panels.by_kind(heads, classes)
    )
    for layer, heads in layers.items()
  ]
