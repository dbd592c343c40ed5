"""Section on the paper's claims, as measured in this run."""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from rllc_jax.report import blocks
from rllc_jax.report import tables

_HEADER = (
  'claim',
  'of Wang et al. (2410.02984)',
  'measured on',
  'statistic',
  'unit',
)
_METHOD = (
  'A statistic is positive if its claim is true; experiments.paper.claims has '
  'definitions. One run decides nothing, because runs of other seeds differ by '
  'more than the errors within one: experiments.claims puts seeds together.'
)


def claims(findings: Sequence[Mapping[str, Any]]) -> list[blocks.Block]:
  """Builds the section's blocks.

  Args:
    findings: entries of `claims.json`; [] if there is none.
  """
  if not findings:
    words = 'Not tested in this run: experiments.claims makes runs that are.'
    return [blocks.Words(words)]
  return [
    (tables.Table(_HEADER, [*map(_row, findings)], num_words=3)),
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
    finding['note'],
    tables.with_error(effect, error),
    finding['unit'],
  )
  return tuple(map(tables.Cell, texts))
