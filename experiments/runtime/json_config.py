"""Configs as JSON data, for settings from a source that one does not trust.

A config in Python is a program, and reading it runs it. `--config=FILE.json`
runs nothing, and neither does a file that ends in anything but `.py`:

  {"seed": 3, "sampling": {"num_chains": 8}, "corpus": {"files": ["a.txt"]}}

Missing settings have their defaults. A list stands for a tuple, null for None.
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

_MAX_BYTES = 2**20  # Far above any config; bounds what a wrong file can load.
_MAX_INTEGER = 2**63 - 1


class Parser(config_flags.config_flags.ConfigFileFlagParser):
  """Reads a path that ends in .json as JSON, and runs one that ends in .py."""

  def parse(self, path: str) -> Any:
    """Returns a locked config.

    Raises:
      ValueError: if the path ends in something else.
    """
    # A Python config may be followed by an argument, FILE.py:ARGUMENT.
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
      that a config does not have.
  """
  try:
    content = _object(_parsed(path), ('seed', *sections.SECTIONS), 'a config')
    seed = _value(content.pop('seed', 0), int, 'seed')
    changes = {name: _section(name, x) for name, x in content.items()}
    return sections.make_config(seed, **changes)
  except (ValueError, RecursionError) as error:  # Deeply nested lists recurse.
    raise ValueError(f'{path}: {visible.short(error, 400)}') from None


def _parsed(path: pathlib.Path) -> Any:
  with path.open('rb') as file:
    text = file.read(_MAX_BYTES + 1)
  if len(text) > _MAX_BYTES:
    raise ValueError(f'expected at most {_MAX_BYTES} bytes of settings')
  try:
    return json.loads(
      text.decode('utf-8'),
      object_pairs_hook=_without_duplicates,
      parse_constant=float,
    )
  except ValueError as error:
    raise ValueError(f'expected settings as JSON; got {error}') from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Raises if an object repeats a name: `json` would drop a value."""
  entries = dict(pairs)
  if len(entries) < len(pairs):
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f'the name {twice!r} twice in an object')
  return entries


def _section(name: str, content: Any) -> dict[str, Any]:
  hints = sections.hints(name)
  entries = _object(content, (*sections.defaults(name),), f'the section {name}')
  return {x: _value(entries[x], hints[x], f'{name}.{x}') for x in entries}


def _object(content: Any, names: tuple[str, ...], label: str) -> dict[str, Any]:
  if not isinstance(content, dict):
    raise ValueError(f'expected {label} as a JSON object; got {content!r:.40}')
  if unknown := [name for name in content if name not in names]:
    raise ValueError(
      f'expected {label} with entries among {", ".join(names)}, because no '
      f'other is read; got {unknown[0]!r:.80}'
    )
  return content


def _value(value: Any, hint: Any, name: str) -> Any:
  """Converts a value to the type of its setting.

  Raises:
    ValueError: it has another type.
  """
  if isinstance(hint, types.UnionType):  # X | None.
    return None if value is None else _value(value, get_args(hint)[0], name)
  if get_origin(hint) is tuple and isinstance(value, list):
    return tuple(_value(x, get_args(hint)[0], name) for x in value)
  if hint in _TYPE_CHECKS and _TYPE_CHECKS[hint](value):
    return hint(value)
  expected = 'a list' if get_origin(hint) is tuple else _TYPE_NAMES[hint]
  raise ValueError(f'expected {expected} for {name}; got {value!r:.40}')


_TYPE_NAMES: Mapping[Any, str] = {
  bool: 'true or false',
  int: 'an integer of 64 bits',
  float: 'a finite number',
  str: 'printable text',
}
_TYPE_CHECKS: Mapping[Any, Any] = {
  bool: lambda x: isinstance(x, bool),
  int: lambda x: type(x) is int and abs(x) <= _MAX_INTEGER,
  float: lambda x: type(x) in (int, float) and abs(x) <= sys.float_info.max,
  str: lambda x: isinstance(x, str) and x.isprintable(),
}
