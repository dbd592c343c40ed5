"""Configs as JSON have the given values and run no code."""

import json
import pathlib
import sys

from absl import flags
from ml_collections import config_flags
import pytest

from experiments.runtime import json_config
from experiments.runtime import sections
from tests import binaries

ROOT = pathlib.Path(__file__).parents[2]


def write(path, content):
  text = content if isinstance(content, str) else json.dumps(content)
  path.write_text(text, encoding='utf-8')
  return path


def test_missing_settings_have_their_defaults(tmp_path):
  path = write(tmp_path / 'a.json', {})
  assert json_config.load(path) == sections.make_config()


def test_every_setting_can_be_written_as_json(tmp_path):
  content = {name: sections.defaults(name) for name in sections.SECTIONS}
  path = write(tmp_path / 'a.json', {'seed': 3, **content})
  assert json_config.load(path) == sections.make_config(3)


def test_values_have_the_types_of_their_settings(tmp_path):
  content = {
    'sampling': {'nbeta': 7, 'burn_in': None, 'sampler': 'sghmc(friction=0.5)'},
    'estimation': {'datasets': ['a', 'b']},
  }
  config = json_config.load(write(tmp_path / 'a.json', content))
  sampling = sections.read(config).sampling
  assert (sampling.nbeta, sampling.burn_in) == (7.0, None)
  assert type(sampling.nbeta) is float
  assert sampling.kernel.name == 'sghmc(friction=0.5)'
  assert sections.read(config).estimation.datasets == ('a', 'b')


@pytest.mark.parametrize(
  ('content', 'words'),
  [
    ('', 'expected settings as JSON'),
    ('{"seed": 1,}', 'expected settings as JSON'),
    ('{"seed": 1, "seed": 2}', "the name 'seed' twice"),
    ('{"seed": %s}' % ('1' * 5000), 'Exceeds the limit'),
    ('[' * 100_000, 'recursion'),
    (' ' * 2**21, 'at most 1048576 bytes'),
    ([], r'a config as a JSON object; got \[\]'),
    ({'sed': 1}, "entries among seed, corpus,.* got 'sed'"),
    ({'x\n\x1b': 1}, r"got 'x\\n\\x1b'"),
    ({'model': None}, 'the section model as a JSON object; got None'),
    ({'model': {'heads': 2}}, "among source,.* got 'heads'"),
    ({'seed': 0.5}, 'an integer of 64 bits for seed; got 0.5'),
    ({'seed': True}, 'for seed; got True'),
    ({'seed': 2**63}, 'for seed; got 9223'),
    ({'sampling': {'nbeta': '3'}}, "number for sampling.nbeta; got '3'"),
    ({'sampling': {'nbeta': float('nan')}}, 'finite number.* got nan'),
    ('{"sampling": {"nbeta": 1e999}}', 'finite number.* got inf'),
    ({'sampling': {'nbeta': 10**400}}, 'finite number'),
    ({'sampling': {'nbeta': None}}, 'finite number.* got None'),
    ({'sampling': {'burn_in': 'x'}}, 'for sampling.burn_in'),
    ({'sampling': {'share_batches': 1}}, 'true or false.* got 1'),
    ({'estimation': {'datasets': 'train'}}, "a list.* got 'train'"),
    ({'estimation': {'datasets': [1]}}, 'printable text.* got 1'),
    ({'estimation': {'name': 'a\u202eb'}}, 'printable text'),
    ({'estimation': {'name': '\ud800'}}, 'printable text'),
  ],
)
def test_an_invalid_config_is_an_error_of_one_line(tmp_path, content, words):
  path = write(tmp_path / 'a.json', content)
  with pytest.raises(ValueError, match=words) as error:
    json_config.load(path)
  message = str(error.value)
  assert message.startswith(f'{path}: ')
  assert message.isprintable() and len(message) < 1000


@pytest.mark.parametrize(
  'name', ['a.json', 'a.JSON', 'a.cfg', 'py', 'a.py.json']
)
def test_only_files_ending_in_py_are_run(tmp_path, name):
  harm = tmp_path / 'harm'
  path = write(tmp_path / name, f'open({str(harm)!r}, "w")')
  words = 'expected settings as JSON|which is a program'
  with pytest.raises(ValueError, match=words):
    json_config.Parser('config').parse(str(path))
  assert not harm.exists()


def test_an_absent_file_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='a.json'):
    json_config.load(tmp_path / 'a.json')


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # ml_collections 1.1
def test_a_python_file_is_still_run(tmp_path, monkeypatch):
  path = tmp_path / 'a.py'
  path.write_text(
    'from experiments.runtime import sections\n'
    'def get_config():\n'
    '  return sections.make_config(5)\n'
  )
  values = flags.FlagValues()
  holder = config_flags.DEFINE_config_file('config', flag_values=values)
  values['config'].parser = json_config.Parser('config')
  monkeypatch.setattr('sys.argv', ['x', f'--config={path}', '--config.seed=6'])
  values(sys.argv)
  assert holder.value.seed == 6


_BINARY = """
from experiments.runtime import commands
commands.start(lambda c, _: print(c.seed, c.sampling.nbeta, c.corpus.files))
"""


def run(*arguments):
  return binaries.run(_BINARY, *arguments)


def test_a_command_reads_json_and_flags(tmp_path):
  path = write(tmp_path / 'a.json', {'seed': 3, 'sampling': {'nbeta': 7}})
  done = run(
    f'--config={path}',
    f'--workdir={tmp_path}',
    '--config.sampling.nbeta=0.5',
    "--config.corpus.files=('a.txt',)",
  )
  assert (done.returncode, done.stdout) == (0, "3 0.5 ('a.txt',)\n")


def test_a_command_refuses_code_in_json_with_one_line(tmp_path):
  harm = f'open({str(tmp_path / "harm")!r}, "w")'
  path = write(tmp_path / 'a.json', f'{harm}\ndef get_config(): pass')
  done = run(f'--config={path}', f'--workdir={tmp_path}')
  assert done.returncode == 1
  assert done.stderr.count('\n') == 1
  assert f'{path}: expected settings as JSON' in done.stderr
  assert not (tmp_path / 'harm').exists()
