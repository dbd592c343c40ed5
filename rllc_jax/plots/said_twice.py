"""Changes of estimates on rows that say their first half twice."""

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
_INDUCTION, _OTHER = '#c8442b', '#8a8f98'


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


def changes(estimates: xr.Dataset) -> xr.Dataset:
  """The change of each estimate where the text is said twice, in per cent.

  Args:
    estimates: `llc`, `standard_error` over (checkpoint, dataset, refinement).

  Returns:
    `change` and `error`, its standard error, over (checkpoint, refinement); the
    data sets have minibatches of their own, so errors add in quadrature.
  """
  names_of_pair = pair(estimates.dataset.values.tolist())
  assert names_of_pair is not None
  plain, twice = (
    estimates.sel(dataset=name, drop=True) for name in names_of_pair
  )
  ratio = twice.llc / plain.llc
  shares = [x.standard_error / abs(x.llc) for x in (plain, twice)]
  error = abs(ratio) * np.hypot(*shares)
  change = xr.Dataset({'change': 100 * (ratio - 1), 'error': 100 * error})
  return change.dropna('checkpoint', how='all')


@matplotlib.rc_context(style.SETTINGS)
def parting(estimates: xr.Dataset, classes: Mapping[str, str]) -> figure.Figure:
  """Draws how the heads of the last layer part: over training, and on repeats.

  Args:
    estimates: with a data set NAME and NAME_twice.
    classes: of heads by name, as of `head_types.of_readings`; those of the
      class induction are red.
  """
  heads = [*names.heads_by_layer(estimates.refinement.values).values()][-1]
  drawn, panels = style.new_figure(1, 2, (4.3, 3.4))
  left, right = panels.flat
  _draw_curves(left, estimates.sortby('checkpoint'), heads, classes)
  _draw_changes(right, changes(estimates), heads, classes)
  return drawn


def _color(head: str, classes: Mapping[str, str]) -> str:
  return _INDUCTION if classes.get(head) == 'induction' else _OTHER


def _draw_curves(
  ax: axes.Axes,
  estimates: xr.Dataset,
  heads: Sequence[str],
  classes: Mapping[str, str],
) -> None:
  names_of_pair = pair(estimates.dataset.values.tolist())
  assert names_of_pair is not None
  plain = estimates.sel(dataset=names_of_pair[0])
  steps, ends = plain.checkpoint.values, []
  for head in heads:
    cell, color = plain.sel(refinement=head), _color(head, classes)
    ax.fill_between(steps, cell.low, cell.high, color=color, alpha=0.2, lw=0)
    ax.plot(steps, cell.llc, color=color, lw=1.5)
    ends.append(style.Label(head, int(steps[-1]), float(cell.llc[-1]), color))
  ax.set_title(f'wrLLC on {names_of_pair[0]}')
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
  ax.set_title('change where it is said twice')
  ax.set_ylabel('per cent of the wrLLC')
  ax.set_xlabel('head')
