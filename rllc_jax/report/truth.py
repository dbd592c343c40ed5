"""Section on known answers, and on the coverage of intervals.

Separate commands measure both, on other problems than the reported run. They
test its sampler and its errors.
"""

from collections.abc import Sequence

from rllc_jax.report import blocks
from rllc_jax.report import figures
from rllc_jax.report import tables
from rllc_jax.report.inputs import Record

_MAKE = 'python -m experiments.{name} --workdir=DIR'
_ABSENT = {
  'known_answers': 'Known answers were not sampled beside this run.',
  'coverage': 'Coverage was not measured beside this run.',
}


def truth(
  known_answers: Sequence[Record],
  coverage: Sequence[Record],
  images: figures.Images,
) -> list[blocks.Block]:
  """Builds two parts, each with table and figure, or the command for them.

  Args:
    known_answers: entries of `known_answers.json`; [] if there is none.
    coverage: entries of `coverage.json`; [] if there is none.
    images: of both.
  """
  return [
    blocks.Heading('Estimates of what is known exactly'),
    *_known_answers(known_answers),
    *images.at('known answers'),
    blocks.Heading('How often intervals hold the truth'),
    *_coverage(coverage),
    *images.at('coverage'),
  ]


def known_answers_table(records: Sequence[Record]) -> tables.Table:
  """One row per problem; wrong estimates are marked."""
  rows = []
  for record in records:
    holds, exact = record['holds'], record['exact']
    words = {True: 'yes', False: 'no', None: 'not judged'}[holds]
    error = record['standard_error']
    apart = tables.MISSING
    # Some problems have no exact value: reported, not judged.
    if exact is not None and error:
      apart = f'{(record["llc"] - exact) / error:+.1f}'
    rows.append(
      (
        tables.Cell(record['problem']),
        tables.Cell(_number(record['learning_coefficient'])),
        tables.Cell(_number(exact)),
        tables.Cell(tables.with_error(record['llc'], error), holds is False),
        tables.Cell(apart),
        tables.Cell(f'{record["seconds"]:.1f}'),
        tables.Cell(words, holds is False),
      )
    )
  header = ('problem', 'λ', 'exact at these settings', 'estimate')
  return tables.Table((*header, 'off, in errors', 'seconds', 'holds'), rows)


def coverage_table(records: Sequence[Record]) -> tables.Table:
  """One row per problem, number of draws and baseline.

  A share is marked if it is short of 95 % by more than chance explains: its
  95 % binomial interval ends below.
  """
  rows = []
  for record in records:
    shares = [_share(record[name]) for name in ('ours', 'naive')]
    rows.append(
      (
        tables.Cell(record['problem']),
        tables.Cell(record['baseline']),
        tables.Cell(f'{record["num_draws"]:,}'),
        *shares,
        tables.Cell(f'{record["ours"]["half_width"]:.2g}'),
        tables.Cell(f'{record["naive"]["half_width"]:.2g}'),
        tables.Cell(_expected(record)),
      )
    )
  header = ('problem', 'baseline', 'draws', 'covered', 'covered, naive')
  header = (*header, 'half-width', 'half-width, naive', 'true value')
  return tables.Table(header, rows, num_words=2)


def _known_answers(records: Sequence[Record]) -> list[blocks.Block]:
  if not records:
    return [_absent('known_answers')]
  judged = [x for x in records if x['holds'] is not None]
  wrong = [x['problem'] for x in judged if not x['holds']]
  verdict = f'All {len(judged)} problems that are judged come out right.'
  if wrong:
    verdict = (
      f'{len(wrong)} of {len(judged)} problems that are judged do not come out '
      f'right: {"; ".join(wrong)}.'
    )
  meaning = (
    'Losses whose estimate is known exactly at finite temperature, with the '
    "localization and wherever possible the step size's bias included; 'exact' "
    'is that value. λ is the learning coefficient, which is approached as nβ '
    'grows and not equal to it. A problem without an exact value is reported '
    'and not judged.'
  )
  parts: list[blocks.Block] = [
    blocks.Words(f'{verdict} {meaning}'),
    (known_answers_table(records)),
  ]
  if notes := [f'{x["problem"]}: {x["note"]}' for x in records if x['note']]:
    parts.append(blocks.Folded('Notes on problems', blocks.Bullets(notes)))
  return parts


def _coverage(records: Sequence[Record]) -> list[blocks.Block]:
  if not records:
    return [_absent('coverage')]
  shares = [100 * x['ours']['coverage'] for x in records]
  num_runs = len(records[0]['ours']['llc'])
  meaning = (
    f'Of {num_runs} runs of a problem, so many have a 95 % interval that holds '
    f'the true value: {min(shares):.1f} to {max(shares):.1f} % with the '
    'intervals of this report. Naive ones, from the spread between chains, '
    'take chains for independent, which they are not where they share '
    'minibatches. Marked: short of 95 % by more than chance explains.'
  )
  parts: list[blocks.Block] = [blocks.Words(meaning), (coverage_table(records))]
  return parts


def _share(method: Record) -> tables.Cell:
  low, middle, high = (
    method[name] for name in ('coverage_low', 'coverage', 'coverage_high')
  )
  words = f'{100 * middle:.1f} % ({100 * low:.1f} to {100 * high:.1f})'
  return tables.Cell(words, high < 0.95)


def _expected(record: Record) -> str:
  """The true value, with the error of the reference it is from, if any."""
  if error := record['expected_error']:
    return tables.with_error(record['expected'], error)
  return _number(record['expected'])


def _number(value: float | None) -> str:
  return tables.MISSING if value is None else f'{value:.5g}'


def _absent(name: str) -> blocks.Words:
  words = f'{_ABSENT[name]} This command does, with DIR that of the run: '
  command = _MAKE.format(name=name)
  return blocks.Words(f'{words}{command}', 'note')
