"""Panels of curves over training, with stages shaded."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.estimators import errors
from rllc_jax.plots import heads
from rllc_jax.plots import style

FADED = '#c4c8d0'
_PALETTE = ('#1f83c4', '#e0561f', '#3f9142', '#8f4fbf', '#b8860b', '#14255f')
_SHADE = '#eef1f6'


class Panel(NamedTuple):
  """Curves that share axes.

  Attributes:
    title: above it.
    unit: of y.
    curves: `llc`, `low`, `high`, `num_failed` over (checkpoint, refinement),
      from `llc_from_traces` or `as_curves`.
    colors: by refinement. Only these are drawn; those in `FADED`, and one
      called '', get no name.
    line: the value of a dashed line, if any.
  """

  title: str
  unit: str
  curves: xr.Dataset
  colors: Mapping[str, Any]
  line: float | None = None


def as_curves(
  values: np.ndarray,
  steps: Sequence[int],
  names: Sequence[str],
  standard_errors: np.ndarray | None = None,
) -> xr.Dataset:
  """Converts numbers [K, N] to curves, with 95 % intervals if they have errors.

  Args:
    values: [K, N].
    steps: [K].
    names: [N].
    standard_errors: [K, N].
  """
  values = np.asarray(values, float)
  low = high = values
  if standard_errors is not None:
    interval = errors.with_interval(values, np.asarray(standard_errors, float))
    low, high = interval.low, interval.high
  arrays = {'llc': values, 'low': low, 'high': high, 'num_failed': 0 * values}
  dims = 'checkpoint', 'refinement'
  return xr.Dataset(
    {name: (dims, array) for name, array in arrays.items()},
    {'checkpoint': list(steps), 'refinement': list(names)},
  )


def by_kind(names: Sequence[str], classes: Mapping[str, str]) -> dict[str, Any]:
  """Colors of heads by class; by layer without classes, gray without one."""
  if not classes:
    return {
      name: color
      for group in heads.groups_of(names)
      for name, color in zip(group.names, group.colors, strict=True)
    }
  return {
    name: style.CLASSES.get(classes.get(name, ''), FADED) for name in names
  }


def by_group(names: Sequence[str], groups: Iterable[Any]) -> dict[str, Any]:
  """Colors of any groups, in their order of appearance."""
  groups = list(groups)
  order = list(dict.fromkeys(groups))
  return {
    name: _PALETTE[order.index(group) % len(_PALETTE)]
    for name, group in zip(names, groups, strict=True)
  }


@matplotlib.rc_context(style.SETTINGS)
def curves_over_training(
  rows: Sequence[Sequence[Panel]],
  boundaries: Sequence[float] = (),
  notes: Sequence[str] = (),
  *,
  caption: str = '',
  classes: Sequence[str] = (),
) -> figure.Figure:
  """Draws a grid of panels, each with its own range.

  Args:
    rows: of panels.
    boundaries: training steps where stages end; every other one is shaded.
    notes: for the footnote.
    caption: what there is to see.
    classes: of heads, whose colors are named below.
  """
  columns = max(map(len, rows))
  width = {1: 6.4, 2: 4.3}.get(columns, 3.3)
  drawn, grid = style.new_figure(len(rows), columns, (width, 2.7))
  # Before the panels: names at the ends of curves need the final layout.
  if caption:
    style.caption(drawn, caption)
  if classes:
    style.name_classes(drawn, classes)
  for panels, places in zip(rows, grid, strict=True):
    for ax in places[len(panels) :]:
      ax.remove()
    for panel, ax in zip(panels, places, strict=False):
      draw(ax, panel)
  for number, (panels, places) in enumerate(zip(rows, grid, strict=True)):
    for panel, ax in zip(panels, places, strict=False):
      last = number == len(rows) - 1
      finish(ax, panel, 'training step' if last else '', boundaries)
  shaded = ['shaded: every other stage'] if len(boundaries) else []
  style.footnote(drawn, *shaded, *notes)
  return drawn


def draw(ax: axes.Axes, panel: Panel) -> None:
  """Draws a panel's curves; faded ones lie below."""
  faded = [name for name, color in panel.colors.items() if color == FADED]
  for names in (faded, [x for x in panel.colors if x not in faded]):
    if names:
      colors = [panel.colors[name] for name in names]
      heads.draw_curves(ax, panel.curves, heads.Group('', names, colors))
  if panel.line is not None:
    ax.axhline(panel.line, color=style.GRAY, lw=1, ls='--', zorder=1)
  heads.share_limits([ax])
  ax.set_title(panel.title)
  ax.set_ylabel(panel.unit)


def finish(
  ax: axes.Axes, panel: Panel, label: str, boundaries: Sequence[float]
) -> None:
  """Draws the step axis, stages and names, once the limits are fixed."""
  steps = panel.curves.checkpoint.values
  style.step_axis(ax, steps, label)
  shade_stages(ax, boundaries, steps)
  named = {
    x: color for x, color in panel.colors.items() if x and color != FADED
  }
  group = heads.Group('', list(named), list(named.values()))
  style.label_ends(ax, heads.ends_of(panel.curves, group))


def shade_stages(
  ax: axes.Axes, boundaries: Sequence[float], steps: np.ndarray
) -> None:
  """Shades every other stage, the second one first."""
  edges = [*boundaries, float(np.max(steps))]
  for start, end in zip(edges[:-1:2], edges[1::2], strict=False):
    ax.axvspan(start, end, color=_SHADE, lw=0, zorder=0)
