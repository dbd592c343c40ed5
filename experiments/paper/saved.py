"""What a study saved, in the form in which figures are made of it."""

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
  """A study's directory, and what is to be drawn of it."""

  workdir: pathlib.Path
  settings: sections.Figure

  def estimates(self, name: str = 'rllc') -> xr.Dataset:
    """What a store says."""
    found = llc.llc_from_traces(study.traces(self.workdir, name))
    return found.sortby('checkpoint')

  def readings(self) -> xr.Dataset:
    """What heads do."""
    return study.readings(self.workdir)

  def boundaries(self) -> list[float]:
    """Ends of stages, from the whole model's LLC; [] where there are none."""
    whole = on(self.estimates('full'), self.settings.text)
    whole = whole.isel(refinement=0)
    try:
      found = curves.stages(
        whole.checkpoint.values, whole.llc.values, whole.standard_error.values
      )
    except ValueError as error:
      logging.warning('no stages: %s', error)
      return []
    return found.boundaries.tolist()

  def clusters(self, names: list[str], values: np.ndarray) -> curves.Clusters:
    """Groups of curves [n, K], as many as their heads have classes."""
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
      return curves.Clusters(np.zeros(len(names), int), np.nan)


def on(estimates: xr.Dataset, dataset: str) -> xr.Dataset:
  """The estimates on one data set.

  Raises:
    ValueError: if there are none.
  """
  found = estimates.dataset.values.tolist()
  if dataset not in found:
    raise ValueError(
      f'Estimates on {dataset!r} were expected, because they are drawn; got '
      f'those on {", ".join(found)}. Set config.figure.text and '
      'config.figure.datasets to some of these, or run experiments.study.'
    )
  return estimates.sel(dataset=dataset)


def names(estimates: xr.Dataset) -> list[str]:
  """The refinements of estimates."""
  return [str(name) for name in estimates.refinement.values]


def multigrams(heads: list[str], readings: xr.Dataset) -> list[str]:
  """Those that are multigram heads at the last checkpoint."""
  classes = head_types.of_readings(readings)
  return [name for name in heads if classes[name] == head_types.MULTIGRAM]


def notes(estimates: xr.Dataset) -> list[str]:
  """What a footnote says of estimates."""
  return ['bands: 95 % intervals', style.settings_text(estimates.attrs)]


def scatter(
  text: xr.Dataset,
  readings: xr.Dataset,
  place: int,
  counted: Sequence[str],
  title: str,
  layer: int | None = None,
) -> memory.Scatter:
  """Multigram heads at one checkpoint, of one layer or of all.

  Args:
    text: estimates over (checkpoint, refinement).
    readings: of the study.
    place: of the checkpoint.
    counted: counts that are added up.
    title: of the panel.
    layer: of the heads.
  """
  heads = multigrams(names(text), readings)
  if layer is not None:
    heads = [name for name in heads if name.startswith(f'{layer}:')]
  step = readings.checkpoint.values[place]
  counts = np.sum(
    [reading.of_heads(readings[x], heads)[place] for x in counted], 0
  )
  values = text.llc.sel(checkpoint=step, refinement=heads).values
  what = 'n-grams' if counted == ('num_ngrams',) else 'multigrams'
  colors = panels.by_layer(names(text))
  return memory.Scatter(title, counts, what, values, heads, colors)


def by_layer(text: xr.Dataset, title: str) -> list[panels.Panel]:
  """A panel a layer, in the colors of the heads; the title has its number."""
  colors = panels.by_layer(names(text))
  return [
    panels.Panel(
      title.format(layer), WRLLC, text, {head: colors[head] for head in heads}
    )
    for layer, heads in naming.heads_by_layer(names(text)).items()
  ]
