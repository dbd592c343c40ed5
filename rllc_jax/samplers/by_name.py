"""Samplers by name or call, as written in configs and on command lines.

The names are those of the public surface, `rllc_jax/__init__.pyi`: every
sampler that is listed there can be chosen.
"""

import ast
import importlib
import inspect

import rllc_jax
from rllc_jax import types

_PACKAGE = 'rllc_jax.samplers.'


def names() -> tuple[str, ...]:
  """Lists the names of all samplers.

  Examples:
    >>> 'sgld' in names()
    True
  """
  homes = rllc_jax.HOMES.items()
  return tuple(name for name, home in homes if home.startswith(_PACKAGE))


def sampler(text: str) -> types.Sampler:
  """Makes the sampler of a text: a name, or a call with keywords.

  Args:
    text: 'sgld', or 'sghmc(friction=0.5)'; values are numbers, strings, None,
      True or False. It is parsed, never evaluated.

  Raises:
    ValueError: if there is no such sampler or it does not take such arguments.

  Examples:
    >>> sampler('sghmc(friction=0.5)').name
    'sghmc(friction=0.5)'
  """
  name, arguments = _parse(text)
  # Imported by name: a sampler needs no second list of names here.
  factory = getattr(importlib.import_module(rllc_jax.HOMES[name]), name)
  try:
    return factory(**arguments)
  except TypeError as error:
    raise ValueError(
      f'sampler must be a call that fits {name}{inspect.signature(factory)}; '
      f'got {text!r}.'
    ) from error


def _parse(text: str) -> tuple[str, dict[str, object]]:
  try:
    call = ast.parse(text, mode='eval').body
    arguments = {}
    if isinstance(call, ast.Call) and not call.args:
      # Literals alone: a config must not run code.
      arguments = {str(x.arg): ast.literal_eval(x.value) for x in call.keywords}
      call = call.func
    name = ast.unparse(call)
  except (SyntaxError, ValueError):  # The message below lists the names.
    name, arguments = text, {}
  if name not in names():
    raise ValueError(
      f'sampler must be one of {", ".join(names())}, alone or with arguments '
      f'by name, as in "sghmc(friction=0.5)"; got {text!r}.'
    )
  return name, arguments
