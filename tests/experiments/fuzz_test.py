"""Parsers withstand a few hundred bad files, and bad parsers are caught."""

import pickle

import pytest

from experiments.checks import fuzz
from experiments.checks import fuzz_campaign
from experiments.checks import fuzz_inputs
from experiments.checks import fuzz_parsers

_INPUTS = 320


@pytest.mark.parametrize('name', fuzz_parsers.PARSERS)
def test_every_damaged_input_gives_a_result_or_an_error(name, tmp_path):
  count = round(_INPUTS * fuzz_parsers.PARSERS[name].share)
  tally = fuzz_campaign.feed(name, range(count), 1, tmp_path)
  assert not tally.failures
  assert tally.results and tally.errors
  assert tally.inputs == count and tally.slowest < 5


def test_an_input_depends_on_its_number_alone(tmp_path):
  path = tmp_path / 'input' / 'config.json'
  contents = []
  for numbers in (range(10), [9]):
    fuzz_campaign.feed('config', numbers, 3, tmp_path)
    contents.append(path.read_bytes())
  assert contents[0] == contents[1]
  fuzz_campaign.feed('config', [9], 4, tmp_path)
  assert path.read_bytes() != contents[0]


class Panic(BaseException):
  """A panic of Rust, which does not derive from Exception."""


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
def test_forbidden_behaviour_of_a_parser_is_a_failure(read, why, tmp_path):
  (tmp_path / 'bait').write_text('x')
  parser = fuzz_parsers.Parser('x', lambda: [], read)
  tally = fuzz_campaign.judge(parser, {'file': b''}, tmp_path)
  assert tally.inputs == 1
  assert bool(tally.failures) == bool(why)
  assert why in ''.join(tally.failures)


def test_a_refused_valid_input_is_an_assertion_error(tmp_path, monkeypatch):
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
def test_failures_slowness_and_memory_do_not_hold(tally, held):
  rows = list(fuzz.rows_of('text', tally))
  assert [row.holds for row in rows] == held
  assert rows[0].unit == f'of {tally.inputs}'
