"""Heat maps of sweeps of the sampler's settings."""

from collections.abc import Mapping

import matplotlib
from matplotlib import axes
from matplotlib import colors
from matplotlib import figure
from matplotlib import patches
import numpy as np
import xarray as xr

from rllc_jax.plots import style
from rllc_jax.refinement import names

_SYMBOLS = {'nbeta': 'nβ', 'localization': 'γ'}
_VALUES = colors.LinearSegmentedColormap.from_list(
  'values', ('#eef6fb', '#8fc1de', '#1f6ea8', '#12335c')
)
# Blue under the limit, orange over it, white at it.
_ERRORS = colors.LinearSegmentedColormap.from_list(
  'errors', ('#3b7fb4', '#ffffff', '#d9772b')
)
_HEALTHY, _UNHEALTHY, _NONE = '#cfe6d6', '#f7d9b0', '#e5e7eb'
# Words of verdicts (`estimators.faults`), and short forms that fit a cell.
_SHORT = (
  ('failed', 'failed'),
  ('equilibrium ratio', 'ratio'),
  ('R-hat', 'R-hat'),
  ('ESS', 'ESS'),
  ('halves of', 'halves'),
  ('never change', 'still'),
  ('step size adds', 'step bias'),
  ('bias is not predicted', 'bias?'),
  ('last place', 'rounding'),
  ('after the burn-in', 'few draws'),
)
_MAX_ERROR = 3.0  # Percent; white in the colors of errors.


@matplotlib.rc_context(style.SETTINGS)
def heat_maps(
  sweep: xr.Dataset,
  *,
  y: str,
  step_sizes: xr.DataArray,
  setting: Mapping[str, float] | None,
) -> figure.Figure:
  """Draws estimate, error and health over the grid, one row per refinement.

  Below an estimate stands its change from half the step size. A dot marks the
  largest step size that qualifies for this refinement at each y, a frame the
  setting that is recommended for all. In the last column lines mark where step
  size times curvature is 1 (dotted) and 4 (solid), where SGLD diverges.

  Args:
    sweep: over (step_size, y, refinement), step sizes each twice the one
      before: `llc`, `standard_error`, `healthy`, `verdict`,
      `equilibrium_ratio`; `curvature` over (y, refinement) may be missing.
    y: 'nbeta' or 'localization'.
    step_sizes: over (y, refinement), those that qualify, or NaN.
    setting: `step_size` and y of the frame; None for no frame.
  """
  sweep = sweep.sortby(['step_size', y])
  rows = [str(name) for name in sweep.refinement.values]
  height = 0.42 * sweep.sizes[y] + 0.35
  width = 0.58 * sweep.sizes['step_size'] + 0.5
  drawn, panels = style.new_figure(
    len(rows), 3, (max(width, 2.4), height), sharex='all', sharey='all'
  )
  columns = (_estimates, _errors, _health)
  titles = ('refined LLC', 'standard error, % of it', 'health')
  for row, name in zip(panels, rows, strict=True):
    cell = sweep.sel(refinement=name).transpose('step_size', y, ...)
    for ax, draw in zip(row, columns, strict=True):
      draw(ax, cell)
      _mark(ax, cell, y, step_sizes.sel(refinement=name), setting)
    if 'curvature' in cell:
      _limits(row[-1], cell, y)
    row[0].set_ylabel(f'{names.label(name)}\n{_SYMBOLS[y]}')
  for ax, title in zip(panels[0], titles, strict=True):
    ax.set_title(title)
  for ax in panels[-1]:
    ax.set_xlabel('step size ε')
  _label_grid(panels[0, 0], sweep, y)
  style.footnote(drawn, *_notes(sweep, setting))
  return drawn


def _estimates(ax: axes.Axes, cell: xr.Dataset) -> None:
  values = cell.llc.values.T
  change = cell.llc / cell.llc.shift(step_size=1) - 1
  finite = values[np.isfinite(values)]
  low, high = (finite.min(), finite.max()) if finite.size else (0, 1)
  pad = 0.5 * (high - low) or 1.0  # The least estimate is not white.
  fill = _VALUES(colors.Normalize(low - pad, high)(values))
  _paint(ax, np.where(np.isfinite(values)[..., None], fill, _rgba(_NONE)))
  for (i, j), value in np.ndenumerate(values):
    step = change.values[j, i]
    ink = _ink(fill[i, j]) if np.isfinite(value) else style.GRAY
    words = f'{value:#.3g}'.rstrip('.') if np.isfinite(value) else '–'
    shift = 0.14 if np.isfinite(step) else 0.0
    _write(ax, (j, i + shift), words, ink, 8)
    if np.isfinite(step):
      _write(ax, (j, i - 0.24), f'{100 * step:+.1f} %', ink, 5.5)


def _errors(ax: axes.Axes, cell: xr.Dataset) -> None:
  percent = (100 * cell.standard_error / abs(cell.llc)).values.T
  # A color scale in octaves: half and twice the limit are equally far off.
  with np.errstate(divide='ignore', invalid='ignore'):
    octaves = np.log2(percent / _MAX_ERROR)
  fill = _ERRORS(colors.Normalize(-3, 3)(octaves))
  _paint(ax, np.where(np.isfinite(percent)[..., None], fill, _rgba(_NONE)))
  for (i, j), value in np.ndenumerate(percent):
    words = f'{value:#.2g}'.rstrip('.') if value < 99.5 else '>99'
    words = words if np.isfinite(value) else '–'
    ink = _ink(fill[i, j]) if np.isfinite(value) else style.GRAY
    _write(ax, (j, i), words, ink, 8)


def _health(ax: axes.Axes, cell: xr.Dataset) -> None:
  healthy = cell.healthy.values.T.astype(bool)
  has_estimate = np.isfinite(cell.llc.values.T)
  fill = np.where(healthy[..., None], _rgba(_HEALTHY), _rgba(_UNHEALTHY))
  _paint(ax, np.where(has_estimate[..., None], fill, _rgba(_NONE)))
  for (i, j), ratio in np.ndenumerate(cell.equilibrium_ratio.values.T):
    verdict = str(cell.verdict.values[j, i])
    words = f'{ratio:.2f}' if healthy[i, j] else _reasons(verdict)
    _write(ax, (j, i + 0.12), words, '#111827', 7 if healthy[i, j] else 6)


def _reasons(verdict: str) -> str:
  """The faults of a verdict, in a word or two."""
  words = [short for long, short in _SHORT if long in verdict] or ['no']
  return '\n'.join(words[:2]) + (' …' if len(words) > 2 else '')


def _mark(ax, cell, y, step_sizes, setting) -> None:
  """Marks step sizes that qualify for the cell, and frames the setting."""
  steps, heights = cell.step_size.values, cell[y].values
  for i, chosen in enumerate(step_sizes.sel({y: heights}).values):
    if np.isfinite(chosen):
      # The nearest: coordinates are floats.
      j = int(np.argmin(abs(steps - chosen)))
      ax.plot(j + 0.36, i + 0.32, 'o', ms=4, color='black', zorder=5)
  if setting is not None and np.isclose(heights, setting[y]).any():
    i = int(np.argmin(abs(heights - setting[y])))
    j = int(np.argmin(abs(steps - setting['step_size'])))
    frame = {'fill': False, 'lw': 2, 'ec': 'black', 'zorder': 6}
    corner = (j - 0.5, i - 0.5)
    ax.add_patch(patches.Rectangle(corner, 1, 1, clip_on=False, **frame))


def _limits(ax: axes.Axes, cell: xr.Dataset, y: str) -> None:
  """Draws where step size times curvature is 1 and 4."""
  steps = cell.step_size.values
  for i, a in enumerate(cell.curvature.transpose(y).values):
    for limit, line in ((1.0, ':'), (4.0, '-')):
      if not a > 0:
        continue
      # Columns are octaves: step sizes double from one to the next.
      x = np.log2(limit / a / steps[0])
      if -0.5 < x < len(steps) - 0.5:
        ax.plot([x, x], [i - 0.5, i - 0.16], line, color='#991b1b', lw=1.6)


def _paint(ax: axes.Axes, fill: np.ndarray) -> None:
  ax.imshow(fill, origin='lower', aspect='auto', zorder=0)
  rows, columns = fill.shape[:2]
  # Minor ticks lie between cells: their grid is the gaps.
  ax.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
  ax.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
  ax.grid(False)
  ax.grid(which='minor', color='white', lw=1.5)
  ax.tick_params(which='both', length=0)
  ax.spines[:].set_visible(False)
  ax.set_axisbelow(False)


def _label_grid(ax: axes.Axes, sweep: xr.Dataset, y: str) -> None:
  steps, heights = sweep.step_size.values, sweep[y].values
  ax.set_xticks(range(len(steps)), [f'{x:.3g}' for x in steps], fontsize=7.5)
  ax.set_yticks(range(len(heights)), [f'{x:.4g}' for x in heights])


def _notes(sweep: xr.Dataset, setting) -> list[str]:
  notes = ['small: change from ε/2', 'dot: largest ε that qualifies']
  if setting is not None:
    notes.append('frame: recommended for all')
  notes.append('health: equilibrium ratio, or what is wrong')
  if 'curvature' in sweep:
    notes.append('red: εa = 1 (dotted), 4')
  attributes = {
    name: sweep[name].item()
    for name in ('nbeta', 'localization')
    if name in sweep.coords and not sweep[name].ndim
  }
  return [*notes, style.settings_text(attributes)]


def _write(ax, place, words, ink, size) -> None:
  ax.text(
    *place, words, ha='center', va='center', color=ink, fontsize=size, zorder=4
  )


def _rgba(color: str) -> np.ndarray:
  return np.array(colors.to_rgba(color))


def _ink(fill) -> str:
  # Weights of ITU-R BT.601.
  luminance = np.dot(fill[:3], (0.299, 0.587, 0.114))
  return '#111827' if luminance > 0.5 else 'white'
