"""Points of the experiment on repeats differ in one thing each."""

import json

import pytest

from experiments.paper import repeats
from rllc_jax import checked_files
from rllc_jax.data import synthetic


@pytest.mark.parametrize('language', repeats.POINTS)
def test_languages_are_what_their_points_say(language):
  axis, value = repeats.POINTS[language]
  settings = synthetic.LANGUAGES[language]
  synthetic.check(settings)
  actual = {
    'share of repeats': settings.shares[-1],
    'words': settings.num_starts * settings.num_seconds,
  }
  assert actual[axis] == pytest.approx(value)
  # All else is as in the second language.
  plain = synthetic.LANGUAGES['planted2']
  varied = {'shares'} if axis == 'share of repeats' else set()
  varied |= {'num_starts', 'num_seconds'} if axis == 'words' else set()
  changed = {
    name
    for name in plain._fields
    if getattr(plain, name) != getattr(settings, name)
  }
  assert changed <= varied
  others = [x / settings.shares[0] for x in settings.shares[:-1]]
  assert others == pytest.approx(
    [x / plain.shares[0] for x in plain.shares[:-1]]
  )


def test_only_the_end_is_measured():
  config = repeats.config_of('planted2_words_32', 3)
  assert config.seed == 3
  assert config.training.checkpoints == config.estimation.checkpoints
  assert config.estimation.checkpoints == (config.training.num_steps,)
  assert config.corpus.sources == ('planted2_words_32',)


def test_effects_that_are_saved_are_pooled(tmp_path):
  """Seeds without induction heads have none, and are left out."""
  for language in repeats.POINTS:
    for seed, effect in enumerate((0.5, 0.7, None, 0.6)):
      path = tmp_path / f'{language}-{seed}' / 'effect.json'
      checked_files.write_json(path, {'effect': effect})
  rows = repeats.run(tmp_path)
  assert len(rows) == len(repeats.POINTS)
  for row in rows:
    assert row.value == pytest.approx(0.6) and '3 seeds' in row.note
  assert 'NaN' not in json.dumps([row.value for row in rows])
