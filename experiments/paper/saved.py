"""Results of a saved study, prepared for figures."""

from collections.abc import Sequence
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


class Saved(NamedTuple):
  """The directory of a study, and the settings of a figure."""

  workdir: pathlib.Path
  settings: sections.Figure

  def estimates(self, name: str = 'rllc') -> xr.Dataset:
    """Estimates from a store of the study."""
    result = llc.llc_from_traces(study.traces(self.workdir, name))
    # A store appends later checkpoints; curves need them in order.
    return result.sortby('checkpoint')

  def readings(self) -> xr.Dataset:
    """Measurements of the heads."""
    return study.readings(self.workdir)

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
    classes = head_types.of_readings(self.readings())
    count = len({classes[name] for name in names})
    try:
      return curves.cluster_curves(
        values,
        count,
        method=self.settings.method,
        normalisation=self.settings.normalisation,
      )
    except ValueError as error:
      logging.warning('no clusters: %s', error)
      # One cluster, so that the figure is still drawn.
      return curves.Clusters(np.zeros(len(names), int), np.nan)


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


def multigrams(heads: list[str], readings: xr.Dataset) -> list[str]:
  """The heads that are multigram heads at the last checkpoint."""
  classes = head_types.of_readings(readings)
  return [name for name in heads if classes[name] == head_types.MULTIGRAM]


def notes(estimates: xr.Dataset) -> list[str]:
  """Footnotes of a figure of estimates: its bands and settings."""
  return ['bands: 95 % intervals', style.settings_text(estimates.attrs)]


def scatter(
  text: xr.Dataset,
  readings: xr.Dataset,
  place: int,
  counted: Sequence[str],
  title: str,
  layer: int | None = None,
) -> memory.Scatter:
  """Scatter of wrLLC and memorized multigrams of the multigram heads.

  Args:
    text: estimates over (checkpoint, refinement).
    readings: of the study.
    place: index of the checkpoint.
    counted: counts that are added up.
    title: of the panel.
    layer: of the heads; by default all.
  """
  heads = multigrams(names(text), readings)
  if layer is not None:
    heads = [name for name in heads if name.startswith(f'{layer}:')]
  step = readings.checkpoint.values[place]
  counts = np.sum(
    [reading.of_heads(readings[x], heads)[place] for x in counted], 0
  )
  values = text.llc.sel(checkpoint=step, refinement=heads).values
  label = 'n-grams' if counted == ('num_ngrams',) else 'multigrams'
  colors = panels.by_layer(names(text))
  return memory.Scatter(title, counts, label, values, heads, colors)


def by_layer(text: xr.Dataset, title: str) -> list[panels.Panel]:
  """Panels of curves by layer; the title is formatted with its number."""
  colors = panels.by_layer(names(text))
  return [
    panels.Panel(
      title.format(layer), WRLLC, text, {head: colors[head] for head in heads}
    )
    for layer, heads in naming.heads_by_layer(names(text)).items()
  ]
