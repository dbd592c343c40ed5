"""A small study: stores, findings, figures, report and verdicts."""

import json
import pathlib

import pytest

from experiments.paper import claim_runs as claims
from experiments.paper import claims as definitions
from experiments.paper import drawing
from experiments.paper import study
from experiments.runtime import sections

CONFIGS = pathlib.Path(claims.__file__).parents[1] / 'configs' / 'paper'
FIGURES = [
  path
  for path in sorted(CONFIGS.glob('*.py'))
  if path.stem not in ('__init__', 'full_size')
]


assert len(FIGURES) > 10


def config():
  return sections.make_config(
    seed=3,
    corpus=dict(
      sources=('planted',),
      further=('planted_repeats',),
      tokenizer='words',
      cap_mb=0.1,
      vocab_size=128,
      context_length=24,
    ),
    model=dict(num_layers=2, num_heads=3, d_model=16, d_head=8),
    training=dict(
      learning_rate=1e-2, batch_size=16, num_steps=200, num_checkpoints=6
    ),
    estimation=dict(
      datasets=('train', 'held_out/planted_repeats'), batch_size=4
    ),
    sampling=dict(num_chains=2, num_draws=40),
    analysis=dict(num_tokens=768, num_sequences=256),
  )


@pytest.fixture(scope='module')
def studies(tmp_path_factory):
  """A directory with one study in it."""
  root = tmp_path_factory.mktemp('studies')
  with pytest.MonkeyPatch.context() as patch:
    languages = {'planted': (config, 'held_out/planted_repeats')}
    patch.setattr(claims, 'LANGUAGES', languages)
    claims.examine('planted', 3, root)
    yield root


@pytest.mark.long
def test_a_study_has_every_store_and_finding(studies):
  workdir = studies / 'planted-3'
  text = study.traces(workdir, 'rllc')
  assert text.sizes['refinement'] == 6 and text.sizes['dataset'] == 2
  assert study.traces(workdir, 'full').dataset.values.tolist() == [
    'train',
    'held_out/planted_repeats',
  ]
  reference = study.traces(workdir, 'reference')
  assert reference.dataset.values.tolist() == ['train']
  sweeps = sorted(path.name for path in workdir.glob('sweep_*[0-9]'))
  assert len(sweeps) == 6 and 'sweep_nbeta_60' in sweeps
  for name in sweeps:
    traces = study.traces(workdir, name)
    setting, value = name.removeprefix('sweep_').rsplit('_', 1)
    assert traces.attrs[setting] == float(value)
    assert traces.checkpoint.values.tolist() == [200]
  record = json.loads((workdir / 'claims.json').read_text())
  assert [x['claim'] for x in record['findings']] == list(definitions.CLAIMS)
  assert set(record['classes']) == set(text.refinement.values)
  lines = (workdir / 'curves.csv').read_text().splitlines()
  assert len(lines) == 1 + 6 * 6 * 2  # Checkpoints, heads, data sets.
  assert 'One run decides nothing' in (workdir / 'report.html').read_text()


@pytest.mark.long
def test_one_seed_is_no_verdict(studies):
  rows = claims.verdicts(claims.read_effects(studies))
  assert {row.name for row in rows} >= {'C1 planted', 'C11 planted'}
  for row in rows:
    assert row.holds is None and '1 seed' in row.note


@pytest.mark.long
@pytest.mark.parametrize('path', FIGURES, ids=lambda path: path.stem)
def test_every_figure_of_the_paper_is_drawn(path, studies):
  namespace = {}
  exec(path.read_text(), namespace)  # As ml_collections does.
  settings = namespace['get_config']()
  over_seeds = settings.figure.draws in ('claims', 'seeds', 'classes')
  if settings.figure.datasets:
    settings.figure.datasets = ('held_out/planted_repeats',)
  image = drawing.run(settings, studies / ('' if over_seeds else 'planted-3'))
  assert image.name == f'{path.stem}.png' and image.stat().st_size > 10_000
