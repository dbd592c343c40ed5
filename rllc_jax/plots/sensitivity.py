"""Figure of estimates against settings of the sampler."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np
from scipy import stats
import xarray as xr

from rllc_jax.plots import style
from rllc_jax.refinement import names as naming

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
def sensitivity(
  sweeps: Sequence[Sweep], classes: Mapping[str, str], caption: str = ''
) -> figure.Figure:
  """Draws estimates over those of the run: a column a setting, a row a layer.

  Args:
    sweeps: one a setting.
    classes: of heads by name.
    caption: what there is to see.
  """
  first = next(iter(sweeps[0].estimates.values()))
  layers = naming.heads_by_layer(first.refinement.values)
  drawn, grid = style.new_figure(
    len(layers), len(sweeps), (3.3, 2.5), sharey='col'
  )
  style.caption(drawn, caption)
  style.name_classes(drawn, classes.values())
  for column, sweep in enumerate(sweeps):
    for row, (layer, heads) in enumerate(layers.items()):
      ax = grid[row, column]
      _draw(ax, sweep, heads, classes)
      kept = _least_correlation(sweep, heads)
      ax.set_title(f'Layer {layer}: ρ ≥ {kept:.2f}')
      ax.set_ylabel('rLLC over the run’s' if column == 0 else '')
    grid[-1, column].set_xlabel(_NAMES[sweep.setting])
  style.footnote(
    drawn,
    'bars: 95 % intervals',
    'ρ: least Spearman correlation of the heads of a layer with the run',
  )
  return drawn


def _draw(
  ax: axes.Axes, sweep: Sweep, heads: Sequence[str], classes: Mapping[str, str]
) -> None:
  values = sorted(sweep.estimates)
  base = sweep.estimates[sweep.run_value]
  for place, head in enumerate(heads):
    cells: Any = [sweep.estimates[x].sel(refinement=head) for x in values]
    scale = float(base.llc.sel(refinement=head))
    llc = np.array([float(cell.llc) for cell in cells]) / scale
    reach = np.array([float(c.high - c.low) / 2 for c in cells]) / abs(scale)
    # Beside each other, or bars would cover one another.
    shift = 1.03 ** (place - (len(heads) - 1) / 2)
    ax.errorbar(
      np.array(values) * shift,
      llc,
      reach,
      color=style.CLASSES[classes[head]],
      lw=1.2,
      elinewidth=0.8,
    )
  ax.set_xscale('log')
  ax.xaxis.set_major_locator(ticker.FixedLocator(values))
  ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:g}'))
  ax.xaxis.set_minor_locator(ticker.NullLocator())
  ax.axhline(1, color=style.GRAY, lw=0.8, ls='--', zorder=1)


def _least_correlation(sweep: Sweep, heads: Sequence[str]) -> float:
  """The least Spearman correlation with the order at the run's setting."""
  of_heads = lambda x: x.llc.sel(refinement=list(heads)).values
  reference = of_heads(sweep.estimates[sweep.run_value])
  correlations = [
    stats.spearmanr(reference, of_heads(x)) for x in sweep.estimates.values()
  ]
  return float(np.min([x.statistic for x in correlations]))
