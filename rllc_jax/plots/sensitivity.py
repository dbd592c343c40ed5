"""Figure of estimates against settings of the sampler."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib
from matplotlib import figure
from matplotlib import ticker
import numpy as np
from scipy import stats
import xarray as xr

from rllc_jax.plots import panels
from rllc_jax.plots import style

_NAMES = {
  'step_size': 'step size ε, weight²',
  'localization': 'γ, 1 / weight²',
  'nbeta': 'nβ, samples',
}


class Sweep(NamedTuple):
  """Estimates at several values of one setting.

  Attributes:
    setting: its name.
    run_value: that in the run of the other figures.
    estimates: by value, `llc`, `low`, `high` over (refinement).
  """

  setting: str
  run_value: float
  estimates: Mapping[float, xr.Dataset]


@matplotlib.rc_context(style.SETTINGS)
def sensitivity(sweeps: list[Sweep]) -> figure.Figure:
  """Draws one panel per setting, one line per head."""
  drawn, grid = style.new_figure(1, len(sweeps), (3.5, 3.2), sharey=True)
  names_at = {}
  for sweep, ax in zip(sweeps, grid[0], strict=True):
    values = sorted(sweep.estimates)
    first = sweep.estimates[values[0]]
    names = [str(name) for name in first.refinement.values]
    colors = panels.by_layer(names)
    ends = []
    for name in names:
      cells = [sweep.estimates[x].sel(refinement=name) for x in values]
      llc = [float(cell.llc) for cell in cells]
      reach = [[float(c.llc - c.low) for c in cells]]
      reach.append([float(c.high - c.llc) for c in cells])
      ax.errorbar(
        values, llc, reach, color=colors[name], lw=1.2, elinewidth=0.8
      )
      ends.append(style.Label(name, values[-1], llc[-1], colors[name]))
    ax.set_xscale('log')
    ax.xaxis.set_major_locator(ticker.FixedLocator(values))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:g}'))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlabel(_NAMES[sweep.setting])
    ax.axvline(sweep.run_value, color=style.GRAY, lw=0.8, ls='--', zorder=1)
    ax.set_title(f'order kept: ρ ≥ {_least_correlation(sweep):.3f}')
    ax.label_outer()
    ax.margins(x=0.08)
    names_at[ax] = ends
  # Labels need final limits, which are shared.
  for ax, ends in names_at.items():
    style.label_ends(ax, ends)
  grid[0, 0].set_ylabel('refined LLC (wrLLC)')
  style.footnote(
    drawn, 'bars: 95 % intervals', 'dashed: the setting of the other figures'
  )
  return drawn


def _least_correlation(sweep: Sweep) -> float:
  """The least Spearman correlation with the order at the run's setting."""
  reference = sweep.estimates[sweep.run_value].llc.values
  correlations = [
    stats.spearmanr(reference, x.llc.values) for x in sweep.estimates.values()
  ]
  return float(np.min([x.statistic for x in correlations]))
