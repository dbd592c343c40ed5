"""A small study: stores, findings, figures, report and verdicts."""

import json
import pathlib

import numpy as np
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
  assert [x['claim'] for x in record['findings']] == list(
    definitions.STATEMENTS
  )
  assert 'cannot be told' in (workdir / 'report.html').read_text()


@pytest.mark.long
def test_verdicts_are_read_from_what_is_kept(studies, tmp_path):
  rows = claims.verdicts(studies)
  assert len(rows) == len(definitions.STATEMENTS)
  # The estimator met every known answer, but one seed is no verdict.
  assert rows[-1].value == np.inf
  for row in rows:
    assert row.holds is None and 'one seed only' in row.note
  with pytest.raises(ValueError, match='--language'):
    claims.verdicts(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize('path', FIGURES, ids=lambda path: path.stem)
def test_every_figure_of_the_paper_is_drawn(path, studies):
  namespace = {}
  exec(path.read_text(), namespace)  # As ml_collections does.
  settings = namespace['get_config']()
  image = drawing.run(settings, studies / 'planted-3')
  assert image.name == f'{path.stem}.png' and image.stat().st_size > 10_000


def test_an_unknown_figure_is_named(tmp_path):
  settings = sections.make_config(figure=dict(draws='fig_9'))
  with pytest.raises(ValueError, match="head_types, heads.*got 'fig_9'"):
    drawing.run(settings, tmp_path)
  settings = sections.make_config(figure=dict(draws='heads'))
  with pytest.raises(ValueError, match='Run experiments.study'):
    drawing.run(settings, tmp_path)
