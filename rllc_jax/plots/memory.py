"""Figures of refined LLCs against the number of memorized patterns."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
from matplotlib import transforms
import numpy as np
from scipy import stats

from rllc_jax.plots import panels
from rllc_jax.plots import style

_NAME_SIZE = 6.5  # Points.


class Scatter(NamedTuple):
  """A scatter plot with one point per head.

  Attributes:
    title: above it.
    count: [n], distinct patterns of each head.
    count_name: what is counted.
    llc: [n], of each head.
    names: [n].
    colors: by name.
  """

  title: str
  count: np.ndarray
  count_name: str
  llc: np.ndarray
  names: Sequence[str]
  colors: Mapping[str, Any]


@matplotlib.rc_context(style.SETTINGS)
def memory(scatters: Sequence[Scatter], columns: int) -> figure.Figure:
  """Draws heads' rLLCs against counts, with lines of least squares."""
  rows = -(-len(scatters) // columns)
  drawn, grid = style.new_figure(rows, columns, (3.4, 2.8), sharey=True)
  for scatter, ax in zip(scatters, grid.flat, strict=False):
    _draw(ax, scatter)
  for ax in grid[:, 1:].flat:
    ax.set_ylabel('')
  for ax in grid.flat[len(scatters) :]:
    ax.remove()
  style.footnote(drawn, 'multigram heads', 'dashed: least squares')
  return drawn


@matplotlib.rc_context(style.SETTINGS)
def classes_and_memory(
  curves: panels.Panel,
  classes: Mapping[str, str],
  scatter: Scatter,
  boundaries: Sequence[float] = (),
  notes: Sequence[str] = (),
) -> figure.Figure:
  """Draws curves in the colors of their clusters, classes, and memory.

  Args:
    curves: of one layer, colored by cluster.
    classes: of its heads, written beside their names.
    scatter: heads against counts.
    boundaries: of stages.
    notes: for the footnote.
  """
  drawn = figure.Figure(figsize=(9.4, 3.3), layout='constrained', dpi=100)
  left, right = drawn.subplots(1, 2, width_ratios=(1.7, 1))
  panels.draw(left, curves)
  named = {f'{x} {classes[x]}': x for x in curves.colors}
  renamed = curves.curves.sel(refinement=list(named.values()))
  renamed = renamed.assign_coords(refinement=list(named))
  colors = {text: curves.colors[name] for text, name in named.items()}
  with_classes = curves._replace(curves=renamed, colors=colors)
  panels.finish(left, with_classes, 'training step', boundaries)
  _draw(right, scatter)
  style.footnote(drawn, 'colors: clusters of the curves alone', *notes)
  return drawn


def _draw(ax: axes.Axes, scatter: Scatter) -> None:
  x, y = scatter.count, scatter.llc
  ax.set_title(scatter.title)
  ax.set_xlabel(f'{scatter.count_name} memorized')
  ax.set_ylabel('refined LLC')
  ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
  if not len(x):
    ax.set_xticks([])
    middle = ax.transAxes
    ax.text(0.5, 0.5, 'no such head', transform=middle, ha='center')
    return
  ax.scatter(x, y, c=[scatter.colors[x] for x in scatter.names], s=22, zorder=3)
  _name_points(ax, scatter.names, np.stack([x, y], axis=1))
  if len(x) > 2 and np.ptp(x) > 0:
    slope, start = np.polyfit(x, y, 1)
    ends = np.array([np.min(x), np.max(x)])
    ax.plot(ends, start + slope * ends, color=style.GRAY, lw=1, ls='--')
    correlation = stats.spearmanr(x, y).statistic
    ax.set_title(f'{scatter.title} (ρ = {correlation:.2f})')


def _name_points(
  ax: axes.Axes, names: Sequence[str], places: np.ndarray
) -> None:
  """Writes each name at a corner of its point, a free one if possible."""
  ax.margins(0.12)
  ax.autoscale_view()
  drawn: Any = ax.get_figure(root=True)
  # In points, like font sizes; limits must be final before.
  points = ax.transData.transform(places) * 72 / drawn.dpi
  occupied = [transforms.Bbox.from_extents(*(p - 2), *(p + 2)) for p in points]
  for name, place, point in zip(names, places, points, strict=True):
    size = np.array([0.65 * _NAME_SIZE * len(name), _NAME_SIZE])
    left, below = (-3 - size).tolist()  # Offsets in points.
    corners = [(3.0, 3.0), (left, 3.0), (3.0, below), (left, below)]
    boxes = [transforms.Bbox.from_bounds(*(point + c), *size) for c in corners]
    free_corners = (
      i for i, box in enumerate(boxes) if not any(map(box.overlaps, occupied))
    )
    corner = next(free_corners, -1)  # Overlaps, if none is free.
    occupied.append(boxes[corner])
    ax.annotate(
      name,
      place,
      corners[corner],
      textcoords='offset points',
      fontsize=_NAME_SIZE,
    )
