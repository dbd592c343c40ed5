"""What this run says of the paper's claims."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from rllc_jax.report import blocks
from rllc_jax.report import tables

_WORDS = {True: 'for it', False: 'against it', None: 'cannot be told'}
_HEADER = (
  'claim',
  'of Wang et al. (2410.02984)',
  'in this run',
  'measured on',
  'statistic',
  'unit',
)
_METHOD = (
  'Statistics and nulls are defined in experiments.paper.claims, which says '
  'what was settled before any run and what was not: each is positive if its '
  'claim is true, and speaks for or against it beyond two standard errors. A '
  'claim holds if every seed speaks for it; experiments.claims puts the seeds '
  'together.'
)


def claims(findings: Sequence[Mapping[str, Any]]) -> list[blocks.Block]:
  """The section's parts.

  Args:
    findings: entries of `claims.json`; [] if there is none. One with
      'withdrawn' has no verdict, and its note gives the reason.
  """
  if not findings:
    words = 'Not tested in this run: experiments.claims makes runs that are.'
    return [blocks.Words(words)]
  return [
    (tables.Table(_HEADER, [*map(_row, findings)], num_words=4)),
    blocks.Words(_METHOD),
  ]


def _row(found: Mapping[str, Any]) -> tuple[tables.Cell, ...]:
  effect, error = (
    math.nan if found[name] is None else found[name]
    for name in ('effect', 'error')
  )
  texts = (
    found['claim'],
    found['statement'],
    'withdrawn' if found.get('withdrawn') else _WORDS[found['holds']],
    found['note'],
    tables.with_error(effect, error),
    found['unit'],
  )
  return tuple(map(tables.Cell, texts))
