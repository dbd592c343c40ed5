"""Figure of chains: paired loss differences, draw by draw."""

from collections.abc import Sequence

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np
import xarray as xr

from rllc_jax.plots import style
from rllc_jax.refinement import names

_WINDOWS = 60  # Windows of draws for the mean over chains.


@matplotlib.rc_context(style.SETTINGS)
def chain_traces(
  traces: xr.Dataset,
  estimates: xr.Dataset,
  *,
  burn_in: int,
  dataset: str,
  refinements: Sequence[str],
  checkpoints: Sequence[int],
) -> figure.Figure:
  """Draws chains of some cells, so that a reader sees whether they plateau.

  Thin lines are chains, the bold one is the mean over chains that did not
  fail, in windows of draws; dashed is the estimate. The y range holds the
  middle 99 % of the draws after the burn-in and the bold line: a row shares it.

  Args:
    traces: `loss` and `center_loss` (checkpoint, dataset, refinement, chain,
      draw), attribute `nbeta`.
    estimates: from `llc_from_traces` of these traces: `llc`, `failed`.
    burn_in: steps that the estimate leaves out, shaded.
    dataset: which.
    refinements: which, a row each.
    checkpoints: which, a column each.
  """
  drawn, panels = style.new_figure(
    len(refinements),
    len(checkpoints),
    (max(9.2 / len(checkpoints), 2.4), 2.1),
    sharex='all',
    sharey='row',
  )
  for row, name in zip(panels, refinements, strict=True):
    where = {'dataset': dataset, 'refinement': name}
    ranges = []
    for ax, step in zip(row, checkpoints, strict=True):
      cell = {**where, 'checkpoint': step}
      ranges += _cell(ax, traces.sel(cell), estimates.sel(cell), burn_in)
      ax.set_title(f'{names.label(name)}, step {step:,}', fontsize=9)
    if ranges:
      low, high = min(ranges), max(ranges)
      row[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    row[0].set_ylabel('nβ (loss − loss*)')
  for ax in panels[-1]:
    ax.set_xlabel('steps from the checkpoint')
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
  if burn_in:
    _name_burn_in(panels[0, 0], burn_in)
  window = -(-traces.sizes['draw'] // _WINDOWS)
  style.footnote(
    drawn,
    f'thin: {traces.sizes["chain"]} chains, bold: their mean in windows of '
    f'{window} draws, dashed: the estimate',
    style.settings_text(traces.attrs),
  )
  return drawn


def _cell(
  ax: axes.Axes, traces: xr.Dataset, estimates: xr.Dataset, burn_in: int
) -> list[float]:
  """Draws one panel; returns values that its range of y must contain."""
  draws = traces.draw.values
  difference = (traces.loss - traces.center_loss).transpose('chain', 'draw')
  scaled = traces.attrs['nbeta'] * difference.values.astype(float)
  failed = estimates.failed.values
  if burn_in:
    ax.axvspan(draws[0], burn_in, color='#f3f4f6', zorder=0, lw=0)
  ax.set_xlim(draws[0], draws[-1])
  ax.axhline(0, color=style.GRAY, lw=0.6, zorder=1)
  if failed.any():
    _write(ax, f'{failed.sum()} of {len(failed)} chains failed')
  colors, dark = _colors(str(estimates.refinement.values), len(scaled))
  healthy = scaled[~failed]
  for chain, color in zip(scaled, colors, strict=True):
    # A failed chain is drawn as far as it is finite. Rasterized: as paths,
    # thousands of points would make a large file.
    ax.plot(draws, chain, color=color, lw=0.4, alpha=0.5, rasterized=True)
  centers, means = window_means(draws, healthy, _WINDOWS)
  if not np.isfinite(means).any():
    _write(ax, 'no draws' if not failed.any() else 'all chains failed')
    return []
  ax.plot(centers, means, color=dark, lw=1.8, zorder=4)
  ax.axhline(float(estimates.llc), color='black', lw=0.9, ls='--', zorder=5)
  settled = healthy[:, draws >= burn_in]
  settled = settled[np.isfinite(settled)]
  sides = np.percentile(settled, (0.5, 99.5)) if settled.size else []
  return [*sides, np.nanmin(means), np.nanmax(means), 0.0]


def _colors(name: str, count: int):
  """Lighter shades of the layer's family, one per chain, and its darkest."""
  place = names.head(name)
  if place is None:
    return ['0.6'] * count, '0.2'
  *lighter, dark = style.shades(place[0], 2 * count + 1)
  return lighter[:count], dark


def _write(ax, text):
  ax.text(
    0.97, 0.95, text, transform=ax.transAxes, ha='right', va='top', fontsize=7.5
  )


def _name_burn_in(ax, burn_in):
  ax.annotate(
    'burn-in',
    (burn_in, 1),
    (-3, -3),
    xycoords=ax.get_xaxis_transform(),
    textcoords='offset points',
    rotation=90,
    ha='right',
    va='top',
    fontsize=7.5,
    color=style.GRAY,
  )


def window_means(
  draws: np.ndarray, chains: np.ndarray, num_windows: int
) -> tuple[np.ndarray, np.ndarray]:
  """Means over all chains in consecutive windows of draws.

  Args:
    draws: [D], steps.
    chains: [C, D]; a window with anything missing is missing.
    num_windows: at most so many.

  Returns:
    Middles of the windows, in steps, and means, [windows].

  Examples:
    >>> middles, means = window_means(
    ...   np.arange(4), np.array([[1.0, 3, 5, 7], [3.0, 5, 7, 9]]), 2)
    >>> print(middles, means)
    [0.5 2.5] [3. 7.]
  """
  size = -(-len(draws) // num_windows)
  starts = np.arange(0, len(draws), size)
  counts = np.diff([*starts, len(draws)])
  if not len(chains):  # A mean over no chains would warn.
    chains = np.full((1, len(draws)), np.nan)
  average = lambda series: np.add.reduceat(series, starts) / counts
  return average(draws.astype(float)), average(chains.mean(axis=0))
