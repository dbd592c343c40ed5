"""Common style of figures: colors, step axes, labels, image files.

Figures are `matplotlib.figure.Figure` objects without pyplot: no display and
nothing to close. Functions that draw are wrapped in `matplotlib.rc_context`.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import functools
import io
import itertools
import textwrap
from typing import Any, NamedTuple
import unicodedata

import matplotlib
from matplotlib import axes
from matplotlib import colors
from matplotlib import figure
from matplotlib import font_manager
from matplotlib import lines
from matplotlib import text as texts
from matplotlib import ticker
import numpy as np
from numpy.typing import ArrayLike

from rllc_jax import visible

# A family of hues a layer, light to dark: neighbors differ in hue and in
# lightness, so that they also differ in gray and to color-blind readers.
_FAMILIES = (
  ('#5cc8c2', '#1f83c4', '#14255f'),
  ('#f6b042', '#e0561f', '#7b1021'),
  ('#a9c94a', '#3f9142', '#123f22'),
  ('#d69be0', '#8f4fbf', '#3b165f'),
)
GRAY = '#6b7280'
# Colors of classes of heads, of unlike lightness.
CLASSES = {
  'induction': '#c8442b',
  'previous-token': '#1f83c4',
  'current-token': '#14255f',
  'multigram': '#c98a10',
  'other': '#9aa1ab',
}
# Characters: longer texts would leave no room for panels.
_CAPTION_SIZE = 9  # Points.
_LONGEST_NAME = 32  # Beside an axis or a line.
_LONGEST_TITLE = 60  # Within a panel and above it.
_LONGEST_LINE = 240  # Anywhere else.
# Installed families with Chinese, Japanese and Korean letters, which DejaVu
# Sans lacks.
FALLBACKS = tuple(
  family
  for family in (
    'Noto Sans CJK SC',
    'Noto Sans CJK JP',
    'Noto Sans CJK TC',
    'Noto Sans CJK KR',
    'Noto Sans SC',
    'Noto Sans JP',
    'Noto Sans KR',
    'Source Han Sans SC',
    'Source Han Sans',
    'WenQuanYi Micro Hei',
    'WenQuanYi Zen Hei',
    'Droid Sans Fallback',
    'IPAexGothic',
    'IPAGothic',
    'NanumGothic',
    'PingFang SC',
    'Hiragino Sans GB',
    'Hiragino Sans',
    'Apple SD Gothic Neo',
    'Arial Unicode MS',
    'Microsoft YaHei',
    'Yu Gothic',
    'MS Gothic',
    'Malgun Gothic',
    'SimHei',
  )
  if family in font_manager.fontManager.get_font_names()
)
SETTINGS = {
  'font.family': ['DejaVu Sans', *FALLBACKS],
  'font.size': 9,
  'axes.titlesize': 10,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.edgecolor': '#9ca3af',
  'axes.linewidth': 0.8,
  'axes.grid': True,
  'grid.color': '#e5e7eb',
  'grid.linewidth': 0.6,
  'axes.axisbelow': True,
  'xtick.color': '#374151',
  'ytick.color': '#374151',
  'axes.labelcolor': '#111827',
  'lines.solid_capstyle': 'round',
  'legend.frameon': False,
  'svg.fonttype': 'path',  # Text looks alike wherever the file is opened.
  'svg.hashsalt': 'rllc_jax',  # The same figure is the same file.
}


class Label(NamedTuple):
  """A name at the end of a line.

  Attributes:
    text: the words.
    x: where the line ends, in data.
    y: where the line ends, in data.
    color: of the line.
  """

  text: str
  x: float
  y: float
  color: Any


def shades(layer: int, count: int) -> list[tuple[float, float, float, float]]:
  """Colors of the heads of a layer, light to dark; the middle for one head."""
  family = _FAMILIES[layer % len(_FAMILIES)]
  scale = colors.LinearSegmentedColormap.from_list('layer', family)
  return [scale(x) for x in (np.linspace(0, 1, count) if count > 1 else [0.5])]


def new_figure(
  rows: int, columns: int, panel: tuple[float, float], **options: Any
) -> tuple[figure.Figure, np.ndarray]:
  """Makes an empty grid of panels.

  Args:
    rows: of panels.
    columns: of panels.
    panel: width and height of one, in inches.
    **options: for `Figure.subplots`, such as `sharey`.

  Returns:
    The figure and its axes, [rows, columns].
  """
  size = (panel[0] * columns, panel[1] * rows)
  drawn = figure.Figure(figsize=size, layout='constrained', dpi=100)
  return drawn, drawn.subplots(rows, columns, squeeze=False, **options)


def image(drawn: figure.Figure, kind: str) -> bytes:
  """Renders a figure as the bytes of a file, the same for the same figure.

  Text is never parsed as mathematics, and long text is cut to leave room for
  panels. Letters that no font has are spelled out, as in [U+4E2D 6587].

  Args:
    drawn: the figure.
    kind: 'svg', or 'png' at twice the resolution of a screen.
  """
  buffer = io.BytesIO()
  # No dates or versions: the same figure is the same file.
  metadata = {'svg': {'Date': None}, 'png': {'Software': None}}[kind]
  with matplotlib.rc_context(SETTINGS):
    _escape_user_text(drawn)
    drawn.savefig(
      buffer, format=kind, dpi=200, metadata=metadata, bbox_inches='tight'
    )
  drawn.set_layout_engine('none')  # The next image keeps this layout.
  return buffer.getvalue()


def _escape_user_text(drawn: figure.Figure) -> None:
  """Escapes user text; leaves the numbers of ticks alone."""
  numbers = set()
  for axis in (axis for ax in drawn.axes for axis in (ax.xaxis, ax.yaxis)):
    labels, form = axis.get_ticklabels(which='both'), axis.major.formatter
    # Formats of callers may contain names; matplotlib's own are numbers.
    if isinstance(form, ticker.FuncFormatter):
      form.func = lambda x, place, plain=form.func: _escape(
        plain(x, place), _LONGEST_NAME, font_manager.FontProperties()
      )
      labels = axis.get_ticklabels(minor=True)
    numbers |= {axis.offsetText, *labels}
  within = {x for ax in drawn.axes for x in ax.get_children()}
  for words in set(drawn.findobj(texts.Text)) - numbers:
    most = _LONGEST_TITLE if words in within else _LONGEST_LINE
    words.set_fontfamily([*words.get_fontfamily(), *FALLBACKS])
    words.set_text(_escape(words.get_text(), most, words.get_fontproperties()))
    words.set_parse_math(False)


def _escape(words: str, most: int, font: font_manager.FontProperties) -> str:
  """Makes every character visible, and cuts lines to a length."""
  lines = (_drawable(visible.text(line), font) for line in words.split('\n'))
  cut = lambda line: line if len(line) <= most else f'{line[: most - 1]}…'
  return '\n'.join(map(cut, lines))


def _drawable(line: str, font: font_manager.FontProperties) -> str:
  """Spells out letters of a line that no font has."""
  letters = _letters_of(font)
  has = lambda cluster: any(
    font_letters.issuperset(cluster) for font_letters in letters
  )
  runs = itertools.groupby(_clusters(line), has)
  return ''.join(
    ''.join(run) if is_drawable else f'[{_code_points("".join(run))}]'
    for is_drawable, run in runs
  )


def _clusters(line: str) -> list[str]:
  """Splits a line into letters with their marks; one font must have both."""
  clusters: list[str] = []
  for letter in line:
    if clusters and unicodedata.category(letter).startswith('M'):
      clusters[-1] += letter
    else:
      clusters.append(letter)
  return clusters


def _code_points(letters: str) -> str:
  return 'U+' + ' '.join(f'{ord(letter):04X}' for letter in letters)


def _letters_of(font: font_manager.FontProperties) -> list[frozenset[str]]:
  """The letters of a font, and of each fallback."""
  letters = []
  for family in font.get_family():
    single = font.copy()
    single.set_family(family)
    letters.append(_read_letters(font_manager.findfont(single)))
  return letters


@functools.lru_cache(maxsize=64)  # Fonts of 60,000 letters are slow to read.
def _read_letters(path: str) -> frozenset[str]:
  return frozenset(map(chr, font_manager.get_font(path).get_charmap()))


def step_axis(ax: axes.Axes, steps: ArrayLike, label: str) -> None:
  """Makes x logarithmic in the step, with a place for step 0 if present.

  Step 0 stands left of the first positive step, behind a mark in the axis.

  Args:
    ax: the panel.
    steps: those that are drawn, in any order.
    label: of the axis; '' leaves it out.
  """
  ax.set_xlabel(label)
  unique = np.unique(np.asarray(steps))
  positive = unique[unique > 0]
  if not len(positive):
    ax.set_xticks(unique)
    return
  first, last = float(positive[0]), float(positive[-1])
  # Room on the right even for a single step.
  ratio = max(last / first, 1.5)
  if unique[0] == 0:
    ax.set_xscale('symlog', linthresh=first, linscale=0.5)
    # The limit lies in the linear part of the scale, a little left of 0.
    ax.set_xlim(-0.2 * first, last * ratio**0.03)
    _mark_gap(ax, first / 2)
  else:
    ax.set_xscale('log')
    ax.set_xlim(first / ratio**0.04, last * ratio**0.03)
  ticks, small = _step_ticks(positive.astype(float))
  zero = [0.0] if unique[0] == 0 else []
  ax.xaxis.set_major_locator(ticker.FixedLocator(zero + ticks))
  ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:,.0f}'))
  ax.xaxis.set_minor_locator(ticker.FixedLocator(small))
  ax.xaxis.set_minor_formatter(ticker.NullFormatter())


def _mark_gap(ax, x):
  """Draws two strokes across the axis where the scale jumps to 0."""
  for shift in (-1.5, 1.5):
    ax.annotate(
      '/',
      (x, 0),
      (shift, 0),
      xycoords=('data', 'axes fraction'),
      textcoords='offset points',
      ha='center',
      va='center',
      fontsize=8,
      color=GRAY,
    )


def _step_ticks(steps: np.ndarray) -> tuple[list[float], list[float]]:
  """Labelled and unlabelled ticks: the steps if few, else round numbers."""
  first, last = steps[0], steps[-1]
  gaps = steps[1:] / steps[:-1]
  if len(steps) <= 4 and (gaps > (last / first) ** 0.1).all():
    return steps.tolist(), []
  decades = range(int(np.floor(np.log10(first))), int(np.log10(last)) + 1)
  inside = lambda digits: [
    digit * 10.0**power
    for power in decades
    for digit in digits
    if first <= digit * 10.0**power <= last
  ]
  few = (1,) if last / first >= 100 else (1, 2, 5)
  labelled = inside(few) or [first]
  return labelled, [x for x in inside(range(1, 10)) if x not in labelled]


def spread_apart(
  positions: Sequence[float], gap: float, low: float, high: float
) -> np.ndarray:
  """Moves positions as little as needed to be a gap apart and within bounds.

  Least squares: subtract the gaps, pool neighbors that are out of order,
  clip, add the gaps back. Where they do not fit, the gap is what fits.

  Args:
    positions: [n], in any order; the order is kept.
    gap: least distance between neighbors.
    low: the lowest place.
    high: the highest place.

  Returns:
    [n], in the order of `positions`.

  Examples:
    >>> print(spread_apart([5.0, 5.0, 9.0], 2.0, 0.0, 10.0))
    [4. 6. 9.]
  """
  targets = np.asarray(positions, float)
  if not len(targets):
    return targets
  gap = min(gap, (high - low) / max(len(targets) - 1, 1))
  order = np.argsort(targets, kind='stable')
  shifts = gap * np.arange(len(targets))
  pools: list[list[float]] = []  # Sum and size of each.
  for value in targets[order] - shifts:
    pools.append([value, 1])
    while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
      total, size = pools.pop()
      pools[-1] = [pools[-1][0] + total, pools[-1][1] + size]
  pooled = np.repeat([_mean(p) for p in pools], [int(p[1]) for p in pools])
  placed = np.empty_like(targets)
  placed[order] = np.clip(pooled, low, high - shifts[-1]) + shifts
  return placed


def _mean(pool):
  return pool[0] / pool[1]


def label_ends(ax: axes.Axes, labels: Sequence[Label]) -> None:
  """Writes names right of a panel, each connected to the end of its line.

  The limits of y are frozen, because the places depend on them.

  Args:
    ax: the panel, with everything drawn.
    labels: the names.
  """
  limits = ax.get_ylim()
  ax.set_ylim(limits)
  height = ax.get_window_extent().height / ax.figure.dpi  # Inches.
  # Smaller letters where many names share a panel.
  size = min(8.0, 72 * height / max(1.25 * len(labels), 1))
  to_axes = ax.transData + ax.transAxes.inverted()
  ends = [to_axes.transform((label.x, label.y)) for label in labels]
  places = spread_apart(
    [end[1] for end in ends], 1.25 * size / (72 * height), 0.01, 0.99
  )
  for label, place in zip(labels, places, strict=True):
    ax.annotate(
      _escape(label.text, _LONGEST_NAME, font_manager.FontProperties()),
      (label.x, label.y),
      (1.03, place),
      textcoords='axes fraction',
      va='center',
      fontsize=size,
      color=label.color,
      annotation_clip=False,
      arrowprops={
        'arrowstyle': '-',
        'color': label.color,
        'linewidth': 0.6,
        'alpha': 0.6,
        'shrinkA': 1,
        'shrinkB': 3,
        'relpos': (0, 0.5),
      },
    )


def write_middle(ax: axes.Axes, text: str) -> None:
  """Writes in a panel why it is empty, and removes its meaningless ticks."""
  ax.text(0.5, 0.6, text, transform=ax.transAxes, ha='center', color=GRAY)
  ax.tick_params(axis='y', labelleft=False)


def footnote(drawn: figure.Figure, *parts: str) -> None:
  """Writes notes in small print below the panels."""
  text = ' · '.join(part for part in parts if part)
  drawn.supxlabel(text, fontsize=7.5, color=GRAY, x=0.01, ha='left')


def caption(drawn: figure.Figure, words: str) -> None:
  """Writes above all panels what there is to see."""
  # A letter is up to 0.62 of its height on average.
  letters = 72 * drawn.get_figwidth() / (0.62 * _CAPTION_SIZE)
  lines = textwrap.wrap(words, int(letters))
  drawn.suptitle(
    '\n'.join(lines), x=0.01, ha='left', fontsize=_CAPTION_SIZE, color='#111827'
  )


def name_classes(drawn: figure.Figure, classes: Iterable[str]) -> None:
  """Writes the colors of the classes that occur below all panels."""
  present = [kind for kind in CLASSES if kind in set(classes)]
  handles = [
    lines.Line2D([], [], color=CLASSES[kind], lw=2, label=kind)
    for kind in present
  ]
  drawn.legend(
    handles=handles, loc='outside lower right', ncols=len(handles), fontsize=8
  )


def settings_text(attributes: Mapping[str, Any]) -> str:
  """The settings that an estimate depends on, for a footnote.

  Examples:
    >>> print(settings_text({'nbeta': 30.0, 'localization': 200.0,
    ...                      'step_size': 1e-3}))
    nβ = 30, γ = 200, ε = 0.001
  """
  symbols = {'nbeta': 'nβ', 'localization': 'γ', 'step_size': 'ε'}
  return ', '.join(
    f'{symbol} = {float(attributes[name]):.6g}'
    for name, symbol in symbols.items()
    if name in attributes
  )
