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
    reach: [n], half of its 95 % interval.
    names: [n].
    colors: by name.
  """

  title: str
  count: np.ndarray
  count_name: str
  llc: np.ndarray
  reach: np.ndarray
  names: Sequence[str]
  colors: Mapping[str, Any]


@matplotlib.rc_context(style.SETTINGS)
def memory(
  scatters: Sequence[Scatter], columns: int, caption: str = ''
) -> figure.Figure:
  """Draws heads' rLLCs against counts, with lines of least squares."""
  rows = -(-len(scatters) // columns)
  drawn, grid = style.new_figure(rows, columns, (3.4, 2.8))
  style.caption(drawn, caption)
  for scatter, ax in zip(scatters, grid.flat, strict=False):
    _draw(ax, scatter)
  for ax in grid.flat[len(scatters) :]:
    ax.remove()
  notes = 'multigram heads', 'bars: 95 % intervals', 'dashed: least squares'
  style.footnote(drawn, *notes)
  return drawn


@matplotlib.rc_context(style.SETTINGS)
def classes_and_memory(
  curves: Sequence[panels.Panel],
  scatter: Scatter,
  classes: Sequence[str],
  boundaries: Sequence[float] = (),
  notes: Sequence[str] = (),
  caption: str = '',
) -> figure.Figure:
  """Draws panels of curves, and memory right of them.

  Args:
    curves: of one layer: colored by class, by cluster.
    scatter: heads against counts.
    classes: of heads, whose colors are named below.
    boundaries: of stages.
    notes: for the footnote.
    caption: what there is to see.
  """
  count = len(curves) + 1
  drawn, grid = style.new_figure(1, count, (3.6, 3.3))
  style.caption(drawn, caption)
  style.name_classes(drawn, classes)
  for panel, ax in zip(curves, grid[0], strict=False):
    panels.draw(ax, panel)
  _draw(grid[0, -1], scatter)
  # Names at the ends of curves need the final layout.
  for panel, ax in zip(curves, grid[0], strict=False):
    panels.finish(ax, panel, 'training step', boundaries)
  style.footnote(drawn, *notes)
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
  ax.vlines(x, y - scatter.reach, y + scatter.reach, color=style.GRAY, lw=0.8)
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
