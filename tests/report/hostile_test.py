"""Untrusted text stays text, on the page and in its figures."""

import base64
from html import parser
import json
import pathlib
import re
import subprocess
import sys
from xml.etree import ElementTree

import ml_collections
import numpy as np
import pytest
import xarray as xr

from experiments import report
from rllc_jax import checked_files
from rllc_jax import visible
from rllc_jax.plots import affected
from rllc_jax.plots import style
from rllc_jax.report import figures as report_figures
from rllc_jax.report import rendering
from rllc_jax.results import disk
from rllc_jax.results import store as stores
from rllc_jax.training import records
from tests.experiments import report_test

SCRIPT = '</script><script>alert(1)</script>'
IMAGE = "\"><img src=x onerror='alert(1)'>"
ENTITY = '&lt;b&gt; & &#x3c;i> --> ]]>'
ADDRESS = '<link href=https://harm.example> url(//harm.example)'
MATHS = '$\\frac{1}{$ and $x'
CONTROLS = 'bell \x07 escape \x1b[2J end\r\n'
MARKS = 'marks \u202eabc\u2066\u200f\u2028 שלום 三'
HARM = ' '.join([SCRIPT, IMAGE, ENTITY, ADDRESS, MATHS, CONTROLS, MARKS])
WORST = f'{HARM} \x00 \ud800 end'  # JSON lets these in, file names do not.

HEADS = ('0:0', '0:1', '1:0', HARM)
DATASETS = (f'train/{HARM}', f'held_out/{HARM}')
STEPS = (0, 16)
NUM_DRAWS = 80


def write_store(directory):
  rng = np.random.default_rng(0)
  identity = {
    'provenance': {WORST: WORST},
    'nbeta': 30.0,
    'localization': 200.0,
    'step_size': 1e-3,
    'num_steps_between_draws': 1,
    'num_baseline_batches': 2,
    'num_coordinates': dict.fromkeys(HEADS, 16),
    **dict.fromkeys(('sampler', 'batch', 'data', 'matmul_precision'), WORST),
    'rng_key': [0, 3],
  }
  store = disk.open_store(directory)
  store.begin(
    identity, stores.Extent(STEPS, DATASETS, HEADS, 4, NUM_DRAWS), HARM
  )
  rows = [(step, name) for step in STEPS for name in DATASETS]
  shape = len(rows), 4, NUM_DRAWS
  for place, name in enumerate(HEADS):
    noise = lambda: 0.1 * rng.normal(size=shape).astype(np.float32)
    draws = {
      'center_loss': 2 + 0 * noise(),
      'loss': 2 + (place + noise()) / 30,
      'squared_distance': 0.08 + 0.01 * noise(),
      'virial': 17 + noise(),
      'squared_gradient': 4000 + noise(),
    }
    columns = [(name, chain) for chain in range(4)]
    state = [np.zeros((len(rows), 4, 1), np.float32)]
    store.write(rows, columns, 0, draws, state, np.full((len(rows), 2), 2.0))
    if place != 2:  # One is missing, and its data sets are named.
      store.complete(rows, columns)
  store.end()


def write_training(path):
  identity = {
    'seed': 3,
    'tokens': 'abc',
    'batch_size': 8,
    'num_steps': 16,
    'settings': {WORST: {'name': WORST, 'list': [WORST]}},
  }
  evaluation = {'train': [7, 4], 'held_out': [7, 4.5]}
  losses = np.linspace(7, 4, 16)
  record = records.training_record(losses, STEPS, evaluation, identity)
  record.attrs.update(unigram_entropy=5.0, bigram_entropy=3.0)
  path.parent.mkdir()
  records.save_record(record, path)


def write_json(path):
  domain = {'documents': 3, 'license': WORST, 'requires': WORST}
  provenance = {
    'domains': {WORST: domain},
    'skipped': {WORST: WORST},
    'settings': {'files': [WORST], WORST: WORST},
  }
  corpus = {
    'shape': [9, 5],
    'vocab_size': 11,
    'eos_id': 10,
    'windows': {WORST: [0, 9]},
    'tokens_hash': 'abc',
    'files': {},
    'provenance': provenance,
  }
  answers = [
    {**report_test.ANSWER, 'problem': f'{WORST} · {WORST}', 'note': WORST},
    {**report_test.ANSWER, 'problem': f'{WORST} · x', 'holds': False},
  ]
  finding = dict.fromkeys(('claim', 'statement', 'note', 'unit'), WORST)
  finding |= {'effect': 1.0, 'error': 0.1, 'holds': True}
  claims = {'seed': 3, 'tokens': 'abc', 'findings': [finding]}
  checked_files.write_json(path / 'corpus' / 'corpus.json', corpus)
  checked_files.write_json(path / 'known_answers.json', {'records': answers})
  checked_files.write_json(path / 'claims.json', claims)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  write_store(path / 'rllc')
  write_training(path / 'train' / 'training.zarr')
  write_json(path)
  return path


@pytest.fixture(scope='module')
def page(workdir):
  settings = {'sampling': {'burn_in': 20}, 'estimation': {'name': 'rllc'}}
  config = ml_collections.ConfigDict({'seed': 3, **settings})
  image = style.image
  only_svg = lambda drawn, kind: image(drawn, kind) if kind == 'svg' else b''
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(style, 'image', only_svg)  # Of which the page is made.
    return report.run(config, workdir).read_bytes().decode('utf-8')


class Reader(parser.HTMLParser):
  """Collects what a browser would make of a page."""

  def __init__(self, html):
    super().__init__()
    self.tags, self.attributes, self.words = set(), [], ''
    self.feed(html)
    self.close()

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    self.attributes += attrs

  def handle_data(self, data):
    self.words += data


def test_the_page_has_no_element_but_its_own(page):
  reader = Reader(page)
  known_tags = (
    'html head meta link title style body main p h1 h2 h3 a nav ul li div'
  )
  known_tags += (
    ' dl dt dd table thead tbody tr th td figure figcaption img details'
  )
  assert reader.tags <= {*known_tags.split(), 'summary', 'wbr'}
  names = {name for name, _ in reader.attributes}
  assert names <= set(
    'alt charset class content href id lang name rel src'.split()
  )


def test_the_page_loads_nothing(page):
  for name, value in Reader(page).attributes:
    if name in ('href', 'src'):
      assert value.startswith(('#', 'data:'))
  [sheet] = re.findall('<style>(.*?)</style>', page, re.DOTALL)
  assert not re.search(r'url\(|@import|expression|https?:', sheet)


def test_every_character_of_the_page_is_visible(page):
  lines = page.split('\n')
  assert [visible.text(line) for line in lines] == lines


@pytest.mark.parametrize(
  'harm', [SCRIPT, IMAGE, ENTITY, ADDRESS, MATHS, CONTROLS.rstrip(), MARKS]
)
def test_harmful_text_is_shown_as_text(page, harm):
  words = Reader(page).words
  assert words.count(visible.text(harm)) > 20
  assert words.count(r'\x00 \ud800 end') > 15


def figures(page):
  encoded = re.findall('data:image/svg.xml;base64,([^"]*)', page)
  return [base64.b64decode(x) for x in encoded]


def check_figure(svg):
  """A figure is well formed, runs nothing, and refers to itself alone."""
  for element in ElementTree.fromstring(svg).iter():
    tag = re.sub('{.*}', '', element.tag)
    assert tag not in ('script', 'foreignObject', 'a', 'iframe', 'html')
    for name, value in element.attrib.items():
      name = re.sub('{.*}', '', name)
      assert not name.startswith('on')
      if name in ('href', 'src'):
        assert value.startswith(('#', 'data:image/png;base64,'))
      assert 'url(' not in value.replace('url(#', '')


def test_figures_refer_to_nothing_and_run_nothing(workdir, page):
  contents = report._inputs(report._read(workdir), workdir, burn_in=20)
  drawn = [x.name for x in report_figures.FIGURES if x.needs(contents)]
  assert len(figures(page)) == len(drawn) > 0
  for svg in figures(page):
    check_figure(svg)


def test_figures_have_no_invisible_character(page):
  for svg in figures(page):
    lines = svg.decode('utf-8').split('\n')
    assert [visible.text(line) for line in lines] == lines


def test_names_in_figures_are_no_mathematics():
  drawn, panels = style.new_figure(1, 1, (3, 3))
  ax = panels[0, 0]
  ax.set_title('$\\frac{$')
  ax.set_yticks([1, 2], ['$\\frac{$', 'b\x1b'])
  ax.set_xscale('log')
  ax.set_xlim(1, 1e6)
  for _ in range(2):  # A figure is drawn as one kind of file and another.
    svg = style.image(drawn, 'svg').decode()
    check_figure(svg)
    assert svg.count('<!-- $\\frac{$ -->') == 2 and '<!-- b\\x1b -->' in svg
    assert '<!-- $\\mathdefault{10^{0}}$ -->' in svg  # A number of its own.


def test_tokens_in_figures_are_no_mathematics():
  dims = ('layer', 'head', 'rank', 'place')
  texts = [SCRIPT, '$\\frac{$', '\x1b\u202e', 'x', '三']
  examples = xr.Dataset(
    {
      'affected_text': (dims, np.array(texts, object)[None, None, None]),
      'affected_attention': (dims, np.full((1, 1, 1, 5), 0.2)),
      'affected_effect': (dims[:3], np.ones((1, 1, 1))),
    }
  )
  check_figure(style.image(affected.affected_tokens(examples), 'svg'))


def test_no_element_is_made_outside_of_the_template():
  directory = pathlib.Path(rendering.__file__).parent
  for path in directory.glob('*.py'):
    tags = re.findall(r'<[a-z][^>\n]*>', path.read_text())
    assert not tags, path


@pytest.mark.long
def test_a_hostile_document_goes_from_the_corpus_to_the_page(tmp_path):
  """The whole demo on it; its words are in the tokens, names and examples."""
  path = tmp_path / 'harm.jsonl'
  document = f'{HARM} the cat sat on the mat and the dog sat on the cat. '
  lines = [json.dumps({'text': document * 20 + str(i)}) for i in range(60)]
  path.write_text('\n'.join(lines))
  command = [
    sys.executable,
    '-m',
    'experiments.demo',
    '--config=experiments/configs/smoke.py',
    f'--workdir={tmp_path / "run"}',
    '--config.corpus.sources=()',
    '--config.corpus.further=()',
    f'--config.corpus.files=({str(path)!r},)',
    '--config.corpus.vocab_size=300',
    '--config.estimation.code=()',
    '--config.training.num_steps=60',
    '--config.analysis.num_sequences=64',
    '--config.analysis.num_tokens=512',
  ]
  process = subprocess.run(command, capture_output=True, text=True, timeout=900)
  assert not process.returncode, process.stderr
  page = (tmp_path / 'run' / 'report.html').read_bytes().decode('utf-8')
  test_the_page_has_no_element_but_its_own(page)
  test_the_page_loads_nothing(page)
  assert 'harm' in Reader(page).words
