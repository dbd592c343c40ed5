"""Every setting is in every config, and can be changed by a flag."""

import importlib
import pathlib
import re
import shlex

from absl import flags
from ml_collections import config_flags
import pytest

from experiments.runtime import sections

ROOT = pathlib.Path(__file__).parents[2]
PRESETS = ('demo', 'smoke', 'paper/full_size')


def parsed(monkeypatch, *arguments):
  """The config of a command line."""
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file(
    'config', lock_config=True, flag_values=values
  )
  # ml_collections looks for overrides there, whatever is parsed.
  monkeypatch.setattr('sys.argv', ['binary', *arguments])
  values(['binary', *arguments])
  return holder.value


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # ml_collections 1.1
@pytest.mark.parametrize('preset', PRESETS)
def test_any_setting_is_changed_by_a_flag(preset, monkeypatch):
  path = ROOT / 'experiments' / 'configs' / f'{preset}.py'
  examples = {int: '7', float: '0.5', bool: 'False', str: 'x', tuple: "('a',)"}
  sensible = {  # Others are refused.
    'step_size': '0.002',
    'num_draws': '30',
    'max_draws': '30',
    'target_error': 'relative(0.5)',
    'sampler': 'sghmc(friction=0.5)',
    'matmul_precision': 'bfloat16',
  }
  for section in sections.SECTIONS:
    for name, default in sections.defaults(section).items():
      example = examples[int if default is None else type(default)]
      if section == 'sampling':
        example = sensible.get(name, example)
      flag = f'--config.{section}.{name}={example}'
      other = {'num_draws': 'target_error=', 'target_error': 'num_draws=0'}
      flags_given = [flag]
      if section == 'sampling' and name in other:
        flags_given.append(f'--config.sampling.{other[name]}')
      config = parsed(monkeypatch, f'--config={path}', *flags_given)
      value = getattr(getattr(sections.read(config), section), name)
      assert str(getattr(value, 'name', value)) == example, flag


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # ml_collections 1.1
def test_the_flags_of_the_readme_are_flags(monkeypatch):
  text = (ROOT / 'README.md').read_text().replace('\\\n', ' ')
  command = '.venv/bin/python -m '
  lines = [x for x in text.splitlines() if x.startswith(command)]
  commands = [shlex.split(line) for line in lines]
  assert len(commands) >= 3
  for _, _, module, *rest in commands:
    assert importlib.util.find_spec(module)
    config = [x for x in rest if x.startswith('--config')]
    config[0] = '--config=' + str(ROOT / config[0].split('=')[1])
    parsed(monkeypatch, *config)


def test_help_describes_every_setting():
  text = sections.description()
  for section in sections.SECTIONS:
    for name, default in sections.defaults(section).items():
      assert re.search(rf'{name} = {re.escape(repr(default))}: \w', text), name


def test_an_unknown_setting_is_refused():
  config = sections.make_config()
  with config.unlocked():
    config.estimation.nbta = 3
  with pytest.raises(ValueError, match='datasets.*got nbta'):
    sections.read(config)


def test_error_names_the_section_of_a_misplaced_setting():
  config = sections.make_config()
  with config.unlocked():
    config.estimation.num_draws = 30
  with pytest.raises(ValueError, match='got num_draws. .* in sampling'):
    sections.read(config)
