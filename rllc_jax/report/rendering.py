"""Blocks as HTML. All text is escaped here, and nowhere else."""

from collections.abc import Sequence
import functools
from typing import Any

import jinja2
import markupsafe

from rllc_jax import visible
from rllc_jax.report import blocks


@functools.cache
def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('rllc_jax.report', ''),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_seen,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  names: Any = environment.globals
  names['kind_of'] = lambda block: type(block).__name__
  return environment


def _seen(value: Any) -> Any:
  """Text with every character of it seen; markup of our own as it is."""
  if isinstance(value, markupsafe.Markup):
    return value
  return visible.text(value)


def html(content: Sequence[blocks.Block]) -> str:
  """A part of a page."""
  module: Any = _environment().get_template('template.html').module
  return str(module.all(content))


def page(**content: Any) -> str:
  """A whole document; it asks for nothing from anywhere.

  Args:
    **content: `title`, `kicker`, `headline`, `opening` (blocks) and `sections`
      (with `name`, `title` and `blocks`).
  """
  return _environment().get_template('template.html').render(content)
