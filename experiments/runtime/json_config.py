"""Configs that are data: settings as JSON, for those that one did not write.

A config in Python is a program, and reading it runs it. `--config=FILE.json`
runs nothing, and neither does a file that ends in anything but `.py`:

  {"seed": 3, "sampling": {"num_chains": 8}, "corpus": {"files": ["a.txt"]}}

What it leaves out has its default. A list stands for a tuple, null for None.
"""

from collections.abc import Mapping
import json
import pathlib
import sys
import types
from typing import Any, get_args, get_origin

import ml_collections
from ml_collections import config_flags

from experiments.runtime import sections
from rllc_jax import visible

_MOST_BYTES = 2**20
_MOST_INTEGER = 2**63 - 1


class Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Reads a path that ends in .json as JSON, and runs one that ends in .py."""

  def parse(self, path: str) -> Any:
    """Returns the config, locked.

    Raises:
      ValueError: if the path ends in something else.
    """
    kind = pathlib.Path(path.split(':')[0]).suffix.lower()
    if kind not in ('.json', '.py'):
      raise ValueError(
        '--config must be FILE.json, or FILE.py, which is a program and is '
        f'run; got {path}'
      )
    if kind == '.py':
      return super().parse(path)
    return load(pathlib.Path(path)).lock()


def load(path: pathlib.Path) -> ml_collections.ConfigDict:
  """Reads a config.

  Args:
    path: of a JSON object: `seed`, and {setting: value} by section.

  Raises:
    OSError: it cannot be opened.
    ValueError: it is not JSON, or has a section, a setting or a type of value
      that a config has not.
  """
  try:
    content = _object(_parsed(path), ('seed', *sections.SECTIONS), 'a config')
    seed = _value(content.pop('seed', 0), int, 'seed')
    changes = {name: _section(name, x) for name, x in content.items()}
    return sections.make_config(seed, **changes)
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: {visible.short(error, 400)}') from None


def _parsed(path: pathlib.Path) -> Any:
  with path.open('rb') as file:
    text = file.read(_MOST_BYTES + 1)
  if len(text) > _MOST_BYTES:
    raise ValueError(f'expected at most {_MOST_BYTES} bytes of settings')
  try:
    return json.loads(
      text.decode('utf-8'), object_pairs_hook=_unique, parse_constant=float
    )
  except ValueError as error:
    raise ValueError(f'expected settings as JSON; got {error}') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """An object; of a name that comes twice one value would be lost."""
  found = dict(pairs)
  if len(found) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'the name {twice!r} twice in an object')
  return found


def _section(name: str, content: Any) -> dict[str, Any]:
  hints = sections.hints(name)
  given = _object(content, (*sections.defaults(name),), f'the section {name}')
  return {x: _value(given[x], hints[x], f'{name}.{x}') for x in given}


def _object(content: Any, names: tuple[str, ...], what: str) -> dict[str, Any]:
  if not isinstance(content, dict):
    raise ValueError(f'expected {what} as a JSON object; got {content!r:.40}')
  if strange := [name for name in content if name not in names]:
    raise ValueError(
      f'expected {what} with entries among {", ".join(names)}, because no '
      f'other is read; got {strange[0]!r:.80}'
    )
  return content


def _value(value: Any, hint: Any, name: str) -> Any:
  """A value as the type of its setting.

  Raises:
    ValueError: it has another type.
  """
  if isinstance(hint, types.UnionType):  # X | None.
    return None if value is None else _value(value, get_args(hint)[0], name)
  if get_origin(hint) is tuple and isinstance(value, list):
    return tuple(_value(x, get_args(hint)[0], name) for x in value)
  if hint in _FITS and _FITS[hint](value):
    return hint(value)
  wanted = 'a list' if get_origin(hint) is tuple else _WORDS[hint]
  raise ValueError(f'expected {wanted} for {name}; got {value!r:.40}')


_WORDS: Mapping[Any, str] = {
  bool: 'true or false',
  int: 'an integer of 64 bits',
  float: 'a finite number',
  str: 'printable text',
}
_FITS: Mapping[Any, Any] = {
  bool: lambda x: isinstance(x, bool),
  int: lambda x: type(x) is int and abs(x) <= _MOST_INTEGER,
  float: lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max,
  str: lambda x: isinstance(x, str) and x.isprintable(),
}
