"""Figures over training runs of several seeds."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np

from rllc_jax.plots import style


class Effect(NamedTuple):
  """An effect by seed, with its pooled interval.

  Attributes:
    name: of the claim, and where it is measured.
    statement: in words; '' where the row above says it.
    by_seed: [S].
    low: lower end of the pooled 95 % interval.
    high: upper end.
    least: the least effect of interest.
    verdict: in words.
  """

  name: str
  statement: str
  by_seed: np.ndarray
  low: float
  high: float
  least: float
  verdict: str


class Run(NamedTuple):
  """Curves of the heads of one run.

  Attributes:
    steps: [K].
    curves: {head: [K]}.
    classes: {head: class}.
  """

  steps: np.ndarray
  curves: Mapping[str, np.ndarray]
  classes: Mapping[str, str]


_VERDICTS = {'true': '#3f9142', 'false': '#c8442b'}


@matplotlib.rc_context(style.SETTINGS)
def effects(measured: Sequence[Effect], caption: str = '') -> figure.Figure:
  """Draws a row an effect, in units of the least effect of interest."""
  count = len(measured)
  drawn, grid = style.new_figure(1, 1, (8.6, 1.0 + 0.22 * count))
  style.caption(drawn, caption)
  ax = grid[0, 0]
  ax.axvspan(0, 1, color='#eef1f6', lw=0, zorder=0)
  ax.axvline(0, color=style.GRAY, lw=0.8, zorder=1)
  for row, effect in enumerate(measured):
    color = _VERDICTS.get(effect.verdict, style.GRAY)
    values = np.asarray(effect.by_seed) / effect.least
    ends = np.array([effect.low, effect.high]) / effect.least
    ax.scatter(values, np.full(len(values), row), color=color, s=8, alpha=0.5)
    ax.plot(ends, [row, row], color=color, lw=2.4, alpha=0.9)
    ax.scatter(values.mean(), row, color=color, s=34, zorder=4, marker='D')
    beside = {'xycoords': ('axes fraction', 'data'), 'va': 'center', 'size': 8}
    ax.annotate(effect.verdict, (1.01, row), color=color, **beside)
    ax.annotate(effect.statement, (1.24, row), **beside)
  ax.set_xscale('symlog', linthresh=1, linscale=1)
  reach = max(abs(x) for x in ax.get_xlim())
  ticks = [x for x in (1, 3, 10, 30, 100, 300) if x <= reach]
  ticks = [*(-x for x in ticks[::-1]), 0, *ticks]
  ax.xaxis.set_major_locator(ticker.FixedLocator(ticks))
  ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:g}'))
  ax.xaxis.set_minor_locator(ticker.NullLocator())
  ax.set_yticks(range(count), [effect.name for effect in measured])
  ax.invert_yaxis()
  ax.set_xlabel('effect / least effect of interest')
  style.footnote(
    drawn,
    'points: seeds',
    'diamonds and bars: mean and 95 % interval over seeds',
    'shaded: true, but too small to matter',
  )
  return drawn


@matplotlib.rc_context(style.SETTINGS)
def curves(
  runs: Mapping[str, Sequence[Run]], caption: str = ''
) -> figure.Figure:
  """Draws mean curves of each class and layer, over seeds.

  Args:
    runs: of each language, one a seed.
    caption: what there is to see.
  """
  layers = sorted({x.split(':')[0] for r in runs.values() for x in r[0].curves})
  drawn, grid = style.new_figure(len(runs), len(layers), (4.3, 2.7))
  style.caption(drawn, caption)
  present = [
    x for r in runs.values() for run in r for x in run.classes.values()
  ]
  style.name_classes(drawn, present)
  for row, (language, seeds) in enumerate(runs.items()):
    for column, layer in enumerate(layers):
      ax = grid[row, column]
      _mean_curves(ax, seeds, layer)
      ax.set_title(f'{language}, layer {layer}')
      ax.set_ylabel('refined LLC (wrLLC)' if column == 0 else '')
      style.step_axis(
        ax, seeds[0].steps, 'training step' if row == len(runs) - 1 else ''
      )
  style.footnote(
    drawn, 'thin: mean of a class in one seed', 'thick: over seeds'
  )
  return drawn


def _mean_curves(ax: axes.Axes, seeds: Sequence[Run], layer: str) -> None:
  for kind, color in style.CLASSES.items():
    means = []
    for run in seeds:
      own = [
        curve
        for head, curve in run.curves.items()
        if head.split(':')[0] == layer and run.classes[head] == kind
      ]
      if own:
        means.append(np.mean(own, axis=0))
        ax.plot(run.steps, means[-1], color=color, lw=0.6, alpha=0.6)
    if means:
      ax.plot(seeds[0].steps, np.mean(means, axis=0), color=color, lw=2.4)


@matplotlib.rc_context(style.SETTINGS)
def class_map(
  runs: Mapping[str, Sequence[Run]], caption: str = ''
) -> figure.Figure:
  """Draws the class of every head (columns) in every seed (rows)."""
  drawn, grid = style.new_figure(1, len(runs), (4.6, 2.6))
  style.caption(drawn, caption)
  present = [
    x for r in runs.values() for run in r for x in run.classes.values()
  ]
  style.name_classes(drawn, present)
  for (language, seeds), ax in zip(runs.items(), grid[0], strict=True):
    ax.grid(visible=False)
    heads = list(seeds[0].classes)
    for row, run in enumerate(seeds):
      # By class within a layer: the number of a head means nothing.
      ordered = sorted(
        heads, key=lambda x, r=run: (x.split(':')[0], _order(r.classes[x]))
      )
      for column, head in enumerate(ordered):
        color = style.CLASSES[run.classes[head]]
        cell = (column - 0.46, row - 0.44)
        ax.add_patch(
          matplotlib.patches.Rectangle(cell, 0.92, 0.88, color=color)
        )
    last = [x.split(':')[0] for x in heads]
    for column in np.flatnonzero(np.array(last[1:]) != np.array(last[:-1])):
      ax.axvline(column + 0.5, color='black', lw=1)
    ax.set(xlim=(-0.6, len(heads) - 0.4), ylim=(len(seeds) - 0.4, -0.6))
    ax.set_title(language)
    ax.set_xticks([])
    ax.set_yticks(range(len(seeds)), [f'seed {i}' for i in range(len(seeds))])
    ax.set_xlabel('heads of each layer, by class')
  return drawn


def _order(kind: str) -> int:
  return list(style.CLASSES).index(kind)
