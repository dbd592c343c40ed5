"""Figure of estimates over exact values, and of λ over exact values.

Drawn from the JSON files of `experiments.known_answers` alone.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np

from rllc_jax.plots import style

_NARROWEST = 0.03  # Half-width of the ratio's axis, at least.


@matplotlib.rc_context(style.SETTINGS)
def ratios(records: Sequence[Mapping[str, Any]]) -> figure.Figure:
  """Draws estimate / exact with 95 % intervals; λ / exact to their right.

  Filled points have all coordinates free, hollow ones some of them frozen.
  Problems without an exact value are counted and not drawn.

  Args:
    records: objects with problem ('name · settings'), family, restricted,
      learning_coefficient, exact, llc, low, high.
  """
  with_exact = [record for record in records if record['exact'] is not None]
  families = list(dict.fromkeys(record['family'] for record in with_exact))
  places, titles = _places([record['family'] for record in with_exact])
  drawn = figure.Figure(
    figsize=(9.4, 1.1 + 0.2 * (places[-1] + 1)), layout='constrained', dpi=100
  )
  left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(2.2, 1))
  for record, place in zip(with_exact, places, strict=True):
    color = _color(families.index(record['family']))
    _interval(left, record, place, color)
    ratio = record['learning_coefficient'] / record['exact']
    right.plot(ratio, place, 'D', ms=4, color=color, mew=0)
  for family, place in titles.items():
    color = _color(families.index(family))
    _title(left, family, place, color)
  _ratio_axis(left, with_exact)
  _coefficient_axis(right)
  _rows(left, right, with_exact, places)
  hidden = len(records) - len(with_exact)
  style.footnote(
    drawn,
    'bars: 95 % intervals',
    'hollow: some coordinates frozen',
    f'{hidden} without an exact value not drawn' if hidden else '',
  )
  return drawn


@matplotlib.rc_context(style.SETTINGS)
def approach(curves: Sequence[Mapping[str, Any]]) -> figure.Figure:
  """Draws exact values as a share of λ against n beta.

  Args:
    curves: objects with problem, learning_coefficient, multiplicity,
      localization, nbeta [n], exact [n].
  """
  drawn, panels = style.new_figure(1, 1, (6.4, 3.6))
  ax, labels = panels[0, 0], []
  for i, curve in enumerate(curves):
    color = _color(i)
    share = np.array(curve['exact']) / curve['learning_coefficient']
    ax.plot(curve['nbeta'], share, color=color, lw=1.6, marker='o', ms=3.5)
    name = (
      f'{curve["problem"]}: λ = {curve["learning_coefficient"]:g}, '
      f'm = {curve["multiplicity"]}'
    )
    labels.append(style.Label(name, curve['nbeta'][-1], share[-1], color))
  ax.axhline(1, color=style.GRAY, lw=0.9, ls='--')
  ax.set_xscale('log')
  ax.set_ylim(0, 1.08)
  ax.set_xlabel('nβ')
  ax.set_ylabel('exact value / λ')
  style.label_ends(ax, labels)
  localization = curves[0]['localization']
  style.footnote(
    drawn, f'without any sampler: quadrature at γ = {localization:g}'
  )
  return drawn


def _color(number: int):
  """The colors of the first four layers, then gray."""
  return style.shades(number, 1)[0] if number < 4 else '#374151'


def _places(families: Sequence[str]) -> tuple[list[int], dict[str, int]]:
  """Assigns rows to problems, and to titles above each family."""
  places, titles, row = [], {}, 0
  for family in families:
    if family not in titles:
      titles[family] = row
      row += 1
    places.append(row)
    row += 1
  return places, titles


def _interval(ax: axes.Axes, record, place, color) -> None:
  low, middle, high = (record[key] / record['exact'] for key in _ENDS)
  ax.plot([low, high], [place, place], color=color, lw=1.6)
  face = 'white' if record['restricted'] else color
  ax.plot(middle, place, 'o', ms=5, mfc=face, mec=color, mew=1.3)


_ENDS = ('low', 'llc', 'high')


def _title(ax: axes.Axes, family: str, place: int, color) -> None:
  ax.annotate(
    family,
    (0, place),
    (-6, 0),
    xycoords=('axes fraction', 'data'),
    textcoords='offset points',
    ha='right',
    va='center',
    weight='bold',
    color=color,
  )


def _ratio_axis(ax: axes.Axes, records) -> None:
  ends = [record[key] / record['exact'] for record in records for key in _ENDS]
  # Symmetric about 1, so that a bias shows at a glance.
  reach = max(_NARROWEST, 1.1 * np.abs(np.array(ends) - 1).max())
  ax.set_xlim(1 - reach, 1 + reach)
  ax.axvline(1, color='#111827', lw=0.9, zorder=1)
  ax.set_xlabel('estimate / exact value')


def _coefficient_axis(ax: axes.Axes) -> None:
  ax.set_xscale('log')
  ax.axvline(1, color='#111827', lw=0.9, zorder=1)
  ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:g}'))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())
  ax.set_xlabel('λ / exact value')


def _rows(left: axes.Axes, right: axes.Axes, records, places) -> None:
  """Writes names on the left, settings on the right."""
  names, settings = zip(
    *(record['problem'].split(' · ') for record in records), strict=True
  )
  left.set_ylim(places[-1] + 0.7, -0.7)
  left.set_yticks(places, names)
  left.tick_params(axis='y', length=0)
  right.tick_params(axis='y', length=0, labelleft=False)
  for place, words in zip(places, settings, strict=True):
    right.annotate(
      words,
      (1, place),
      (6, 0),
      xycoords=('axes fraction', 'data'),
      textcoords='offset points',
      va='center',
      fontsize=7.5,
      color=style.GRAY,
    )
