"""The main figure: refined LLCs of all heads over training."""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.estimators import health
from rllc_jax.plots import style
from rllc_jax.refinement import names

# Of a panel, in inches, by the number of panels side by side.
_WIDTHS = (6.4, 4.3, 3.3)
_CROWDED = 40  # Checkpoints beyond which points are not marked one by one.


class Group(NamedTuple):
  """The refinements that share a panel.

  Attributes:
    title: of the panel.
    names: of the refinements.
    colors: one a refinement.
  """

  title: str
  names: list[str]
  colors: list


@matplotlib.rc_context(style.SETTINGS)
def llc_curves(estimates: xr.Dataset) -> figure.Figure:
  """Draws wrLLC against training step, by layer (panels) and data set (rows).

  Bands are the 95 % intervals `low` to `high`. Lines break where an estimate is
  missing. A hollow point lacks chains that failed; a cross at the bottom has
  none left. Panels of heads share their y axis; other refinements ('all',
  layers, unions) have a panel of their own, for their scale is another.

  Args:
    estimates: from `llc_from_traces`: `llc`, `low`, `high`, `num_failed` over
      (checkpoint, dataset, refinement).
  """
  estimates = estimates.sortby('checkpoint')
  groups = groups_of(list(map(str, estimates.refinement.values)))
  columns = min(len(groups), len(_WIDTHS))
  rows_each = -(-len(groups) // columns)
  datasets = [str(name) for name in estimates.dataset.values]
  drawn, panels = style.new_figure(
    rows_each * len(datasets), columns, (_WIDTHS[columns - 1], 3.0)
  )
  heads = []
  for number, dataset in enumerate(datasets):
    rows = panels[number * rows_each : (number + 1) * rows_each]
    for group, ax in zip(groups, rows.flat, strict=False):
      draw_curves(ax, estimates.sel(dataset=dataset), group)
      name = f' · {dataset}' if len(datasets) > 1 else ''
      ax.set_title(group.title + name)
      ax.set_ylabel('refined LLC (wrLLC)' if ax in rows[:, 0] else '')
      if group.title.startswith('Layer'):
        heads.append(ax)
    for ax in rows.flat[len(groups) :]:
      ax.remove()
  share_limits(heads)
  _finish(panels, estimates, groups, datasets, rows_each)
  style.footnote(drawn, *notes_on(estimates))
  return drawn


def groups_of(refinements: Sequence[str]) -> list[Group]:
  """Heads by layer, then the others, with the colors of every figure."""
  groups = [
    Group(f'Layer {layer}', heads, style.shades(layer, len(heads)))
    for layer, heads in names.heads_by_layer(refinements).items()
  ]
  if without_layer := names.non_heads(refinements):
    grays = [str(x) for x in np.linspace(0.15, 0.65, len(without_layer))]
    groups.append(Group('Other refinements', without_layer, grays))
  return groups


def draw_curves(ax: axes.Axes, estimates: xr.Dataset, group: Group) -> None:
  """Draws a group's estimates with bands and points; limits come after."""
  steps = estimates.checkpoint.values
  for name, color in zip(group.names, group.colors, strict=True):
    cell = estimates.sel(refinement=name)
    llc, failed = cell.llc.values, cell.num_failed.values > 0
    ax.fill_between(steps, cell.low, cell.high, color=color, alpha=0.2, lw=0)
    ax.plot(steps, llc, color=color, lw=1.5, zorder=3)
    lonely = np.isfinite(llc) & ~_has_neighbor(np.isfinite(llc))
    marked = np.isfinite(llc) if len(steps) <= _CROWDED else lonely
    points = {'color': color, 's': 9, 'zorder': 4}
    # A band between steps needs a neighbor; a lone interval is a line.
    ax.vlines(steps[lonely], cell.low[lonely], cell.high[lonely], color=color)
    shown = marked & ~failed
    ax.scatter(steps[shown], llc[shown], lw=0, **points)
    shown = failed & np.isfinite(llc)
    hollow = {**points, 's': 26, 'facecolor': 'white', 'lw': 1.2, 'zorder': 6}
    ax.scatter(steps[shown], llc[shown], **hollow)
    shown = failed & ~np.isfinite(llc)
    ax.scatter(
      steps[shown],
      np.full(shown.sum(), 0.03),
      marker='x',
      transform=ax.get_xaxis_transform(),
      **{**points, 's': 20},
    )

  if not bool(estimates.llc.sel(refinement=group.names).notnull().any()):
    style.write_middle(ax, 'no estimates')


def _has_neighbor(present: np.ndarray) -> np.ndarray:
  """True for entries with a present neighbor."""
  padded = np.pad(present, 1)
  return padded[:-2] | padded[2:]


def share_limits(panels: Sequence[axes.Axes]) -> None:
  """Gives all one range, down to 0 unless that would flatten the curves."""
  if not panels:
    return
  limits = np.array([ax.get_ylim() for ax in panels])
  low, high = limits[:, 0].min(), limits[:, 1].max()
  if 0 < low < 0.5 * high:
    low = 0.0
  for ax in panels:
    ax.set_ylim(low, high)


def _finish(panels, estimates, groups, datasets, rows_each) -> None:
  """Draws step axes, lines at 0 and names, once the limits are fixed."""
  for number, dataset in enumerate(datasets):
    rows = panels[number * rows_each : (number + 1) * rows_each]
    bottom = number == len(datasets) - 1
    for place, (group, ax) in enumerate(zip(groups, rows.flat, strict=False)):
      last = place + rows.shape[1] >= len(groups) and bottom
      style.step_axis(
        ax, estimates.checkpoint.values, 'training step' if last else ''
      )
      if ax.get_ylim()[0] < 0:
        ax.axhline(0, color=style.GRAY, lw=0.8, zorder=1)
      style.label_ends(ax, ends_of(estimates.sel(dataset=dataset), group))


def ends_of(estimates: xr.Dataset, group: Group) -> list[style.Label]:
  """Names for `style.label_ends`, at the last estimate of each."""
  ends = []
  for name, color in zip(group.names, group.colors, strict=True):
    llc = estimates.llc.sel(refinement=name).dropna('checkpoint')
    if llc.size:
      last = llc.isel(checkpoint=-1)
      step = int(last.checkpoint)
      ends.append(style.Label(name, step, float(last), color))
  return ends


def notes_on(estimates: xr.Dataset) -> list[str]:
  """Notes on estimates, for a footnote."""
  notes = ['bands: 95 % intervals', style.settings_text(estimates.attrs)]
  if missing := int(health.absences(estimates).sum()):
    notes.append(f'{missing} of {estimates.llc.size} cells without an estimate')
  if bool((estimates.num_failed > 0).any()):
    notes.append('hollow: some chains failed, cross: all did')
  return notes
