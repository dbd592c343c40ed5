"""Figures of the paper from a study that is made by hand."""

import pathlib
import runpy

import numpy as np
import pytest
import xarray as xr

from experiments.paper import claim_runs
from experiments.paper import claims
from experiments.paper import drawing
from experiments.paper import evidence
from experiments.paper import saved
from experiments.paper import study
from experiments.runtime import sections
from rllc_jax import checked_files
from rllc_jax.plots import style
from tests.paper import claims_test

CONFIGS = sorted(
  path
  for path in (
    pathlib.Path(drawing.__file__).parents[1] / 'configs' / 'paper'
  ).glob('*.py')
  if path.stem not in ('__init__', 'full_size')
)


def estimates(name='rllc'):
  """Estimates by hand: heads grow apart as in the planted claims."""
  shape = (4, 1, 1) if name == 'full' else (4, 2, 16)
  values = claims_test.levels() if name == 'rllc' else np.ones(shape)
  rng = np.random.default_rng(len(name))
  values = values + 0.3 * rng.normal(size=values.shape)
  made = claims_test.estimates(values) if values.shape[-1] == 16 else None
  if made is None:
    dims = 'checkpoint', 'dataset', 'refinement'
    labels = claims_test.MEASURED, ['text'], ['all']
    made = xr.Dataset(
      {x: (dims, values) for x in ('llc', 'standard_error')},
      dict(zip(dims, labels, strict=True)),
    )
  reach = 0.4 * xr.ones_like(made.llc)
  made = made.assign(
    low=made.llc - reach, high=made.llc + reach, num_failed=0 * made.llc
  )
  setting, value = 'nbeta', 30.0
  if name.startswith('sweep'):
    setting, value = name.removeprefix('sweep_').rsplit('_', 1)
    made = made.isel(checkpoint=[-1], dataset=[0])
  attributes = {'nbeta': 30.0, 'localization': 200.0, 'step_size': 4e-3}
  return made.assign_attrs(attributes | {setting: float(value)})


def readings():
  """What heads do, with scores of the model and tokens in context."""
  data = claims_test.readings()
  count = data.sizes['checkpoint']
  of_model = {
    'in_context': -np.linspace(0, 0.3, count),
    'bigram_floor': np.full(count, 3.0),
    'ngram_2': np.linspace(0.8, 1.6, count),
  }
  for name, values in of_model.items():
    data[name] = 'checkpoint', values
    data[f'{name}_error'] = 'checkpoint', np.full(count, 0.02)
  data['previous_token_text'] = data.previous_token
  data['fisher_token_trace'] = data.fisher_trace
  data['hessian_error'] = 0.1 + 0 * data.hessian_trace
  dims = 'table_checkpoint', 'layer', 'head', 'rank'
  shape = 2, 2, 8, 2
  data['affected_effect'] = dims, np.ones(shape)
  text = np.full((*shape, 5), 'word', object)
  data['affected_text'] = (*dims, 'place'), text
  data['affected_attention'] = (*dims, 'place'), np.full(text.shape, 0.4)
  return data.assign_coords(table_checkpoint=[100, 1000])


class Study(saved.Saved):
  """A study without files."""

  def estimates(self, name='rllc'):
    return estimates(name)

  def readings(self):
    return readings()

  def classes(self):
    return claims_test.head_types.of_readings(readings())


def write_seeds(directory):
  """The small files of four seeds of two languages."""
  rng = np.random.default_rng(0)
  kinds = claims_test.head_types.of_readings(claims_test.readings())
  for language in claim_runs.LANGUAGES:
    for seed in range(4):
      findings = [
        claim_runs._to_json(
          evidence.Finding(name, x.least * (1 + rng.normal()), np.nan, '')
        )
        for name, x in claims.CLAIMS.items()
      ]
      path = directory / f'{language}-{seed}' / 'claims.json'
      record = {'language': language, 'seed': seed, 'classes': kinds}
      checked_files.write_json(path, record | {'findings': findings})
      claim_runs._write_curves(path.parent / 'curves.csv', estimates())


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  path = tmp_path_factory.mktemp('study')
  for setting in study.SWEPT:
    (path / f'sweep_{setting}_1').mkdir()
    (path / f'sweep_{setting}_2').mkdir()
  (path / 'reference').mkdir()
  write_seeds(path)
  return path


@pytest.mark.sampled(4)
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_figure_is_drawn_within_its_page(path, workdir, monkeypatch):
  """Names and captions stay inside, and every figure says what to see."""
  drawn = []
  render = style.image
  monkeypatch.setattr(saved, 'Saved', Study)
  monkeypatch.setattr(
    style, 'image', lambda new, kind: drawn.append(new) or render(new, kind)
  )
  config = runpy.run_path(str(path))['get_config']()
  config.figure.text = 'text'
  config.figure.datasets = ('twice',) if config.figure.datasets else ()
  image = drawing.run(config, workdir)
  assert image.name == f'{path.stem}.png' and image.stat().st_size > 10_000
  assert len(drawn[0].get_suptitle()) > 30
  drawn[0].draw_without_rendering()  # The picture had more dots an inch.
  box = drawn[0]._suptitle.get_window_extent()
  assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.width + 1


def test_every_figure_has_a_config():
  draws = {
    runpy.run_path(str(path))['get_config']().figure.draws for path in CONFIGS
  }
  assert draws == set(drawing.DRAWN)


def test_an_unknown_figure_is_named(tmp_path):
  settings = sections.make_config(figure=dict(draws='fig_9'))
  with pytest.raises(ValueError, match="head_types, heads.*got 'fig_9'"):
    drawing.run(settings, tmp_path)
  settings = sections.make_config(figure=dict(draws='heads'))
  with pytest.raises(ValueError, match='Run experiments.study'):
    drawing.run(settings, tmp_path)
