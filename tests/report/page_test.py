"""The page: whole, alone, and saying what the data say."""

from html import parser
import re

import numpy as np
import pytest
import xarray as xr

from rllc_jax.report import markup
from rllc_jax.report import opening
from rllc_jax.report import page
from rllc_jax.report import separation
from rllc_jax.report import tables

DIMS = ('checkpoint', 'dataset', 'refinement')
FIGURES = page.Figures(*[b'<svg xmlns="http://www.w3.org/2000/svg"/>'] * 4)


def estimates():
  llc = np.zeros((3, 1, 4)) + [
    [[1.0, 1, 1, 1]],
    [[5, 6, 5, 6]],
    [[9, 19, 8, 8]],
  ]
  values = {
    'llc': llc,
    'standard_error': np.full(llc.shape, 0.25),
    'low': llc - 0.5,
    'high': llc + 0.5,
    'equilibrium_ratio': np.ones(llc.shape),
    'equilibrium_ratio_error': np.full(llc.shape, 0.01),
    'rhat': np.full(llc.shape, 1.01),
    'ess': np.full(llc.shape, 400.0),
    'num_failed': np.zeros(llc.shape, int),
  }
  return xr.Dataset(
    {name: (DIMS, x) for name, x in values.items()},
    {
      'checkpoint': [0, 10, 100],
      'dataset': ['<text>'],
      'refinement': ['0:0', '0:1', '1:0', '1:1'],
    },
  )


def traces():
  found = estimates()
  shape = (3, 1, 4, 2, 50)
  return xr.Dataset(
    {'loss': ((*DIMS, 'chain', 'draw'), np.zeros(shape))},
    {
      **found.coords,
      'draw': np.arange(50),
      'num_coordinates': ('refinement', [64] * 4),
    },
    {'nbeta': 30.0, 'localization': 200.0, 'step_size': 1e-3},
  )


def training():
  return xr.Dataset(
    {'held_out_loss': ('checkpoint', [7.0, 5.0, 4.0])},
    {'checkpoint': [0, 10, 100]},
    {
      'unigram_entropy': 5.5,
      'identity': '{"seed": 3, "tokens": "f00", "settings": {"d": "<b>"}}',
    },
  )


def corpus():
  domain = {'documents': 12, 'bytes': 3_400_000, 'license': 'CC <BY>'}
  return {
    'vocab_size': 2000,
    'shape': [90, 64],
    'provenance': {
      'domains': {'a&b': domain},
      'skipped': {'gone': 'needs <x>'},
    },
  }


def write(path, **changes):
  given = {
    'estimates': estimates(),
    'traces': traces(),
    'training': training(),
    'corpus': corpus(),
    'figures': FIGURES,
    'burn_in': 20,
    'provenance': {'device': 'CPU & "friends"'},
  }
  return page.write_report(path, **{**given, **changes}).read_text('utf-8')


class Reader(parser.HTMLParser):
  """Collects tags, addresses and text, and checks the nesting."""

  VOID = {'meta', 'link', 'img', '!doctype'}

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.addresses, self.text = [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [x for name, x in attrs if name in ('src', 'href')]
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def read(html):
  reader = Reader()
  reader.feed(html)
  assert not reader.open
  return reader


def test_the_page_is_one_file_that_asks_for_nothing(tmp_path):
  html = write(tmp_path / 'report.html')
  reader = read(html)
  assert reader.tags.count('img') == 4
  for address in reader.addresses:
    assert address.startswith(('data:', '#'))
  assert not re.search(r'url\(|@import|<script|https?:', html)
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_every_link_of_the_contents_has_its_section(tmp_path):
  html = write(tmp_path / 'report.html')
  links = [x[1:] for x in read(html).addresses if x.startswith('#')]
  assert len(links) == 4
  for name in links:
    assert f'id="{name}"' in html


def test_text_from_the_data_is_escaped(tmp_path):
  reader = read(write(tmp_path / 'report.html'))
  assert not {'b', 'text', 'by', 'x'} & set(reader.tags)
  text = ' '.join(reader.text)
  for words in ('<text>', 'CC <BY>', 'a&b', '<b>', 'CPU & "friends"', '<x>'):
    assert words in text


def test_the_headline_is_what_the_numbers_say(tmp_path):
  text = ' '.join(read(write(tmp_path / 'report.html')).text)
  assert 'Heads of layer 0 separate over training' in text
  assert 'heads of layer 1 did not separate' in text
  assert 'The held-out loss ends below the unigram entropy' in text
  worse = training().assign_attrs(unigram_entropy=3.0)
  text = ' '.join(read(write(tmp_path / 'report.html', training=worse)).text)
  assert 'does not end below the unigram entropy' in text


def test_settings_and_their_limits_are_told(tmp_path):
  text = ' '.join(read(write(tmp_path / 'report.html')).text)
  for words in ('nβ', 'localization γ', 'step size ε', 'burn-in', 'Cold start'):
    assert words in text
  assert 'not the asymptotic learning coefficient' in text
  assert 'f00' not in text  # A hash that no reader wants.


def test_missing_estimates_are_named(tmp_path):
  partial = estimates()
  partial['llc'][1, 0, 2] = np.nan
  partial['llc'][2] = np.nan
  text = ' '.join(read(write(tmp_path / 'a.html', estimates=partial)).text)
  assert '5 of 12 cells have no estimate' in text
  assert 'step 10, <text>: 1:0' in text
  assert 'step 100, <text>: everything' in text
  assert 'Incomplete' not in ' '.join(read(write(tmp_path / 'b.html')).text)


def test_a_page_is_written_of_nothing_but_gaps(tmp_path):
  empty = estimates().map(lambda x: x * np.nan)
  empty['num_failed'] = estimates().num_failed
  html = write(
    tmp_path / 'a.html',
    estimates=empty,
    training=xr.Dataset(),
    corpus={},
    provenance={},
  )
  text = ' '.join(read(html).text)
  assert 'cannot be judged' in text and 'separate over training' not in text
  assert 'is not recorded' in text


def test_a_failure_leaves_the_page_that_was_there(tmp_path):
  path = tmp_path / 'report.html'
  before = write(path)
  with pytest.raises(AttributeError):
    write(path, figures=None)
  assert path.read_text('utf-8') == before


def test_several_data_sets_are_told_apart():
  two = xr.concat([estimates()] * 2, 'dataset')
  two = two.assign_coords(dataset=['a', 'b'])
  verdicts = separation.verdicts(separation.spreads(two))
  loss = page.losses.LossVerdict(None, '')
  assert opening.headline(verdicts, loss).startswith('On a, heads of layer 0')


def row(name, **changes):
  found = estimates()
  for variable, value in changes.items():
    found[variable].loc[{'refinement': name, 'checkpoint': 100}] = value
  table = tables.refinements_table(found, '<text>')
  (cells,) = [cells for cells in table.rows if cells[0].text == name]
  return dict(zip(table.header, cells, strict=True))


def test_a_row_of_the_table_by_hand():
  cells = {name: cell.text for name, cell in row('0:1').items()}
  assert cells == {
    'refinement': '0:1',
    'wrLLC': '19.00 ± 0.25',
    '95 % interval': '18.50 to 19.50',
    'change since step 0': '18.00 ± 0.35',  # sqrt(2) / 4.
    'equilibrium ratio': '1.000 ± 0.010',
    'R-hat': '1.010',
    'ESS': '400',
    'failed chains': '0',
  }


@pytest.mark.parametrize(
  ('column', 'variable', 'fine', 'suspect'),
  [
    ('R-hat', 'rhat', 1.04, 1.06),
    ('ESS', 'ess', 101, 99),
    ('equilibrium ratio', 'equilibrium_ratio', 0.96, 0.94),
    ('failed chains', 'num_failed', 0, 1),
  ],
)
def test_suspect_diagnostics_are_marked_in_row_and_summary(
  column, variable, fine, suspect
):
  assert not row('0:1', **{variable: fine})[column].marked
  assert row('0:1', **{variable: suspect})[column].marked
  found = estimates()
  assert tables.num_marked(found) == 0
  found[variable][2, 0, 1] = suspect
  assert tables.num_marked(found) == 1
  if variable != 'num_failed':
    rows = tables.diagnostics_table(found).rows
    assert [r[1].text for r in rows if r[4].marked] == [
      '0:1 at step 100, <text>'
    ]


def test_a_missing_estimate_is_a_dash():
  cells = row('0:1', llc=np.nan, low=np.nan, rhat=np.nan)
  for name in ('wrLLC', '95 % interval', 'change since step 0', 'R-hat'):
    assert cells[name] == tables.Cell(tables.MISSING)


def test_attributes_cannot_be_broken_out_of():
  html = markup.picture(b'', '"><script>', 'a > b')
  assert '<script>' not in html and '&quot;' in html
