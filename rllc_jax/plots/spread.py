"""Figure of the spread between heads of a layer, with typical errors."""

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np
import xarray as xr

from rllc_jax.plots import style


@matplotlib.rc_context(style.SETTINGS)
def head_spread(spreads: xr.Dataset) -> figure.Figure:
  """Draws the standard deviation between heads and the typical error.

  Solid above dashed: heads differ by more than their errors explain. Both axes
  are logarithmic. Layers of fewer than two heads have no spread.

  Args:
    spreads: over (checkpoint, dataset, layer): `spread`, the standard deviation
      between heads, and `standard_error`, the root mean square of theirs.
  """
  spreads = spreads.sortby('checkpoint')
  count = spreads.sizes['dataset']
  columns = min(count, 2)
  drawn, panels = style.new_figure(
    -(-count // columns), columns, (7.4 / columns**0.7, 3.3), sharey='all'
  )
  for ax in panels.flat[count:]:
    ax.remove()
  for ax, dataset in zip(panels.flat, spreads.dataset.values, strict=False):
    chosen = spreads.sel(dataset=dataset)
    labels = _lines(ax, chosen)
    style.step_axis(ax, chosen.checkpoint.values, 'training step')
    ax.set_title(str(dataset) if count > 1 else '')
    if not labels:
      style.write_middle(ax, 'no layer with two heads')
  _logarithmic(panels[0, 0], spreads)
  # Names need the final scale.
  for ax, dataset in zip(panels.flat, spreads.dataset.values, strict=False):
    style.label_ends(ax, _ends(spreads.sel(dataset=dataset)))
  for ax in panels[:, 0]:
    ax.set_ylabel('standard deviation of wrLLC')
  style.footnote(
    drawn,
    'solid: standard deviation between the heads of a layer',
    'dashed: root mean square of their standard errors',
  )
  return drawn


def _positive(values: xr.DataArray) -> np.ndarray:
  return np.where(values.values > 0, values.values, np.nan)


def _lines(ax: axes.Axes, spreads: xr.Dataset) -> bool:
  steps = spreads.checkpoint.values
  has_spread = False
  for layer in spreads.layer.values:
    cell, color = spreads.sel(layer=layer), _color(layer)
    spread = _positive(cell.spread)
    has_spread = has_spread or bool(np.isfinite(spread).any())
    points = {'marker': 'o', 'ms': 3.5 if len(steps) <= 40 else 0, 'mew': 0}
    ax.plot(steps, spread, color=color, lw=1.6, **points)
    ax.plot(steps, _positive(cell.standard_error), color=color, lw=1.2, ls='--')
  return has_spread


def _ends(spreads: xr.Dataset) -> list[style.Label]:
  labels = []
  for layer in spreads.layer.values:
    for name, word in (
      ('spread', 'between heads'),
      ('standard_error', 'error'),
    ):
      line = spreads[name].sel(layer=layer)
      line = line.where(line > 0).dropna('checkpoint')
      if line.size:
        step, end = int(line.checkpoint[-1]), float(line[-1])
        labels.append(
          style.Label(f'layer {layer}: {word}', step, end, _color(layer))
        )
  return labels


def _color(layer):
  return style.shades(int(layer), 1)[0]


def _logarithmic(ax: axes.Axes, spreads: xr.Dataset) -> None:
  """Makes y logarithmic, with enough labelled ticks for its range."""
  values = np.concatenate(
    [_positive(spreads[name]).ravel() for name in ('spread', 'standard_error')]
  )
  values = values[np.isfinite(values)]
  if not len(values):
    return
  ax.set_yscale('log')
  ax.set_ylim(values.min() / 1.3, values.max() * 1.3)
  few = (1, 2, 5) if np.ptp(np.log10(values)) < 2.5 else (1,)
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=few))
  ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f'{y:g}'))
  ax.yaxis.set_minor_formatter(ticker.NullFormatter())
