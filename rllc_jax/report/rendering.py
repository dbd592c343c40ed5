"""Renders blocks as HTML; the only place where text is escaped."""

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
    undefined=jinja2.StrictUndefined,  # A misspelled name raises.
    # Runs on every value, before it is escaped.
    finalize=_show_invisible,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  names: Any = environment.globals
  # Templates have no `type`; they choose the markup of a block by this name.
  names['kind_of'] = lambda block: type(block).__name__
  return environment


def _show_invisible(value: Any) -> Any:
  """Spells out invisible characters; passes rendered markup unchanged."""
  if isinstance(value, markupsafe.Markup):
    return value
  return visible.text(value)


def html(content: Sequence[blocks.Block]) -> str:
  """Renders blocks as a part of a page."""
  module: Any = _environment().get_template('template.html').module
  return str(module.all(content))


def page(**content: Any) -> str:
  """Renders a whole document, which loads nothing from elsewhere.

  Args:
    **content: `title`, `kicker`, `headline`, `opening` (blocks) and `sections`
      (with `name`, `title` and `blocks`).
  """
  return _environment().get_template('template.html').render(content)
