"""Figure of tokens in context that heads matter most for, with attention."""

from collections.abc import Mapping

import matplotlib
from matplotlib import colors
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.plots import style

_ROW = 0.21  # Inches.
_CELL = 0.74
_LONGEST = 9  # Characters of a token.


@matplotlib.rc_context(style.SETTINGS)
def affected_tokens(
  examples: xr.Dataset,
  classes: Mapping[str, str] | None = None,
  *,
  ranks: int = 2,
  caption: str = '',
) -> figure.Figure:
  """Draws one line per prediction: its context, shaded by attention.

  Args:
    examples: from `affected_tokens.affected_tokens`, of one checkpoint.
    classes: of heads by name.
    ranks: predictions a head, the most affected first.
    caption: what there is to see.
  """
  classes = classes or {}
  places = examples.sizes['place']
  heads = list(np.ndindex(examples.sizes['layer'], examples.sizes['head']))
  ranks = min(ranks, examples.sizes['rank'])
  count = len(heads) * ranks
  size = _CELL * (places + 2), _ROW * (count + len(heads) + 3)
  drawn = figure.Figure(figsize=size, layout='constrained', dpi=100)
  style.caption(drawn, caption)
  ax = drawn.subplots()
  ax.set(xlim=(-2.2, places + 1), ylim=(count + len(heads) * 0.6 + 0.5, -1.2))
  ax.axis('off')
  ax.text(places - 1, -0.7, 'predicted', ha='center', size=8, color=style.GRAY)
  ax.text(places + 0.1, -0.7, 'nats lost', size=8, color=style.GRAY)
  line = 0.0
  for layer, head in heads:
    cell = examples.isel(layer=layer, head=head)
    name = f'{layer}:{head}'
    kind = classes.get(name, '')
    color = colors.to_rgb(style.CLASSES.get(kind, style.GRAY))
    ax.text(-2.1, line, name, size=9, weight='bold', color=color)
    ax.text(-2.1, line + 0.9, kind, size=7.5, color=color)
    for rank in range(ranks):
      if np.isfinite(cell.affected_effect[rank]):
        _line(ax, cell.isel(rank=rank), line, color)
      line += 1
    line += 0.6
  style.footnote(
    drawn, 'shade: attention from the token before the predicted one'
  )
  return drawn


def _line(ax, cell: xr.Dataset, line: float, color) -> None:
  texts = [str(text) for text in cell.affected_text.values]
  weights = cell.affected_attention.values
  for place, (text, weight) in enumerate(zip(texts, weights, strict=True)):
    is_target = place == len(texts) - 1
    box = {
      'boxstyle': 'square,pad=0.15',
      'facecolor': (*color[:3], 0.0 if is_target else float(weight)),
      'edgecolor': style.GRAY if is_target else 'none',
      'linewidth': 0.6,
    }
    if text:
      # Readable on the shade.
      ink = 'white' if weight > 0.55 and not is_target else 'black'
      ax.text(
        place,
        line,
        _printable(text),
        ha='center',
        va='center',
        size=7.5,
        color=ink,
        family='monospace',
        bbox=box,
      )
  effect = float(cell.affected_effect)
  ax.text(len(texts) - 0.1, line, f'{effect:.2f}', va='center', size=8)


def _printable(text: str) -> str:
  """A token with visible spaces and line ends, cut to fit its cell."""
  shown = text.replace('\n', '⏎').replace('\t', '→').replace(' ', '·')
  shown = ''.join(x if x.isprintable() else '�' for x in shown)
  return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + '…'
