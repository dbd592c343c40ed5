"""Figures of stores with missing results."""

import shutil

import pytest

from experiments.paper import drawing
from experiments.runtime import sections
from tests.experiments import report_test


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A store on one data set, and nothing else."""
  path = tmp_path_factory.mktemp('study')
  report_test.write_traces(path / 'rllc')
  return path


def draw(workdir, **settings):
  settings = {'text': 'text', **settings}
  return drawing.run(sections.make_config(seed=0, figure=settings), workdir)


@pytest.mark.parametrize(
  ('settings', 'message'),
  [
    (
      {'draws': 'heads', 'text': 'code'},
      "Estimates on 'code' .* those on text",
    ),
    ({'draws': 'heads'}, 'full must be a store'),
    ({'draws': 'sensitivity'}, 'sweep_SETTING_VALUE were expected'),
    ({'draws': 'stars'}, "must be one of .*got 'stars'"),
    ({'draws': 'heads', 'name': '../a'}, 'figure.name must be letters'),
  ],
)
def test_missing_results_are_an_error_of_one_line(workdir, settings, message):
  with pytest.raises(ValueError, match=message) as error:
    draw(workdir, **settings)
  assert '\n' not in str(error.value)


def test_a_figure_is_drawn_from_partial_results(workdir, tmp_path):
  study = shutil.copytree(workdir, tmp_path / 'study')
  shutil.copytree(workdir / 'rllc', study / 'full')
  assert draw(study, draws='heads', name='fig').exists()
