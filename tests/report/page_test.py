"""The page: complete, self-contained, and true to the data."""

from html import parser
import re

import numpy as np
import pytest
import xarray as xr

from rllc_jax.estimators import faults
from rllc_jax.report import blocks
from rllc_jax.report import inputs
from rllc_jax.report import opening
from rllc_jax.report import page
from rllc_jax.report import rendering
from rllc_jax.report import separation
from tests.report import saved

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
SVGS = dict.fromkeys(('llc', 'loss', 'spread', 'health', 'traces'), SVG)
estimates = saved.estimates


def traces():
  dataset = estimates()
  shape = (3, 1, 4, 2, 50)
  return xr.Dataset(
    {'loss': ((*saved.DIMS, 'chain', 'draw'), np.zeros(shape))},
    {
      **{name: dataset[name] for name in saved.DIMS},
      'draw': np.arange(50),
      'num_coordinates': ('refinement', [64] * 4),
    },
    {
      'nbeta': 30.0,
      'localization': 200.0,
      'step_size': 1e-3,
      'identity': '{"sampler": "sgnht"}',
    },
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


def write(path, svgs=SVGS, **changes):
  defaults = {
    'estimates': estimates(),
    'traces': traces(),
    'training': training(),
    'corpus': corpus(),
    'burn_in': 20,
    'provenance': {'device': 'CPU & "friends"'},
  }
  results = inputs.Inputs(**defaults | changes)
  return page.write_report(path, results, svgs).read_text('utf-8')


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


def test_the_page_is_one_file_that_loads_nothing(tmp_path):
  html = write(tmp_path / 'report.html')
  reader = read(html)
  assert reader.tags.count('img') == 5
  for address in reader.addresses:
    assert address.startswith(('data:', '#'))
  assert not re.search(r'url\(|@import|<script|https?:', html)
  assert [p.name for p in tmp_path.iterdir()] == ['report.html']


def test_every_link_of_the_contents_has_its_section(tmp_path):
  html = write(tmp_path / 'report.html')
  links = [x[1:] for x in read(html).addresses if x.startswith('#')]
  assert len(set(links)) == 7 and links.count('trust') == 2
  for name in links:
    assert f'id="{name}"' in html


def test_text_from_the_data_is_escaped(tmp_path):
  missing = saved.changed('llc', np.nan)  # Its data set is named.
  reader = read(write(tmp_path / 'report.html', estimates=missing))
  assert not {'b', 'text', 'by', 'x'} & set(reader.tags)
  text = ' '.join(reader.text)
  for words in ('<text>', 'CC <BY>', 'a&b', '<b>', 'CPU & "friends"', '<x>'):
    assert words in text


def test_the_headline_agrees_with_the_numbers(tmp_path):
  text = ' '.join(read(write(tmp_path / 'report.html')).text)
  assert 'Heads of layer 0 separate over training' in text
  assert 'heads of layer 1 did not separate' in text
  assert 'The held-out loss ends below the unigram entropy' in text
  worse = training().assign_attrs(unigram_entropy=3.0)
  text = ' '.join(read(write(tmp_path / 'report.html', training=worse)).text)
  assert 'does not end below the unigram entropy' in text


def test_settings_and_their_limits_are_shown(tmp_path):
  text = ' '.join(read(write(tmp_path / 'report.html')).text)
  for words in (
    'nβ',
    'localization γ',
    'step size ε',
    'burn-in',
    'Cold start',
    'sgnht',
  ):
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


def test_a_page_is_written_without_any_estimate(tmp_path):
  empty = estimates().map(lambda x: x * np.nan if x.dtype == float else x)
  empty = empty.assign({'num_draws': 0 * empty.num_draws})
  html = write(
    tmp_path / 'a.html',
    estimates=empty,
    training=xr.Dataset(),
    corpus={},
    provenance={},
  )
  text = ' '.join(read(html).text)
  assert 'cannot be judged' in text and 'separate over training' not in text
  assert 'There is no estimate.' in text and 'not sampled yet' in text
  assert 'is not recorded' in text


def test_a_failed_write_leaves_the_old_page(tmp_path):
  path = tmp_path / 'report.html'
  before = write(path)
  with pytest.raises(TypeError):
    write(path, svgs=None)
  assert path.read_text('utf-8') == before


def test_several_data_sets_are_named():
  two = xr.concat([estimates()] * 2, 'dataset')
  two = two.assign_coords(dataset=['a', 'b'])
  verdicts = separation.verdicts(separation.spreads(two))
  loss = page.losses.LossVerdict(None, '')
  assert opening.headline(verdicts, loss).startswith('On a, heads of layer 0')


def test_the_opening_counts_healthy_estimates(tmp_path):
  html = write(tmp_path / 'a.html')
  assert 'All 12 estimates are healthy.' in html
  html = write(tmp_path / 'b.html', estimates=saved.changed('ess', 9))
  assert (
    '11 of 12 estimates are healthy; what the others miss most often is ESS of '
    'paired differences (1). <a href="#trust">'
  ) in html


def test_a_run_without_healthy_estimates_says_so(tmp_path):
  dataset = saved.estimates()
  dataset['halves_difference'] = dataset.halves_difference + 4
  html = write(tmp_path / 'a.html', estimates=dataset)
  assert (
    'None of 12 estimates is healthy; what they miss most often is difference '
    'of halves (12).'
  ) in html


def test_every_refinement_has_a_line_and_failed_chains_have_names(tmp_path):
  dataset = saved.changed('num_failed', 2)
  dataset['failed'][2, 0, 1, 1:3] = True
  text = ' '.join(read(write(tmp_path / 'a.html', estimates=dataset)).text)
  assert text.count('healthy at all 3 checkpoints') == 3
  assert '2 of 4 chains failed' in text and 'lower step_size' in text
  assert 'Chains that failed: 2 of 48.' in text
  assert '0:1 at step 100 on <text>: chains 1 and 2 failed' in text


def test_the_limits_on_the_page_are_those_of_the_rules(tmp_path):
  text = ' '.join(read(write(tmp_path / 'a.html')).text)
  for words in (
    f'under {faults.rhat_limit(1000):g}, or under 1 + 16 / n',
    f'at least {faults.ESS_LIMIT} a chain',
    'of 0.97 to 1.03;',
    f'within {faults.HALVES_LIMIT:g} standard errors',
  ):
    assert words in text


def test_missing_measurements_name_their_command(tmp_path):
  text = ' '.join(read(write(tmp_path / 'a.html')).text)
  for name in ('known_answers', 'coverage'):
    assert f'python -m experiments.{name} --workdir=DIR' in text
  assert 'What pairing gains' not in text


def test_text_cannot_break_out_of_attributes():
  picture = blocks.Picture('', '"><script>', 'a > b')
  html = rendering.html([picture])
  assert '<script>' not in html and '&#34;' in html
