"""Refined local learning coefficients of neural networks, in JAX.

The public surface is listed once, in `__init__.pyi`, where tools for types read
it, and is loaded on first use: `import rllc_jax` is fast, and no estimate needs
a package that it does not use.
"""

import ast
import importlib
import pathlib


def _listed() -> dict[str, str]:
  """The module of each public name."""
  stub = pathlib.Path(__file__).with_suffix('.pyi').read_text()
  return {
    alias.name: str(node.module)
    for node in ast.parse(stub).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }


HOMES = _listed()
__all__ = sorted(HOMES)


def __getattr__(name):
  if name not in HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(HOMES[name]), name)


def __dir__():
  return __all__
