"""Figure of the agreement of clusters with classes, by method and scaling."""

from collections.abc import Mapping
from collections.abc import Sequence

import matplotlib
from matplotlib import figure
import numpy as np

from rllc_jax.plots import style


@matplotlib.rc_context(style.SETTINGS)
def agreement(
  scores: Mapping[str, np.ndarray],
  methods: Sequence[str],
  normalisations: Sequence[str],
) -> figure.Figure:
  """Draws one table per measure, colored by the adjusted Rand index.

  Args:
    scores: by measure, [methods, normalisations, 2]: adjusted Rand index and
      silhouette; NaN where there are no clusters.
    methods: of clustering.
    normalisations: of curves.
  """
  drawn, grid = style.new_figure(1, len(scores), (3.1, 2.4))
  for (measure, values), ax in zip(scores.items(), grid[0], strict=True):
    ax.grid(visible=False)
    ax.imshow(values[..., 0], cmap='RdBu', vmin=-1, vmax=1, aspect='auto')
    for row, column in np.ndindex(values.shape[:2]):
      index, silhouette = values[row, column]
      text = '–'
      if np.isfinite(index):
        text = f'{index:.2f}\n({silhouette:.2f})'
      ink = 'white' if abs(index) > 0.6 else 'black'
      ax.text(column, row, text, ha='center', va='center', size=8, color=ink)
    ax.set_xticks(range(len(normalisations)), normalisations)
    ax.set_yticks(range(len(methods)), methods)
    ax.set_title(measure)
  for ax in grid[0, 1:]:
    ax.set_yticklabels([])
  style.footnote(
    drawn,
    'adjusted Rand index with the classes of heads, and (silhouette)',
    'mean over layers',
  )
  return drawn
