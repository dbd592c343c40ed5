"""Figures of the paper show their data in the right places."""

from matplotlib import figure
from matplotlib import patches
import numpy as np
import xarray as xr

from rllc_jax.plots import affected
from rllc_jax.plots import memory
from rllc_jax.plots import panels
from rllc_jax.plots import sensitivity
from rllc_jax.plots import style

STEPS = [0, 10, 100, 1000]
HEADS = ['1:0', '1:1', '1:2']


def curves():
  return panels.as_curves(np.arange(12.0).reshape(4, 3), STEPS, HEADS)


def texts(drawn):
  return {text.get_text() for text in drawn.findobj(match=_is_text)}


def _is_text(artist):
  return hasattr(artist, 'get_text')


def lines_of(ax):
  """Curves by their last value: those with a point a checkpoint."""
  return {
    float(line.get_ydata()[-1]): line
    for line in ax.lines
    if len(line.get_xdata()) == len(STEPS)
  }


def test_colors_are_those_of_classes_and_faded_curves_have_no_name():
  colors = panels.by_group(HEADS, ['b', 'a', 'b'])
  assert colors['1:0'] == colors['1:2'] != colors['1:1']
  chosen = panels.by_kind(HEADS, {'1:1': 'induction'})
  assert chosen['1:0'] == chosen['1:2'] == panels.FADED
  panel = panels.Panel('title', 'unit', curves(), chosen)
  drawn = panels.curves_over_training([[panel]])
  lines = lines_of(drawn.axes[0])
  assert sorted(lines) == [9, 10, 11]
  assert lines[10].get_color() == chosen['1:1']
  named = texts(drawn)
  assert '1:1' in named and not {'1:0', '1:2'} & named


def test_every_panel_has_its_own_range():
  """A layer of small values would be squashed by that of large ones."""
  colors = panels.by_group(HEADS, HEADS)
  small = panels.as_curves(np.ones((4, 3)), STEPS, HEADS)
  row = [
    panels.Panel('a', 'nats', curves(), colors),
    panels.Panel('b', 'nats', small, colors, line=7.0),
  ]
  drawn = panels.curves_over_training([row, row[:1]], caption='Look here.')
  a, b, below = drawn.axes
  assert a.get_ylim() != b.get_ylim() and b.get_ylim()[1] > 7
  assert below.get_xlabel() == 'training step'
  assert drawn.get_suptitle() == 'Look here.'


def test_curves_with_errors_have_student_s_intervals():
  made = panels.as_curves(np.ones((4, 3)), STEPS, HEADS, np.full((4, 3), 0.1))
  np.testing.assert_allclose(made.high - made.llc, 0.2365, rtol=1e-3)
  np.testing.assert_allclose(made.llc - made.low, 0.2365, rtol=1e-3)
  assert (curves().high == curves().low).all()


def test_classes_are_named_once_in_their_colors():
  drawn = panels.curves_over_training(
    [[panels.Panel('a', 'nats', curves(), panels.by_kind(HEADS, {}))]],
    classes=['induction', 'other', 'induction'],
  )
  (legend,) = drawn.legends
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ['induction', 'other']
  line = legend.get_lines()[0]
  assert line.get_color() == style.CLASSES['induction']


def test_every_other_stage_is_shaded():
  ax = figure.Figure().subplots()
  panels.shade_stages(ax, [20.0, 200.0, 500.0], np.array(STEPS))
  spans = [x for x in ax.patches if isinstance(x, patches.Rectangle)]
  edges = [(x.get_x(), x.get_x() + x.get_width()) for x in spans]
  assert edges == [(20, 200), (500, 1000)]


def scatter(**changes):
  plot = memory.Scatter(
    'At the end',
    np.array([1, 5, 9]),
    'multigrams',
    np.array([2.0, 4.0, 3.0]),
    np.array([0.5, 0.25, 0.0]),
    HEADS,
    panels.by_group(HEADS, HEADS),
  )
  return plot._replace(**changes)


def test_memory_is_drawn_with_its_correlation():
  nothing = np.array([])
  empty = scatter(count=nothing, llc=nothing, reach=nothing, names=[])
  drawn = memory.memory([scatter(), empty], 2)
  bars, points = drawn.axes[0].collections
  np.testing.assert_array_equal(points.get_offsets(), [[1, 2], [5, 4], [9, 3]])
  ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
  assert ends == [[1.5, 2.5], [3.75, 4.25], [3.0, 3.0]]
  assert drawn.axes[0].get_title(loc='left') == 'At the end (ρ = 0.50)'
  assert 'no such head' in texts(drawn)
  panel = panels.Panel(
    'Layer 1', 'rLLC', curves(), panels.by_group(HEADS, [0, 0, 1])
  )
  joint = memory.classes_and_memory([panel, panel], scatter(), ['induction'])
  assert len(joint.axes) == 3 and {'1:0', '1:2'} <= texts(joint)


def test_tokens_are_shown_with_their_effects():
  dims = 'layer', 'head', 'rank', 'place'
  spelled = np.array(['', 'a b', '\n', 'target']).reshape(1, 1, 1, 4)
  examples = xr.Dataset(
    {
      'affected_effect': (dims[:3], np.array([[[1.25]]])),
      'affected_text': (dims, spelled),
      'affected_attention': (
        dims,
        np.array([0, 0.9, 0.1, 0]).reshape(spelled.shape),
      ),
    }
  )
  shown = texts(affected.affected_tokens(examples, {'0:0': 'multigram'}))
  assert {'a·b', '⏎', 'target', '1.25', '0:0', 'multigram'} <= shown


def test_sensitivity_names_the_least_correlation():
  estimate = lambda values: xr.Dataset(
    {
      name: ('refinement', np.array(values) + shift)
      for name, shift in (('llc', 0.0), ('low', -0.1), ('high', 0.1))
    },
    {'refinement': HEADS},
  )
  estimates = {1.0: estimate([1.0, 2.0, 3.0]), 2.0: estimate([2.0, 6.0, 4.0])}
  sweep = sensitivity.Sweep('nbeta', 1.0, estimates)
  classes = dict.fromkeys(HEADS, 'other')
  drawn = sensitivity.sensitivity([sweep], classes)
  (ax,) = drawn.axes
  assert ax.get_title(loc='left') == 'Layer 1: ρ ≥ 0.50'
  assert ax.get_xlabel().startswith('nβ')
  # Values are over those of the run: 2 / 1, 6 / 2 and 4 / 3 at nβ 2.
  ends = [bar.lines[0].get_ydata()[-1] for bar in ax.containers]
  np.testing.assert_allclose(ends, [2, 3, 4 / 3])
  assert style.image(drawn, 'png')


def test_names_of_heads_that_are_close_do_not_cover_each_other():
  """The planted language's heads 1:2 and 1:4, 0:1 and 0:6, as they were."""
  count = np.array([26, 26, 44, 41, 43, 44, 41, 60])
  llc = np.array([9.7, 8.6, 6.7, 6.5, 2.95, 2.98, 2.5, 2.8])
  names = ['0:2', '0:7', '0:1', '0:6', '1:4', '1:2', '1:6', '1:0']
  scatter = memory.Scatter(
    'Heads',
    count,
    'multigrams',
    llc,
    0 * llc,
    names,
    panels.by_group(names, names),
  )
  drawn = memory.memory([scatter], 1)
  drawn.canvas.draw()
  written = [x for x in drawn.findobj(match=_is_text) if x.get_text() in names]
  assert len(written) == len(names)
  boxes = [text.get_window_extent() for text in written]
  for i, box in enumerate(boxes):
    assert not any(box.overlaps(other) for other in boxes[:i]), names[i]
