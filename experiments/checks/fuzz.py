"""Feeds damaged and hostile files to everything that reads files of others.

  python -m experiments.fuzz [--inputs=100000] [--seed=0] [--workdir=DIR]

Each input must give a result or an error of one line that names the file, in
seconds and without much memory; nothing may be unpickled, and no file outside
be opened. Parsers run in processes of their own, so that a crash is counted and
named, too. Inputs that failed are kept in DIR/NAME/failed, and the last one of
all in DIR/NAME/input.

Three minutes for 100,000 inputs on two cores.
"""

from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import process
import math
import multiprocessing
import pathlib
import resource

from absl import flags
from absl import logging

from experiments.checks import fuzz_campaign
from experiments.checks import fuzz_parsers
from experiments.runtime import commands
from experiments.runtime import seed_flag
from experiments.runtime import targets

flags.adopt_module_key_flags(seed_flag)
_INPUTS = flags.DEFINE_integer('inputs', 100_000, 'How many, of all parsers.')

_MOST_SECONDS = 5.0  # For one input.
_MOST_GROWTH = 256.0  # Of the memory of a process, in MB.
_PATIENCE = 60.0  # Seconds until an input counts as one that hangs.
_ADDRESSES = 16 * 2**30  # Bytes that a process may ask for.
_MOST_CRASHES = 20  # Of a parser; then the rest of its inputs is left.
_CHUNK = 500  # Inputs.


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Feeds every parser its share of --inputs; three rows a parser.

  Args:
    workdir: for the files.
  """
  total = sum(parser.share for parser in fuzz_parsers.PARSERS.values())
  rows = []
  for name, parser in fuzz_parsers.PARSERS.items():
    count = math.ceil(_INPUTS.value * parser.share / total)
    tally = feed_apart(name, count, seed_flag.SEED.value, workdir / name)
    logging.info('%s: %d inputs', name, tally.inputs)
    for failure in tally.failures:
      logging.error('%s, input %s', name, failure)
    rows += rows_of(name, tally)
  return rows


def rows_of(name: str, tally: fuzz_campaign.Tally) -> Iterator[targets.Row]:
  """The rows of a parser."""
  failed = len(tally.failures)
  yield targets.Row(
    f'{name}: failed',
    failed,
    f'of {tally.inputs:,}',
    'none',
    failed == 0,
    f'{tally.results:,} gave a result, {tally.errors:,} an error',
  )
  for what, value, unit, most in (
    ('slowest', tally.slowest, 's', _MOST_SECONDS),
    ('more memory', tally.growth, 'MB', _MOST_GROWTH),
  ):
    yield targets.Row(
      f'{name}: {what}', value, unit, f'under {most:g}', value < most
    )


def feed_apart(
  name: str, count: int, seed: int, directory: pathlib.Path
) -> fuzz_campaign.Tally:
  """Feeds a parser in another process, and in a new one after each crash.

  Args:
    name: a key of `fuzz_parsers.PARSERS`.
    count: of inputs.
    seed: of the inputs.
    directory: for the files.
  """
  starts = range(0, count, _CHUNK)
  waiting = [range(x, min(x + _CHUNK, count)) for x in starts][::-1]
  tallies, crashes, pool = [], 0, _pool()
  while waiting and crashes < _MOST_CRASHES:
    numbers = waiting.pop()
    given = (name, numbers, seed, directory, _PATIENCE)
    try:
      tallies.append(pool.submit(fuzz_campaign.feed, *given).result())
    except process.BrokenProcessPool:
      crashes, pool = crashes + 1, _pool()
      bad = fuzz_campaign.last_number(directory)
      why = f'crashed, or took over {_PATIENCE:g} s'
      tallies.append(fuzz_campaign.failure(bad, why, directory))
      waiting += [range(bad + 1, numbers.stop), range(numbers.start, bad)]
  pool.shutdown()
  return fuzz_campaign.merge(tallies)


def _pool() -> futures.ProcessPoolExecutor:
  return futures.ProcessPoolExecutor(
    1, multiprocessing.get_context('spawn'), _limit_memory
  )


def _limit_memory() -> None:
  resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))


def main() -> None:
  """The command."""
  commands.start_targets(run, 'runs/fuzz')
