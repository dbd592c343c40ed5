"""Section on the paper's claims, as measured in this run."""

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
  """Builds the section's blocks.

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


def _row(finding: Mapping[str, Any]) -> tuple[tables.Cell, ...]:
  # JSON has no NaN: a missing number is null.
  effect, error = (
    math.nan if finding[name] is None else finding[name]
    for name in ('effect', 'error')
  )
  texts = (
    finding['claim'],
    finding['statement'],
    'withdrawn' if finding.get('withdrawn') else _WORDS[finding['holds']],
    finding['note'],
    tables.with_error(effect, error),
    finding['unit'],
  )
  return tuple(map(tables.Cell, texts))
