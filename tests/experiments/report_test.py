"""The report of results on disk."""

import base64
import pathlib
import re
import shutil

import ml_collections
import numpy as np
import pytest

from experiments import report
from rllc_jax import checked_files
from rllc_jax.report import figures
from rllc_jax.report import page
from rllc_jax.results import disk
from rllc_jax.results import store as stores
from rllc_jax.training import records
from tests import binaries
from tests.report import behaviour_test

RUN = {
  'started': '2026-01-02 03:04:05',
  'seconds': 1234.5,
  'ended': False,
  'process': [1, 2],
  'devices': '4 x toy',
  'git': 'abc123+',
  'python': '3.11.7',
  'versions': {'jax': '0.99'},
  'config': {'seed': 3, 'sampling': {'nbeta': 30.0}},
}
ROOT = pathlib.Path(__file__).parents[2]
STEPS = (0, 4, 16)
HEADS = ('0:0', '0:1', '1:0', '1:1')
NUM_DRAWS = 120
ANSWER = {
  'problem': 'a bowl · nβ = 30',
  'family': 'bowl',
  'restricted': False,
  'learning_coefficient': 5.0,
  'multiplicity': 1,
  'exact': 1.01,
  'llc': 1.0,
  'low': 0.9,
  'high': 1.1,
  'standard_error': 0.05,
  'seconds': 2.0,
  'holds': True,
  'note': '',
}


def write_traces(directory):
  """Four chains of 120 draws a cell; head 1:1 is missing at step 4."""
  rng = np.random.default_rng(0)
  identity = {
    'provenance': {'model': 'tiny <model>'},
    'sampler': 'sgld',
    'nbeta': 30.0,
    'localization': 200.0,
    'step_size': 1e-3,
    'num_steps_between_draws': 1,
    'num_baseline_batches': 2,
    'batch': 'uint16[8, 32]',
    'data': 'abc',
    'rng_key': [0, 3],
    'params': {str(step): f'hash of {step}' for step in STEPS},
    'matmul_precision': 'default',
    'num_coordinates': dict.fromkeys(HEADS, 16),
  }
  store = disk.open_store(directory)
  extent = stores.Extent(STEPS, ('text',), HEADS, 4, NUM_DRAWS)
  store.begin(identity, extent, 'jax 0, 1 x toy')
  for step in STEPS:
    for place, name in enumerate(HEADS):
      if (step, name) == (4, '1:1'):
        continue
      level = 1 + step * place  # At step 16: 1, 17, 33, 49.
      noise = lambda: rng.normal(size=(1, 4, NUM_DRAWS)).astype(np.float32)
      draws = {
        'center_loss': 2 + 0 * noise(),
        'loss': 2 + (level + 0.1 * noise()) / 30,
        'squared_distance': 0.08 + 0.001 * noise(),
        'virial': 17 + 0.1 * noise(),
        'squared_gradient': 4000 + noise(),
      }
      columns = [(name, chain) for chain in range(4)]
      state = [np.zeros((1, 4, 1), np.float32)]
      rows, baseline = [(step, 'text')], np.full((1, 2), 2.0)
      store.write(rows, columns, 0, draws, state, baseline)
      store.complete(rows, columns)
  store.end()


def write_run(path):
  write_traces(path / 'rllc')
  record = records.training_record(
    np.linspace(7, 4, 16),
    STEPS,
    {'train': [7, 5, 4], 'held_out': [7, 5, 4.5]},
    {
      'seed': 3,
      'tokens': 'abc',
      'batch_size': 8,
      'num_steps': 16,
      'settings': {'model': {'num_layers': 2}},
    },
  )
  record.attrs.update(unigram_entropy=5.0, bigram_entropy=3.0)
  (path / 'train').mkdir()
  records.save_record(record, path / 'train' / 'training.zarr')
  corpus = {
    'shape': [9, 5],
    'vocab_size': 11,
    'eos_id': 10,
    'windows': {},
    'tokens_hash': 'abc',
    'files': {},
    'provenance': {},
  }
  checked_files.write_json(path / 'corpus' / 'corpus.json', corpus)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('run')
  write_run(path)
  return path


def config(**sampling):
  return ml_collections.ConfigDict({'seed': 3, 'sampling': sampling})


@pytest.fixture(scope='module')
def path(workdir):
  return report.run(config(burn_in=20), workdir)


def contents(workdir):
  """The results that the report of a run is made of."""
  return report._inputs(report._read(workdir), workdir, burn_in=20)


def test_a_run_becomes_a_page_and_images(workdir, path):
  html = path.read_text('utf-8')
  assert path == workdir / 'report.html'
  names = [x.name for x in figures.FIGURES if x.needs(contents(workdir))]
  assert html.count('data:image/svg+xml') == len(names) > 0
  pictures = sorted((workdir / 'figures').iterdir())
  assert [p.name for p in pictures] == sorted(f'{name}.png' for name in names)
  assert all(p.read_bytes().startswith(b'\x89PNG') for p in pictures)
  for words in (
    'Heads of layers 0 and 1 separate over training',
    'The held-out loss ends below the unigram entropy',
    '1 of 12 cells have no estimate',
    'step 4, text: 1:1',
    'tiny &lt;model&gt;',
    'jax 0, 1 x toy',
    'What pairing gains',
    'python -m experiments.known_answers --workdir=DIR',
    'hash of 16',
    'They are not recorded.',
  ):
    assert words in html
  assert 'http://' not in html and 'https://' not in html
  assert 'estimates.csv' not in html


def test_the_page_shows_every_figure_that_is_drawn(workdir):
  results = contents(workdir)._replace(readings=behaviour_test.readings())
  names = [entry.name for entry in figures.FIGURES]
  html = page.html(results, {name: name.encode() for name in names})
  encoded = {name: base64.b64encode(name.encode()).decode() for name in names}
  shown = [name for name in names if f'base64,{encoded[name]}"' in html]
  assert shown == names, 'no section shows images.at(place) of the others'


@pytest.mark.long
def test_a_report_can_be_made_again_and_is_the_same(workdir, path):
  first = path.read_bytes()
  assert report.run(config(burn_in=20), workdir).read_bytes() == first


def test_the_heads_with_the_extreme_estimates_are_traced(workdir):
  drawn = figures.draw(contents(workdir))['traces']
  titles = [ax.get_title('left') for ax in drawn.axes]
  assert titles[0] == 'head 0:0, step 0' and titles[-1] == 'head 1:1, step 16'


@pytest.fixture(scope='module')
def with_more(workdir, tmp_path_factory):
  """A run with results of other commands, and its page."""
  run = tmp_path_factory.mktemp('more') / 'run'
  shutil.copytree(workdir, run)
  checked_files.write_json(run / 'known_answers.json', {'records': [ANSWER]})
  (run / 'estimates.csv').write_text('llc')
  checked_files.write_json(run / 'rllc' / 'runs' / 'a.json', RUN)
  return run, report.run(config(burn_in=20), run).read_text('utf-8')


def test_results_of_other_commands_are_reported(with_more, tmp_path):
  run, html = with_more
  assert 'All 1 problems that are judged come out right' in html
  assert 'a bowl · nβ = 30' in html and 'estimates.csv' in html
  assert (run / 'figures' / 'known_answers.png').exists()
  run = shutil.copytree(run, tmp_path / 'run')
  (run / 'known_answers.json').write_text('[{')
  with pytest.raises(ValueError, match='known_answers.json: expected a JSON'):
    report.run(config(burn_in=20), run)


def test_all_runs_of_the_store_are_listed(with_more, tmp_path):
  run, html = with_more
  cells = re.findall(r'<td[^>]*>([^<]*)</td>', html)
  at = cells.index(RUN['started'])
  shown = [RUN['started'], 'abc123+', '4 x toy', '1 of 2', '1,234.5', 'no']
  assert cells[at : at + 8] == [*shown, '3.11.7', '0.99']
  assert '<dt>sampling.nbeta</dt>' in html
  run = shutil.copytree(run, tmp_path / 'run')
  place = run / 'rllc' / 'runs' / 'a.json'
  place.write_text(place.read_text().replace('abc', 'abd'))
  with pytest.raises(ValueError, match='a.json: expected .*Put back a copy'):
    report.run(config(burn_in=20), run)


@pytest.mark.parametrize(
  ('part', 'binary'),
  [
    ('corpus/corpus.json', 'experiments.build_corpus'),
    ('train/training.zarr', 'experiments.train'),
    ('rllc', 'experiments.estimate_rllc'),
  ],
)
def test_error_names_the_command_that_makes_a_missing_result(
  workdir, tmp_path, part, binary
):
  shutil.copytree(workdir, tmp_path / 'run')
  path = tmp_path / 'run' / part
  shutil.rmtree(path) if path.is_dir() else path.unlink()
  with pytest.raises(ValueError, match=binary):
    report.run(config(burn_in=20), tmp_path / 'run')


def test_an_unknown_setting_is_refused(workdir):
  with pytest.raises(ValueError, match='burn_in.*got burnin'):
    report.run(config(burnin=3), workdir)


def test_the_command_fails_with_one_line(tmp_path):
  path = tmp_path / 'config.py'
  path.write_text(
    'import ml_collections\n'
    'def get_config():\n'
    '  return ml_collections.ConfigDict()\n'
  )
  done = binaries.run('report', f'--config={path}', f'--workdir={tmp_path}')
  assert done.returncode == 1
  assert done.stderr.startswith('report: error: ')
  assert done.stderr.count('\n') == 1
