"""Every parser withstands a few hundred bad files, and a bad one is caught."""

import pickle

import pytest

from experiments.checks import fuzz
from experiments.checks import fuzz_campaign
from experiments.checks import fuzz_inputs
from experiments.checks import fuzz_parsers

_INPUTS = 320


@pytest.mark.parametrize('name', fuzz_parsers.PARSERS)
def test_no_input_does_harm(name, tmp_path):
  count = round(_INPUTS * fuzz_parsers.PARSERS[name].share)
  found = fuzz_campaign.feed(name, range(count), 1, tmp_path)
  assert not found.failures
  assert found.results and found.errors
  assert found.inputs == count and found.slowest < 5


def test_an_input_is_known_by_its_number(tmp_path):
  path = tmp_path / 'input' / 'config.json'
  given = []
  for numbers in (range(10), [9]):
    fuzz_campaign.feed('config', numbers, 3, tmp_path)
    given.append(path.read_bytes())
  assert given[0] == given[1]
  fuzz_campaign.feed('config', [9], 4, tmp_path)
  assert path.read_bytes() != given[0]


class Panic(BaseException):
  """As Rust raises it: no exception of Python."""


def panics(directory):
  raise Panic('at normalizers/mod.rs')


def unpickles(directory):
  pickle.loads(pickle.dumps(fuzz_campaign.Tally()))


def opens_the_bait(directory):
  (directory / fuzz_inputs.BAIT).read_text()


def refuses(message):
  def read(directory):
    raise ValueError(message.format(directory / 'file'))

  return read


def asserts(directory):
  assert not directory


@pytest.mark.parametrize(
  ('read', 'why'),
  [
    (panics, 'raised Panic'),
    (unpickles, 'did pickle.find_class'),
    (opens_the_bait, 'did open a file outside'),
    (asserts, 'raised AssertionError'),
    (refuses('no idea where'), 'does not name the file'),
    (refuses('{}: two\nlines'), 'not one line'),
    (refuses('{}: \x1b[2J'), 'not one line'),
    (refuses('{}: ' + 'x' * 2000), 'too long'),
    (refuses('{}: expected this; got that'), ''),
    (lambda directory: None, ''),
  ],
)
def test_what_a_parser_may_not_do(read, why, tmp_path):
  (tmp_path / 'bait').write_text('x')
  parser = fuzz_parsers.Parser('x', lambda: [], read)
  tally = fuzz_campaign.judge(parser, {'file': b''}, tmp_path)
  assert tally.inputs == 1
  assert bool(tally.failures) == bool(why)
  assert why in ''.join(tally.failures)


def test_a_valid_input_that_is_refused_is_no_test(tmp_path, monkeypatch):
  parser = fuzz_parsers.PARSERS['text']._replace(read=refuses('{}: no'))
  monkeypatch.setitem(fuzz_parsers.PARSERS, 'text', parser)
  with pytest.raises(AssertionError, match='a valid input of text'):
    fuzz_campaign.feed('text', [0], 0, tmp_path)


@pytest.mark.parametrize(
  ('tally', 'held'),
  [
    (fuzz_campaign.Tally(3, 4, (), 0.1, 2.0), [True, True, True]),
    (fuzz_campaign.Tally(3, 4, ('5: x',), 5.0, 256), [False, False, False]),
  ],
)
def test_a_failure_a_slow_one_and_memory_are_told(tally, held):
  rows = list(fuzz.rows_of('text', tally))
  assert [row.holds for row in rows] == held
  assert rows[0].unit == f'of {tally.inputs}'
