"""Contents of figures, read back from their artists."""

from fontTools import fontBuilder
from fontTools.pens import ttGlyphPen
from matplotlib import font_manager
from matplotlib import text as text_artist
import numpy as np
import pytest
import xarray as xr

from rllc_jax.plots import heads
from rllc_jax.plots import spread
from rllc_jax.plots import style
from rllc_jax.plots import traces
from rllc_jax.plots import training

DIMS = ('checkpoint', 'dataset', 'refinement')
STEPS = (0, 1, 10, 100)
HEADS = ('0:0', '0:1', '1:0', '1:1')


def estimates(steps=STEPS, datasets=('text',), names=HEADS):
  """Estimate k + 10 r at the k-th checkpoint of the r-th refinement."""
  shape = (len(steps), len(datasets), len(names))
  llc = np.zeros(shape) + np.arange(shape[0])[:, None, None]
  llc += 10 * np.arange(shape[2])
  failed = np.zeros((*shape, 3), bool)
  values = {'llc': llc, 'low': llc - 1, 'high': llc + 1}
  values['num_failed'] = failed.sum(axis=-1)
  return xr.Dataset(
    {name: (DIMS, x) for name, x in values.items()}
    | {'failed': ((*DIMS, 'chain'), failed)},
    dict(zip(DIMS, (list(steps), list(datasets), list(names)), strict=True)),
    {'nbeta': 30.0, 'localization': 200.0, 'step_size': 1e-3},
  )


def lines(ax):
  """The curves of a panel, by color: (x, y)."""
  return [line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 2]


def words(ax):
  return [text.get_text() for text in ax.texts]


def test_every_head_is_drawn_and_named_in_the_panel_of_its_layer():
  dataset = estimates()
  drawn = heads.llc_curves(dataset)
  titles = [ax.get_title('left') for ax in drawn.axes]
  assert titles == ['Layer 0', 'Layer 1']
  for layer, ax in enumerate(drawn.axes):
    for head, line in enumerate(lines(ax)):
      name = f'{layer}:{head}'
      np.testing.assert_array_equal(line[:, 0], STEPS)
      np.testing.assert_array_equal(
        line[:, 1], dataset.llc.sel(refinement=name, dataset='text')
      )
      assert name in words(ax)


def test_checkpoints_are_drawn_in_order_however_they_are_stored():
  shuffled = estimates().isel(checkpoint=[2, 0, 3, 1])
  for ax in heads.llc_curves(shuffled).axes:
    for line in lines(ax):
      np.testing.assert_array_equal(line[:, 0], STEPS)


def test_heads_share_an_axis_and_other_refinements_have_their_own():
  dataset = estimates(names=(*HEADS, 'all'))
  dataset['llc'][..., -1] = 1e4
  first, second, third = heads.llc_curves(dataset).axes
  assert first.get_ylim() == second.get_ylim()
  assert second.get_ylim()[1] < 100 < 5_000 < third.get_ylim()[1]


def test_bands_are_the_intervals():
  dataset = estimates(names=('0:0',))
  (band,) = heads.llc_curves(dataset).axes[0].collections[:1]
  corners = {tuple(point) for point in band.get_paths()[0].vertices}
  for side in ('low', 'high'):
    values = dataset[side].values[:, 0, 0]
    assert set(zip(STEPS, values, strict=True)) <= corners


def test_several_data_sets_are_small_multiples():
  drawn = heads.llc_curves(estimates(datasets=('text', 'code')))
  titles = [ax.get_title('left') for ax in drawn.axes]
  assert titles[1:3] == ['Layer 1 · text', 'Layer 0 · code']


def test_step_0_has_a_place_and_its_own_tick():
  ax = heads.llc_curves(estimates(steps=(0, 1, 10, 100, 1000, 5000))).axes[0]
  shown = [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick]
  assert shown == [0, 1, 10, 100, 1000]
  ax.figure.draw_without_rendering()
  labels = [label.get_text() for label in ax.get_xticklabels()]
  assert labels == ['0', '1', '10', '100', '1,000']
  places = ax.transData.transform([(x, 0) for x in (0, 1, 10, 100)])[:, 0]
  gaps = np.diff(places)
  assert (gaps > 5).all()
  np.testing.assert_allclose(gaps[1], gaps[2])  # Logarithmic from there on.


def test_a_run_without_step_0_is_logarithmic_throughout():
  ax = heads.llc_curves(estimates(steps=(10, 20, 40))).axes[0]
  assert ax.get_xscale() == 'log'
  assert list(ax.get_xticks()) == [10, 20, 40]


def test_missing_estimates_break_lines_and_are_counted():
  dataset = estimates()
  dataset['llc'][1, 0, 0] = np.nan
  drawn = heads.llc_curves(dataset)
  assert np.isnan(lines(drawn.axes[0])[0][1, 1])
  assert '1 of 16 cells without an estimate' in footnote_of(drawn)


def test_failed_chains_are_marked_and_explained():
  dataset = estimates()
  dataset['num_failed'][1, 0, 0] = 1  # Of three: an estimate is left.
  dataset['num_failed'][2, 0, 0] = 3
  dataset['llc'][2, 0, 0] = np.nan
  drawn = heads.llc_curves(dataset)
  hollow = [
    points
    for points in drawn.axes[0].collections
    if len(points.get_offsets()) == 1
    and np.array_equal(points.get_facecolor(), [[1, 1, 1, 1]])
  ]
  assert [tuple(p.get_offsets()[0]) for p in hollow] == [(1, 1)]
  crosses = [
    tuple(points.get_offsets()[0])
    for points in drawn.axes[0].collections
    if len(points.get_offsets()) == 1 and points.get_offsets()[0, 0] == 10
  ]
  assert crosses == [(10, 0.03)]
  assert 'hollow' in footnote_of(drawn)
  assert 'hollow' not in footnote_of(heads.llc_curves(estimates()))


def footnote_of(drawn):
  return drawn.get_supxlabel()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
  'dataset',
  [
    estimates(names=('0:0',)),
    estimates(steps=(0,)),
    estimates(steps=(500,)),
    estimates(names=('all',)),
    estimates().assign(llc=lambda dataset: dataset.llc - 100),
    estimates().assign(llc=lambda dataset: dataset.llc * np.nan),
    estimates(names=[f'{i}:{j}' for i in range(2) for j in range(8)]),
    estimates(steps=range(110)),
  ],
  ids=['head', 'start', 'step', 'all', 'negative', 'nan', '16', '110'],
)
def test_any_shape_of_results_becomes_a_file(dataset):
  drawn = heads.llc_curves(dataset)
  assert style.image(drawn, 'svg').startswith(b'<?xml')
  for ax in drawn.axes:
    assert ax.get_xlabel() == 'training step'
  assert 'LLC' in drawn.axes[0].get_ylabel()


def test_the_same_figure_is_the_same_file():
  dataset = estimates(names=HEADS[:2])
  first, again = (
    style.image(heads.llc_curves(dataset), kind) for kind in ('png', 'png')
  )
  assert first == again and first.startswith(b'\x89PNG')


def test_end_labels_do_not_overlap():
  dataset = estimates(names=[f'0:{i}' for i in range(8)])
  dataset['llc'][...] = 5.0  # All lines end in one point.
  drawn = heads.llc_curves(dataset)
  drawn.draw_without_rendering()
  # Without the line that leads to each.
  extent = text_artist.Text.get_window_extent
  boxes = [extent(text) for text in drawn.axes[0].texts[2:]]
  boxes.sort(key=lambda box: box.y0)
  assert len(boxes) == 8
  for below, above in zip(boxes, boxes[1:], strict=False):
    assert below.y1 <= above.y0


def record(**changes):
  losses = xr.Dataset(
    {
      'loss': ('step', np.linspace(7, 4, 50)),
      'train_loss': ('checkpoint', [7.0, 5.0, 4.0]),
      'held_out_loss': ('checkpoint', [7.1, 5.2, 4.25]),
    },
    {'step': np.arange(50), 'checkpoint': [0, 7, 50]},
    {'unigram_entropy': 5.5, 'bigram_entropy': 3.5},
  )
  return losses.assign_attrs(changes)


def test_entropies_and_last_losses_are_drawn_and_named():
  ax = training.loss_curves(record()).axes[0]
  assert {
    'unigram entropy 5.50',
    'bigram entropy 3.50',
    'training 4.00',
    'held out 4.25',
  } <= set(words(ax))
  flat = [line.get_ydata() for line in ax.lines if len(line.get_xdata()) == 2]
  assert [list(y) for y in flat] == [[5.5, 5.5], [3.5, 3.5]]
  assert ax.get_ylabel() == 'loss (nats per token)'


@pytest.mark.parametrize(
  'missing', [['train_loss', 'held_out_loss'], ['loss'], ['held_out_loss']]
)
def test_a_record_may_be_partial(missing):
  partial = record().drop_vars(missing)
  del partial.attrs['unigram_entropy']
  training.loss_curves(partial).draw_without_rendering()


def test_binning_preserves_the_mean():
  values = np.random.default_rng(0).normal(size=1000)
  steps = np.arange(1000)
  step, mean, low, high = training.bin_means(steps, values, 30)
  assert len(step) <= 31 and (low <= mean).all() and (mean <= high).all()
  edges = np.unique(np.round(np.geomspace(1, 1000, 31)))
  counts = np.histogram(steps, [0, *edges])[0]
  np.testing.assert_allclose(np.average(mean, weights=counts), values.mean())


def chains(num_draws=100):
  """Two chains whose scaled differences are 0.5 and 1.5, plus a failed one."""
  dims = (*DIMS, 'chain', 'draw')
  rise = np.broadcast_to(
    np.array([0.5, 1.5, np.inf])[:, None] / 30, (4, 1, 4, 3, num_draws)
  )
  center = np.full(rise.shape, 2.0)
  return xr.Dataset(
    {'loss': (dims, center + rise), 'center_loss': (dims, center)},
    {**estimates().coords, 'draw': np.arange(num_draws)},
    {'nbeta': 30.0, 'localization': 200.0, 'step_size': 1e-3},
  )


def test_traces_are_scaled_paired_differences_without_failed_chains():
  dataset = estimates()
  dataset['failed'][..., 2] = True
  drawn = traces.chain_traces(
    chains(),
    dataset,
    burn_in=40,
    dataset='text',
    refinements=['0:1', '1:0'],
    checkpoints=[0, 10, 100],
  )
  assert len(drawn.axes) == 6
  ax = drawn.axes[0]
  levels = {
    float(np.median(line.get_ydata()))
    for line in ax.lines
    if len(line.get_xdata()) == 100 and np.isfinite(line.get_ydata()).all()
  }
  np.testing.assert_allclose(sorted(levels), [0.5, 1.5], rtol=1e-9)
  (bold,) = [line for line in ax.lines if line.get_linewidth() == 1.8]
  np.testing.assert_allclose(bold.get_ydata(), 1.0)
  (dashed,) = [line for line in ax.lines if line.get_linestyle() == '--']
  assert dashed.get_ydata()[0] == 10  # The estimate of 0:1 at step 0.
  (shaded,) = ax.patches
  assert shaded.get_x() == 0 and shaded.get_width() == 40
  assert '1 of 3 chains failed' in words(ax) and 'burn-in' in words(ax)
  assert ax.get_title('left') == 'head 0:1, step 0'


def test_cells_without_draws_are_labelled():
  empty = chains() * np.nan
  empty.attrs = chains().attrs
  drawn = traces.chain_traces(
    empty,
    estimates(),
    burn_in=0,
    dataset='text',
    refinements=['0:0'],
    checkpoints=[0],
  )
  assert 'no draws' in words(drawn.axes[0])
  drawn.draw_without_rendering()


def spreads(between, errors):
  dims = ('checkpoint', 'dataset', 'layer')
  stack = lambda x: (dims, np.array(x, float)[:, None, None])
  return xr.Dataset(
    {'spread': stack(between), 'standard_error': stack(errors)},
    {'checkpoint': [0, 1, 10], 'dataset': ['text'], 'layer': [1]},
  )


def test_spread_is_solid_and_error_is_dashed():
  ax = spread.head_spread(spreads([0.2, 2, 20], [0.1, 0.2, 0.3])).axes[0]
  solid, dashed = ax.lines
  np.testing.assert_array_equal(solid.get_ydata(), [0.2, 2, 20])
  np.testing.assert_array_equal(dashed.get_ydata(), [0.1, 0.2, 0.3])
  assert dashed.get_linestyle() == '--' and solid.get_linestyle() == '-'
  assert 'layer 1: between heads' in words(ax)
  assert ax.get_yscale() == 'log'


def test_a_layer_of_one_head_has_no_spread_and_the_figure_says_so():
  nan = [np.nan] * 3
  drawn = spread.head_spread(spreads(nan, nan))
  assert 'no layer with two heads' in words(drawn.axes[0])
  drawn.draw_without_rendering()


SCRIPTS = {
  '中文': '[U+4E2D 6587]',
  'held_out/日本': 'held_out/[U+65E5 672C]',
  'x中1': 'x[U+4E2D]1',
  '🦙': '[U+1F999]',
  '👩\u200d🔬 1\ufe0f\u20e3': None,
  'か\u3099 한국 ไทย हिन्दी': None,
  'تجربة': 'تجربة',  # DejaVu Sans has Arabic, Cyrillic and Greek.
  'Привет λ ± é': 'Привет λ ± é',
}


def write_font(path, letters, family='Test Letters'):
  """A font that has the letters alone, a square each."""
  pen = ttGlyphPen.TTGlyphPen(None)
  pen.moveTo((100, 0))
  for corner in ((100, 700), (800, 700), (800, 0)):
    pen.lineTo(corner)
  pen.closePath()
  names = ['.notdef', *(f'uni{ord(x):04X}' for x in letters)]
  font = fontBuilder.FontBuilder(1000)
  font.setupGlyphOrder(names)
  font.setupCharacterMap(dict(zip(map(ord, letters), names[1:], strict=True)))
  font.setupGlyf({name: pen.glyph() for name in names})
  font.setupHorizontalMetrics(dict.fromkeys(names, (900, 100)))
  font.setupHorizontalHeader(ascent=800, descent=-200)
  font.setupNameTable({'familyName': family, 'styleName': 'Regular'})
  font.setupOS2()
  font.setupPost()
  font.save(path)


@pytest.fixture
def only_dejavu(monkeypatch):
  """As on a machine that has no font but those that come with matplotlib."""
  monkeypatch.setattr(style, 'FALLBACKS', ())
  monkeypatch.setitem(style.SETTINGS, 'font.family', ['DejaVu Sans'])


@pytest.fixture
def chinese_font(tmp_path, monkeypatch):
  """A font with two letters, installed as a fallback."""
  path = tmp_path / 'letters.ttf'
  write_font(path, '中文')
  fonts = list(font_manager.fontManager.ttflist)
  font_manager.fontManager.addfont(path)
  families = ('Test Letters',)
  monkeypatch.setattr(style, 'FALLBACKS', families)
  monkeypatch.setitem(style.SETTINGS, 'font.family', ['DejaVu Sans', *families])
  yield
  font_manager.fontManager.ttflist[:] = fonts


def texts(drawn):
  return {x.get_text() for x in drawn.findobj(text_artist.Text)}


@pytest.mark.sampled(2)
@pytest.mark.usefixtures('only_dejavu')
@pytest.mark.parametrize('name', SCRIPTS)
def test_letters_that_no_font_has_are_spelled_out(name):
  """A warning of a missing glyph is an error in tests."""
  drawn = heads.llc_curves(estimates(datasets=('a', name), names=(name,)))
  assert style.image(drawn, 'png')
  shown = texts(drawn)
  if SCRIPTS[name]:
    assert SCRIPTS[name] in shown
    assert any(x.endswith(f' · {SCRIPTS[name]}') for x in shown)
  assert any(x.endswith(' · a') for x in shown)


@pytest.mark.usefixtures('only_dejavu')
def test_labels_of_ticks_and_bold_titles_are_spelled_out():
  drawn, axes = style.new_figure(1, 1, (3, 2))
  axes[0, 0].set_xticks([0, 1], ['中', 'a'])
  axes[0, 0].set_title('文', fontweight='bold')
  axes[0, 0].text(0, 0, '中', family='monospace')
  style.image(drawn, 'png')
  assert {'[U+4E2D]', 'a', '[U+6587]'} <= texts(drawn)
  assert not {'中', '文'} & texts(drawn)


@pytest.mark.usefixtures('chinese_font')
@pytest.mark.parametrize('kind', ['png', 'svg'])
def test_letters_that_a_font_has_are_drawn(kind):
  drawn = heads.llc_curves(estimates(datasets=('a', '中文'), names=('中x日',)))
  drawn.axes[0].text(0, 0, '文', family='monospace')
  drawn.axes[0].text(0, 1, '中\u0301')  # No font has both.
  style.image(drawn, kind)
  shown = texts(drawn)
  assert {'中x[U+65E5]', '文', '[U+4E2D 0301]'} <= shown
  assert any(x.endswith(' · 中文') for x in shown)


@pytest.mark.usefixtures('chinese_font')
def test_latin_text_is_drawn_in_the_same_font_with_and_without_fallbacks(
  monkeypatch,
):
  dataset = estimates(names=('0:0',))
  with_fallbacks = style.image(heads.llc_curves(dataset), 'png')
  monkeypatch.setattr(style, 'FALLBACKS', ())
  monkeypatch.setitem(style.SETTINGS, 'font.family', ['DejaVu Sans'])
  assert style.image(heads.llc_curves(dataset), 'png') == with_fallbacks


def test_fallbacks_are_installed_and_come_after_dejavu_sans():
  first, *fallbacks = style.SETTINGS['font.family']
  assert first == 'DejaVu Sans' and fallbacks == list(style.FALLBACKS)
  assert set(fallbacks) <= set(font_manager.fontManager.get_font_names())
