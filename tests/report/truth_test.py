"""The page's section on known answers and coverage."""

from rllc_jax.report import figures
from rllc_jax.report import rendering
from rllc_jax.report import truth

ANSWER = {
  'problem': 'x⁴ < y',
  'family': 'bowl',
  'restricted': False,
  'learning_coefficient': 0.25,
  'multiplicity': 1,
  'exact': 0.5,
  'llc': 0.52,
  'standard_error': 0.01,
  'seconds': 3.21,
  'holds': True,
  'note': '',
}
METHOD = {
  'coverage': 0.945,
  'coverage_low': 0.918,
  'coverage_high': 0.963,
  'half_width': 0.1234,
  'llc': [1.0] * 400,
}
COVERAGE = {
  'problem': 'bowl',
  'baseline': 'paired',
  'num_draws': 1000,
  'expected': 5.0,
  'expected_error': 0.0,
  'ours': METHOD,
  'naive': {**METHOD, 'coverage': 0.7, 'coverage_high': 0.75},
}


def page_of(known_answers, coverage, first, second):
  svgs = {'known_answers': first, 'coverage': second}
  svgs = {name: svg for name, svg in svgs.items() if svg}
  images = figures.Images(None, svgs)
  return rendering.html(truth.truth(known_answers, coverage, images))


def texts(table):
  return [[cell.text for cell in row] for row in table.rows]


def marked(table):
  return [
    name
    for row in table.rows
    for name, cell in zip(table.header, row, strict=True)
    if cell.marked
  ]


def test_every_problem_is_a_row():
  table = truth.known_answers_table([ANSWER])
  row = ['x⁴ < y', '0.25', '0.5', '0.520 ± 0.010', '+2.0', '3.2', 'yes']
  assert texts(table) == [row] and not marked(table)


def test_wrong_estimates_are_marked_and_named():
  wrong = {**ANSWER, 'holds': False}
  table = truth.known_answers_table([wrong])
  assert marked(table) == ['estimate', 'holds']
  html = page_of([ANSWER, wrong], [], None, None)
  assert '1 of 2 problems' in html and 'right: x⁴ &lt; y.' in html


def test_without_an_exact_value_nothing_is_judged():
  unknown = {**ANSWER, 'exact': None, 'holds': None, 'note': 'm = 2'}
  ((*row, verdict),) = texts(truth.known_answers_table([unknown]))
  assert row[2] == row[4] == '–' and verdict == 'not judged'
  html = page_of([ANSWER, unknown], [], b'<svg/>', None)
  assert 'All 1 problems that are judged' in html
  assert 'x⁴ &lt; y: m = 2' in html and html.count('<img') == 1


def test_coverage_short_of_its_level_is_marked():
  table = truth.coverage_table([COVERAGE])
  (row,) = texts(table)
  assert row == [
    *('bowl', 'paired', '1,000'),
    '94.5 % (91.8 to 96.3)',
    '70.0 % (91.8 to 75.0)',
    *('0.12', '0.12', '5'),
  ]
  assert marked(table) == ['covered, naive']
  reference = {**COVERAGE, 'expected_error': 0.02}
  assert texts(truth.coverage_table([reference]))[0][-1] == '5.000 ± 0.020'
  html = page_of([], [COVERAGE], None, b'<svg/>')
  assert 'Of 400 runs' in html and '94.5 to 94.5 %' in html
