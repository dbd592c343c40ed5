"""Changes of estimates on other data, such as rows that are said twice."""

from collections.abc import Mapping
from collections.abc import Sequence

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.estimators import errors
from rllc_jax.plots import style
from rllc_jax.refinement import names

TWICE = '_twice'


def pair(datasets: Sequence[str]) -> tuple[str, str] | None:
  """A data set and the one that says its rows twice, if both are there.

  Examples:
    >>> pair(['train', 'train_twice'])
    ('train', 'train_twice')
  """
  for name in datasets:
    if f'{name}{TWICE}' in datasets:
      return name, f'{name}{TWICE}'
  return None


def changes(estimates: xr.Dataset, text: str, other: str) -> xr.Dataset:
  """The change of each estimate from one data set to another, in per cent.

  Args:
    estimates: `llc`, `standard_error` over (checkpoint, dataset, refinement).
    text: the data set that a change is from.
    other: the one that it leads to.

  Returns:
    `change` and `error`, its standard error, over (checkpoint, refinement); the
    data sets have minibatches of their own, so errors add in quadrature.
  """
  plain, twice = (
    estimates.sel(dataset=name, drop=True) for name in (text, other)
  )
  ratio = twice.llc / plain.llc
  shares = [x.standard_error / abs(x.llc) for x in (plain, twice)]
  error = abs(ratio) * np.hypot(*shares)
  change = xr.Dataset({'change': 100 * (ratio - 1), 'error': 100 * error})
  return change.dropna('checkpoint', how='all')


@matplotlib.rc_context(style.SETTINGS)
def parting(
  estimates: xr.Dataset,
  classes: Mapping[str, str],
  text: str,
  others: Sequence[str],
  caption: str = '',
) -> figure.Figure:
  """Draws how the heads of the last layer part: over training, and elsewhere.

  Args:
    estimates: of heads, on all of these data sets.
    classes: of heads by name, as of `head_types.of_readings`.
    text: the data set of the curves.
    others: those to which changes are drawn.
    caption: what there is to see.
  """
  heads = [*names.heads_by_layer(estimates.refinement.values).values()][-1]
  drawn, panels = style.new_figure(1, 1 + len(others), (4.0, 3.4))
  style.caption(drawn, caption)
  style.name_classes(drawn, [classes.get(head, 'other') for head in heads])
  for other, ax in zip(others, panels[0, 1:], strict=True):
    _draw_changes(ax, changes(estimates, text, other), heads, classes)
    ax.set_title(f'change on {other}')
  # Last, because names at the ends of curves need the final layout.
  plain = estimates.sortby('checkpoint').sel(dataset=text)
  _draw_curves(panels[0, 0], plain, heads, classes)
  panels[0, 0].set_title(f'wrLLC on {text}')
  style.footnote(drawn, 'bands and bars: 95 % intervals')
  return drawn


def _color(head: str, classes: Mapping[str, str]) -> str:
  return style.CLASSES[classes.get(head, 'other')]


def _draw_curves(
  ax: axes.Axes,
  plain: xr.Dataset,
  heads: Sequence[str],
  classes: Mapping[str, str],
) -> None:
  steps, ends = plain.checkpoint.values, []
  for head in heads:
    cell, color = plain.sel(refinement=head), _color(head, classes)
    ax.fill_between(steps, cell.low, cell.high, color=color, alpha=0.2, lw=0)
    ax.plot(steps, cell.llc, color=color, lw=1.5)
    ends.append(style.Label(head, int(steps[-1]), float(cell.llc[-1]), color))
  ax.set_ylabel('refined LLC')
  style.step_axis(ax, steps, 'training step')
  style.label_ends(ax, ends)


def _draw_changes(
  ax: axes.Axes,
  change: xr.Dataset,
  heads: Sequence[str],
  classes: Mapping[str, str],
) -> None:
  last = change.sortby('checkpoint').isel(checkpoint=-1)
  for place, head in enumerate(heads):
    cell, color = last.sel(refinement=head), _color(head, classes)
    mean = errors.with_interval(cell.change.values, cell.error.values)
    bar = float(mean.high - mean.value)
    ax.errorbar(place, float(mean.value), bar, fmt='o', color=color, lw=1.2)
  ax.axhline(0, color=style.GRAY, lw=0.8, zorder=1)
  ax.set_xticks(range(len(heads)), heads)
  ax.set_ylabel('per cent of the wrLLC')
  ax.set_xlabel('head')
