"""Figure of the agreement of clusters with classes, by method and scaling."""

from collections.abc import Mapping
from collections.abc import Sequence

import matplotlib
from matplotlib import figure
import numpy as np

from rllc_jax.plots import style

_COLORS = ('#1f83c4', '#c8442b', '#3f9142', '#8f4fbf', '#b8860b')


@matplotlib.rc_context(style.SETTINGS)
def agreement(
  scores: Mapping[str, np.ndarray],
  methods: Sequence[str],
  normalisations: Sequence[str],
  chance: float,
  caption: str = '',
) -> figure.Figure:
  """Draws a point a measure and variant, beside what chance would give.

  Args:
    scores: by measure, [methods, normalisations]: adjusted Rand index, NaN
      where there are no clusters.
    methods: of clustering.
    normalisations: of curves.
    chance: the 95 % quantile of the index under permuted classes.
    caption: what there is to see.
  """
  count = len(methods) * len(normalisations)
  drawn, grid = style.new_figure(1, 1, (6.4, 0.8 + 0.28 * count))
  style.caption(drawn, caption)
  ax = grid[0, 0]
  ax.axvspan(-chance, chance, color='#eef1f6', lw=0, zorder=0)
  ax.axvline(0, color=style.GRAY, lw=0.8, zorder=1)
  height = 0.6 / max(len(scores) - 1, 1)
  for number, (measure, values) in enumerate(scores.items()):
    rows = np.arange(count) + height * number - 0.3
    color = _COLORS[number % len(_COLORS)]
    ax.scatter(values.ravel(), rows, color=color, s=24, label=measure, zorder=3)
  variants = [f'{m}, {n}' for m in methods for n in normalisations]
  ax.set_yticks(range(count), variants)
  ax.invert_yaxis()
  ax.set_xlabel('adjusted Rand index with the classes of heads')
  drawn.legend(loc='outside right center', fontsize=8)
  style.footnote(
    drawn,
    'shaded: 95 % of permuted classes',
    'mean over layers with two classes or more',
  )
  return drawn
