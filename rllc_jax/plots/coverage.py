"""Figure of the coverage of intervals, and of single intervals."""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
from typing import Any

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np

from rllc_jax.plots import style

Record = Mapping[str, Any]

_NOMINAL, _BAND = 95, (92, 98)  # Percent.
_OURS, _NAIVE = '#1f83c4', '#e0561f'
_HIT, _MISS = '#9fb3c4', '#b5121b'
# By the names in records: label, marker, color, shift within its row.
_METHODS = {
  'ours': ('ours: batch means of the mean over chains', 'o', _OURS, -0.16),
  'naive': ('naive: spread between the chains', 'D', _NAIVE, 0.16),
}
_EXAMPLES = (('ours', 'paired'), ('ours', 'corpus'), ('naive', 'corpus'))
_NUM_SHOWN = 60


@matplotlib.rc_context(style.SETTINGS)
def coverage(records: Sequence[Record]) -> figure.Figure:
  """Draws the coverage of every record, and intervals of the last problem.

  Left, one row per problem, baseline and number of draws: the share of runs
  whose 95 % interval holds the true value, with its own binomial interval.
  Right, the intervals of the first 60 runs of the last problem at its most
  draws, sorted by their middle; those that miss stand out. The two panels of
  the corpus baseline have one scale, the paired one has its own.

  Args:
    records: entries of `coverage.json`, see `experiments.coverage.measure`.
  """
  groups = [
    (name, list(group))
    for name, group in itertools.groupby(records, lambda x: x['problem'])
  ]
  count = len(records) + len(groups)
  drawn, panels = style.new_figure(
    1, 4, (3.5, 1.2 + 0.25 * count), width_ratios=(2.3, 1, 1, 1)
  )
  _shares(panels[0, 0], groups)
  name, last = groups[-1]
  most = max(record['num_draws'] for record in last)
  by_baseline = {x['baseline']: x for x in last if x['num_draws'] == most}
  for ax, (method, baseline) in zip(panels[0, 1:], _EXAMPLES, strict=True):
    _intervals(ax, by_baseline[baseline], method)
  # One scale for both, so that their widths compare.
  limits = np.array([ax.get_xlim() for ax in panels[0, 2:]])
  for ax in panels[0, 2:]:
    ax.set_xlim(limits[:, 0].min(), limits[:, 1].max())
  shown = min(_NUM_SHOWN, len(last[0]['ours']['llc']))
  panels[0, 1].set_ylabel(f'{shown} runs, sorted')
  style.footnote(
    drawn,
    'left: bars are 95 % binomial intervals, shaded 92 to 98 %',
    f'right: {name}, {most:,} draws of each chain; black: the true value',
  )
  return drawn


def _shares(ax: axes.Axes, groups: Sequence[tuple[str, list[Record]]]) -> None:
  ax.axvspan(*_BAND, color='#e8f1f8', lw=0, zorder=0)
  ax.axvline(_NOMINAL, color=style.GRAY, lw=1, zorder=1)
  ticks, labels, row = [], [], 0
  for name, records in groups:
    ax.text(
      0.01,
      row,
      name,
      transform=ax.get_yaxis_transform(),
      va='center',
      weight='bold',
    )
    for record in records:
      row += 1
      ticks.append(row)
      labels.append(f'{record["baseline"]}, {record["num_draws"]:,} draws')
      for method, (_, marker, color, shift) in _METHODS.items():
        _share(ax, record[method], row + shift, marker, color)
    row += 1
  ax.set_yticks(ticks, labels)
  ax.set_ylim(row - 0.4, -0.6)
  ax.set_xlim(right=100.5)
  ax.set_xlabel('runs whose 95 % interval holds the true value (%)')
  num_runs = len(groups[0][1][0]['ours']['llc'])
  ax.set_title(f'Coverage over {num_runs} runs')
  for label, marker, color, _ in _METHODS.values():
    ax.plot([], [], marker, color=color, ms=5, label=label)
  # Where there is no data the two agree: that corner is empty.
  ax.legend(loc='upper left', bbox_to_anchor=(0.2, 0.97))


def _share(ax, method, row, marker, color) -> None:
  low, middle, high = (
    100 * method[name] for name in ('coverage_low', 'coverage', 'coverage_high')
  )
  ax.plot([low, high], [row, row], color=color, lw=1.4, zorder=3)
  ax.plot([middle], [row], marker, color=color, ms=5, mew=0, zorder=4)


def _intervals(ax: axes.Axes, record: Record, method: str) -> None:
  llc, low, high = (
    np.array(record[method][name][:_NUM_SHOWN])
    for name in ('llc', 'low', 'high')
  )
  order = np.argsort(llc, kind='stable')
  expected, error = record['expected'], record['expected_error']
  ax.axvspan(expected - 2 * error, expected + 2 * error, color='#d1d5db', lw=0)
  ax.axvline(expected, color='#111827', lw=1, zorder=2)
  for row, i in enumerate(order):
    hit = low[i] <= expected <= high[i]
    color, width = (_HIT, 1.3) if hit else (_MISS, 2.0)
    ax.plot([low[i], high[i]], [row, row], color=color, lw=width, zorder=3)
    ax.plot([llc[i]], [row], 'o', color=color, ms=2.5, mew=0, zorder=4)
  ax.set_yticks([])
  ax.set_ylim(-1.5, 1.09 * len(llc))  # Room for the words above.
  ax.set_xlabel('refined LLC')
  misses = int(((low > expected) | (high < expected)).sum())
  half_width = record[method]['half_width']
  ax.set_title(f'{method}, {record["baseline"]}', color=_METHODS[method][2])
  ax.text(
    0.02,
    0.99,
    f'± {half_width:.2g} on average\n{misses} of {len(llc)} miss',
    transform=ax.transAxes,
    va='top',
    fontsize=8,
  )
