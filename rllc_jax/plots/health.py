"""Figure of every diagnostic over training."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import lines
from matplotlib import ticker
import numpy as np
import xarray as xr

from rllc_jax.estimators import faults
from rllc_jax.plots import heads
from rllc_jax.plots import style

_BAND = '#e4f2e8'
_NUM_COLUMNS = 3
_CROWDED = 40  # Checkpoints beyond which points and rings are small.
_MOST_NAMED = 24  # Refinements with a tick each, for a single checkpoint.


class _Panel(NamedTuple):
  """Title, healthy range and axis of a diagnostic's panel.

  Attributes:
    title: of the panel.
    low: least healthy value, or None.
    high: largest healthy value, or None.
    logarithmic: True for a logarithmic y.
    shown: values that the range of y always contains.
    line: a value to compare with, drawn where it is in range.
  """

  title: str
  low: float | None = None
  high: float | None = None
  logarithmic: bool = False
  shown: Sequence[float] = ()
  line: float | None = None


_RATIO = (1 - faults.RATIO_TOLERANCE, 1 + faults.RATIO_TOLERANCE)
_HALVES = (-faults.HALVES_LIMIT, faults.HALVES_LIMIT)
_STEP_BIAS = faults.STEP_BIAS_LIMIT
_PANELS: Mapping[str, _Panel] = {
  'equilibrium_ratio': _Panel(
    'Equilibrium ratio', *_RATIO, shown=(0.95, 1.05), line=1.0
  ),
  'ess': _Panel('ESS', logarithmic=True, shown=(30, 300)),
  'rhat': _Panel('R-hat', shown=(1.0, 1.07)),
  'halves_difference': _Panel(
    'Difference of halves, in errors', *_HALVES, shown=(-4.0, 4.0), line=0.0
  ),
  'step_bias_share': _Panel(
    "Share of the step's bias", None, _STEP_BIAS, shown=(0.0, 0.07)
  ),
  'drift_to_noise': _Panel('Drift to noise', shown=(0.0,), line=1.0),
  'negative_share': _Panel(
    'Share of negative differences', shown=(0.0, 0.55), line=0.5
  ),
  'distance': _Panel('Distance from w*', shown=(0.0,)),
  'mala_acceptance': _Panel('MALA acceptance', shown=(0.0, 1.0)),
}


@matplotlib.rc_context(style.SETTINGS)
def diagnostics_curves(estimates: xr.Dataset, *, dataset: str) -> figure.Figure:
  """Draws each diagnostic against training step, one line per refinement.

  Green is where a cell is healthy; a ring is a value outside it. Panels without
  green are not judged. Colors are those of `heads.llc_curves`. Of a single
  checkpoint the refinements stand side by side instead.

  Args:
    estimates: from `llc_from_traces`; diagnostics that it lacks are left out.
    dataset: which.
  """
  chosen = estimates.sel(dataset=dataset).sortby('checkpoint')
  names = [name for name in _PANELS if name in chosen]
  rows = -(-len(names) // _NUM_COLUMNS)
  drawn, panels = style.new_figure(rows, _NUM_COLUMNS, (3.5, 2.05))
  for ax in panels.flat[len(names) :]:
    ax.remove()
  groups = heads.groups_of(list(map(str, chosen.refinement.values)))
  single = chosen.sizes['checkpoint'] == 1
  for place, (ax, name) in enumerate(zip(panels.flat, names, strict=False)):
    (_side_by_side if single else _over_training)(ax, chosen[name], groups)
    _finish_y(ax, chosen[name].values, _PANELS[name])
    if place + _NUM_COLUMNS >= len(names) and not single:
      ax.set_xlabel('training step')
    ax.set_title(_PANELS[name].title)
  _legend(drawn, groups)
  several = estimates.sizes['dataset'] > 1
  style.footnote(
    drawn,
    f'data set: {dataset}' if several else '',
    f'step {int(chosen.checkpoint[0]):,}' if single else '',
    'green: healthy, ring: outside of it',
    'ESS: effective sample size of all chains',
    style.settings_text(estimates.attrs),
  )
  return drawn


def _over_training(
  ax: axes.Axes, values: xr.DataArray, groups: Sequence[heads.Group]
) -> None:
  steps = values.checkpoint.values
  size = 2.6 if len(steps) <= _CROWDED else 1.2
  for group in groups:
    for name, color in zip(group.names, group.colors, strict=True):
      y = values.sel(refinement=name).values
      ax.plot(steps, y, color=color, lw=1.0, marker='o', ms=size, mew=0)
      _ring(ax, steps, y, str(values.name), color)
  style.step_axis(ax, steps, '')


def _side_by_side(
  ax: axes.Axes, values: xr.DataArray, groups: Sequence[heads.Group]
) -> None:
  names = [name for group in groups for name in group.names]
  colors = [color for group in groups for color in group.colors]
  for x, (name, color) in enumerate(zip(names, colors, strict=True)):
    y = values.sel(refinement=name).values
    ax.plot([x], y, color=color, marker='o', ms=4, mew=0)
    _ring(ax, np.array([x]), y, str(values.name), color)
  ax.set_xlim(-0.6, len(names) - 0.4)
  shown = names if len(names) <= _MOST_NAMED else []
  ax.set_xticks(range(len(shown)), shown, fontsize=7, rotation=90)


def _ring(ax, x, y, name, color) -> None:
  """Rings values outside the healthy range."""
  panel = _PANELS[name]
  low = -np.inf if panel.low is None else panel.low
  high = np.inf if panel.high is None else panel.high
  outside = np.isfinite(y) & ~((low <= y) & (y <= high))
  if not outside.any():
    return  # An empty unclipped line would still claim room, at the origin.
  ax.plot(
    x[outside],
    y[outside],
    'o',
    ms=6 if len(x) <= _CROWDED else 3,
    mfc='none',
    mec=color,
    mew=1.1,
    clip_on=False,
    zorder=5,
  )


def _finish_y(ax: axes.Axes, values: np.ndarray, panel: _Panel) -> None:
  """Sets the range of y; draws the healthy part and the reference line."""
  # Limits by hand: matplotlib's own ignore the values in `shown`.
  finite = values[np.isfinite(values)]
  if panel.logarithmic:
    finite = finite[finite > 0]
  if not len(finite):
    style.write_middle(ax, 'no estimates')
    return
  low, high = np.min([*finite, *panel.shown]), np.max([*finite, *panel.shown])
  if panel.logarithmic:
    ax.set_yscale('log')
    margin = max(high / low, 1.5) ** 0.06
    ax.set_ylim(low / margin, high * margin)
    _label_decades(ax)
  else:
    margin = 0.05 * (high - low) or 0.5
    ax.set_ylim(low - margin, high + margin)
  bottom, top = ax.get_ylim()
  if panel.low is not None or panel.high is not None:
    edges = (panel.low, panel.high)
    sides = [
      end if edge is None else edge
      for edge, end in zip(edges, (bottom, top), strict=True)
    ]
    ax.axhspan(*sides, color=_BAND, lw=0, zorder=0)
  if panel.line is not None and bottom <= panel.line <= top:
    ax.axhline(panel.line, color=style.GRAY, lw=0.8, ls=(0, (4, 3)), zorder=1)


def _label_decades(ax: axes.Axes) -> None:
  """Labels ticks with plain numbers, more of them over a short range."""
  bottom, top = ax.get_ylim()
  few = (1, 2, 5) if top / bottom < 300 else (1,)
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=few))
  ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f'{y:g}'))
  ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _legend(drawn: figure.Figure, groups: Sequence[heads.Group]) -> None:
  names = [name for group in groups for name in group.names]
  colors = [color for group in groups for color in group.colors]
  handles = [lines.Line2D([], [], color=c, lw=2) for c in colors]
  drawn.legend(
    handles,
    names,
    loc='outside upper center',
    ncol=min(len(names), 12),
    handlelength=1.2,
    columnspacing=1.4,
  )
