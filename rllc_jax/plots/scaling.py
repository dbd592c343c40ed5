"""Figure of time against work, one panel per knob, with residuals."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

import matplotlib
from matplotlib import axes
from matplotlib import figure
from matplotlib import ticker
import numpy as np

from rllc_jax.plots import style

Record = Mapping[str, Any]

_COLUMNS = 4
_INK = '#111827'


@matplotlib.rc_context(style.SETTINGS)
def scaling(records: Sequence[Record]) -> figure.Figure:
  """Draws the times of every knob, a line through them, and residuals.

  Where the law is affine in the knob, axes are linear and the shade is the
  fixed part. Where it counts multiply-adds, these are the axis, both axes are
  logarithmic and the knob's value stands at each dot; layers share a panel. The
  last panel has all residuals, on the tolerance of each knob.

  Args:
    records: entries of `scaling.json`, with 'knob', 'law', 'values', 'work',
      'seconds', 'rounds', 'fixed', 'per_work', 'residuals' and 'tolerance'; a
      knob may end in ', layer 0'.
  """
  knobs: dict[str, list[Record]] = {}
  for record in records:
    knobs.setdefault(record['knob'].split(', ')[0], []).append(record)
  num_rows = math.ceil((len(knobs) + 1) / _COLUMNS)
  drawn, panels = style.new_figure(num_rows, _COLUMNS, (2.7, 2.4))
  places = iter(panels.flat)
  for knob, records_of_knob in knobs.items():
    ax = next(places)
    ax.set_title(knob)
    (_affine if records_of_knob[0]['law'] == 'affine' else _multiply_adds)(
      ax, records_of_knob
    )
  _residuals(next(places), records)
  for ax in places:
    ax.set_visible(False)
  for ax in panels[:, 0]:
    ax.set_ylabel('seconds of a run')
  style.footnote(
    drawn,
    'dots: least of the rounds, which stand above them faintly',
    'line: fixed part, and so much a unit of work',
    'shade: fixed part',
  )
  return drawn


def _affine(ax: axes.Axes, records: Sequence[Record]) -> None:
  (record,) = records
  color, last = _color(record), record['work'][-1]
  ax.fill_between([0, last], 0, record['fixed'], color=color, alpha=0.12, lw=0)
  _times(ax, record, np.array([0, last]))
  ax.set_xlabel('sequences' if record['knob'] == 'batch' else 'number')
  ax.set_xlim(0, 1.06 * last)
  # A disturbed round may lie far above; it may be cut off.
  ax.set_ylim(0, 1.25 * max(record['seconds']))
  ax.xaxis.set_major_locator(ticker.FixedLocator(record['values']))


def _multiply_adds(ax: axes.Axes, records: Sequence[Record]) -> None:
  for i, record in enumerate(records):
    _times(ax, record, np.geomspace(record['work'][0], record['work'][-1]))
    _values(ax, record, above=i > 0)
  ax.set_xlabel('multiply-adds of a run')
  ax.set_xscale('log')
  ax.set_yscale('log')
  seconds = [time for record in records for time in record['seconds']]
  ax.set_ylim(min(seconds) / 1.6, 1.8 * max(seconds))
  ax.margins(x=0.2)
  plain = ticker.FuncFormatter(lambda y, _: f'{y:g}')
  ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
  ax.yaxis.set_major_formatter(plain)
  for axis in (ax.xaxis, ax.yaxis):
    axis.set_minor_formatter(ticker.NullFormatter())
  if len(records) > 1:
    ax.legend(loc='upper left', fontsize=7.5, handlelength=1.2)


def _times(ax: axes.Axes, record: Record, along: np.ndarray) -> None:
  """Draws all rounds, their minima, and the line over `along`."""
  color = _color(record)
  for place, rounds in zip(record['work'], record['rounds'], strict=True):
    many = [place] * len(rounds)
    ax.plot(many, rounds, 'o', ms=3, color=color, alpha=0.25, mew=0)
  line = record['fixed'] + record['per_work'] * along
  ax.plot(along, line, color=color, lw=1.4, label=_layer(record))
  dots = {'ms': 5, 'color': color, 'mec': 'white', 'mew': 0.8}
  ax.plot(record['work'], record['seconds'], 'o', **dots)


def _values(ax: axes.Axes, record: Record, *, above: bool) -> None:
  """Writes the knob's value at each dot, away from the other line."""
  keys = ('work', 'seconds', 'values')
  for x, y, value in zip(*(record[key] for key in keys), strict=True):
    ax.annotate(
      f'{value:,}',
      (x, y),
      (-4, 3) if above else (4, -3),
      textcoords='offset points',
      ha='right' if above else 'left',
      va='bottom' if above else 'top',
      fontsize=7,
      color=_color(record),
    )


def _residuals(ax: axes.Axes, records: Sequence[Record]) -> None:
  """Draws residuals in percent, one row per knob and layer."""
  for i, record in enumerate(records):
    reach = record['tolerance']
    band = {'color': '#e5e7eb', 'lw': 7, 'solid_capstyle': 'butt'}
    ax.plot([-reach, reach], [i, i], **band)
    ax.plot(
      record['residuals'],
      [i] * len(record['residuals']),
      'o',
      ms=4,
      color=_color(record),
      mec='white',
      mew=0.6,
      zorder=3,
    )
  ax.axvline(0, color=_INK, lw=0.8, zorder=2)
  ax.set_ylim(len(records) - 0.5, -0.5)
  ax.set_yticks(
    range(len(records)),
    [record['knob'].replace('context ', '') for record in records],
    fontsize=7.5,
  )
  ax.tick_params(axis='y', length=0)
  ax.grid(False)
  ax.set_title('off the line')
  ax.set_xlabel('% of it; gray: allowed')


def _layer(record: Record) -> str:
  return record['knob'].split(', ')[-1]


def _color(record: Record):
  """The color of the record's layer; that of layer 0 without one."""
  word = _layer(record)
  return style.shades(int(word.split()[-1]) if 'layer' in word else 0, 1)[0]
