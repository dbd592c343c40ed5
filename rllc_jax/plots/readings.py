"""Figures of attention scores and ablations, and of losses by symbol."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.plots import style

_PANEL = (3.4, 2.4)
# Titles and units of the variables of `readings.read_heads`.
_TITLES = {
  'previous_token': ('previous token', 'attention'),
  'current_token': ('current token', 'attention'),
  'prefix_matching': ('prefix matching', 'attention'),
  'ablation_resample': ('ablation', 'rise of the loss, nats'),
}
_KIND_COLUMNS = 4


@matplotlib.rc_context(style.SETTINGS)
def head_readings(readings: xr.Dataset) -> figure.Figure:
  """Draws three scores and an ablation, one row per layer, one line per head.

  Args:
    readings: from `experiments.analyze`; `even` by score is the score of a
      head that attends to all positions alike.
  """
  even = readings.even.to_series().to_dict() if 'even' in readings else {}
  num_layers = readings.sizes['layer']
  drawn, panels = style.new_figure(
    num_layers, len(_TITLES), _PANEL, sharey='col'
  )
  for column, (name, (title, unit)) in enumerate(_TITLES.items()):
    for layer in range(num_layers):
      ax = panels[layer, column]
      colors = style.shades(layer, readings.sizes['head'])
      values = readings[name].isel(layer=layer)
      _lines(ax, readings.checkpoint.values, values.values.T, colors)
      if name in even:
        ax.axhline(even[name], color=style.GRAY, lw=0.8, ls='--', zorder=1)
      ax.set_title(f'Layer {layer}: {title}')
      ax.set_ylabel(unit)
  # After all curves: panels of a column share y, and names need its limits.
  for layer in range(num_layers):
    for ax, name in zip(panels[layer], _TITLES, strict=True):
      label = 'training step' if layer == num_layers - 1 else ''
      style.step_axis(ax, readings.checkpoint.values, label)
      style.label_ends(ax, _ends(readings, name, layer))
  style.footnote(
    drawn,
    'dashed: attention to all positions alike',
    "ablation: the head's values are those of another sequence",
  )
  return drawn


@matplotlib.rc_context(style.SETTINGS)
def kind_losses(losses: xr.Dataset) -> figure.Figure:
  """Draws the loss on each kind of symbol above its floor.

  Args:
    losses: `kind_loss` (checkpoint, kind) and `kind_floor` (kind), nats.
  """
  kinds = [str(kind) for kind in losses.kind.values]
  columns = min(_KIND_COLUMNS, len(kinds))
  drawn, panels = style.new_figure(
    -(-len(kinds) // columns), columns, (2.9, 2.1), sharey=True
  )
  for place, (kind, ax) in enumerate(zip(kinds, panels.flat, strict=False)):
    cell = losses.sel(kind=kind)
    (color,) = style.shades(0, 1)
    _lines(ax, cell.checkpoint.values, [cell.kind_loss.values], [color])
    ax.axhline(float(cell.kind_floor), color=style.GRAY, lw=1, ls='--')
    last = place + columns >= len(kinds)
    style.step_axis(ax, cell.checkpoint.values, 'training step' if last else '')
    ax.set_title(kind.replace('_', ' '))
  # y is shared, so this sets the limits of all panels.
  panels[0, 0].set_ylim(0, 1.05 * float(losses.kind_loss.max()))
  for ax in panels[:, 0]:
    ax.set_ylabel('nats')
  for ax in panels.flat[len(kinds) :]:
    ax.remove()
  style.footnote(
    drawn, 'dashed: the least loss that is possible', 'second half of each row'
  )
  return drawn


def _lines(
  ax: axes.Axes, steps: np.ndarray, rows: Any, colors: Sequence[Any]
) -> None:
  for values, color in zip(rows, colors, strict=True):
    ax.plot(steps, values, color=color, lw=1.5, marker='o', ms=2.5)


def _ends(readings: xr.Dataset, name: str, layer: int) -> list[style.Label]:
  values = readings[name].isel(layer=layer, checkpoint=-1).values
  colors = style.shades(layer, len(values))
  step = int(readings.checkpoint.values[-1])
  return [
    style.Label(f'{layer}:{head}', step, float(value), color)
    for head, (value, color) in enumerate(zip(values, colors, strict=True))
  ]
