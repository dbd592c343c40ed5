"""Damage to a config, the program with a command's settings."""

import functools
import json
import shutil
import sys

from absl import flags
from ml_collections import config_flags
import pytest

from experiments import train
from experiments.runtime import commands
from experiments.runtime import json_config
from tests.damage import damages
from tests.damage import tiny

# Of how ml_collections loads a program.
pytestmark = pytest.mark.filterwarnings('ignore::DeprecationWarning')


@pytest.fixture
def workdir(trained, tmp_path):
  return shutil.copytree(trained, tmp_path / 'run')


@pytest.fixture
def run(workdir, monkeypatch, capsys):
  """`run(path)` trains as the command does with a config."""
  monkeypatch.setattr(sys, 'dont_write_bytecode', True)

  def read(path):
    argv, values = ['train', f'--config={path}'], flags.FlagValues()
    config = config_flags.DEFINE_config_file('config', flag_values=values)
    values['config'].parser = json_config.Parser('config')
    with monkeypatch.context() as patch:
      patch.setattr(sys, 'argv', argv)
      patch.setattr(flags, 'FLAGS', values)
      patch.setattr(commands, 'CONFIG', config)
      patch.delitem(sys.modules, 'config_config', raising=False)
      try:
        commands._parse_flags(argv)
      except SystemExit:
        error = capsys.readouterr().err.removesuffix('\n')
        raise ValueError(error) from None
      return config.value

  return lambda path: json.dumps(
    train.run(read(path), workdir).to_dict(), sort_keys=True
  )


@pytest.mark.sampled(4)
@pytest.mark.parametrize('kind', damages.KINDS)
@pytest.mark.parametrize('name', tiny.CONFIGS)
def test_damage_to_a_config_is_named(workdir, run, name, kind):
  path, attempt = workdir / name, functools.partial(run, workdir / name)
  other = tiny.CONFIGS[name].replace('3', '4').encode()
  # With a bit or a number changed it may be of another run, as which the one
  # that is here does not go on.
  named = str(workdir if kind in ('flipped', 'another') else path)
  messages = damages.check(
    workdir, path, kind, attempt, attempt(), other=other, named=named
  )
  assert all(messages) or kind == 'flipped'


def test_a_misspelled_section_is_refused(workdir, run):
  path = workdir / 'other.py'
  path.write_text(tiny.PROGRAM.replace('training=', 'trainimg='))
  with pytest.raises(ValueError, match='got trainimg'):
    run(path)
