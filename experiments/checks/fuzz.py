"""Feeds damaged and hostile files to every parser of foreign files.

  python -m experiments.fuzz [--inputs=100000] [--seed=0] [--workdir=DIR]

Each input must give a result or an error of one line that names the file, in
seconds and without much memory. Nothing may be unpickled, and no file outside
may be opened. Parsers run in separate processes, so that a crash is counted and
named, too. Inputs that failed are saved in DIR/NAME/failed, and the last input
in DIR/NAME/input.

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

_MAX_SECONDS = 5.0  # For one input.
_MAX_GROWTH = 256.0  # Of the memory of a process, in MB.
_PATIENCE = 60.0  # Seconds until an input counts as hanging.
_ADDRESS_SPACE = 16 * 2**30  # Bytes that a process may allocate.
_MAX_CRASHES = 20  # A parser's remaining inputs are skipped after so many.
_CHUNK = 500  # Inputs.


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Feeds every parser its share of --inputs, and returns its three targets.

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
  """Targets of a parser: no failure, few seconds, little memory."""
  failed = len(tally.failures)
  yield targets.Row(
    f'{name}: failed',
    failed,
    f'of {tally.inputs:,}',
    'none',
    failed == 0,
    f'{tally.results:,} gave a result, {tally.errors:,} an error',
  )
  for label, value, unit, limit in (
    ('slowest', tally.slowest, 's', _MAX_SECONDS),
    ('more memory', tally.growth, 'MB', _MAX_GROWTH),
  ):
    yield targets.Row(
      f'{name}: {label}', value, unit, f'under {limit:g}', value < limit
    )


def feed_apart(
  name: str, count: int, seed: int, directory: pathlib.Path
) -> fuzz_campaign.Tally:
  """Feeds a parser in a separate process, and in a new one after each crash.

  Args:
    name: a key of `fuzz_parsers.PARSERS`.
    count: of inputs.
    seed: of the inputs.
    directory: for the files.
  """
  starts = range(0, count, _CHUNK)
  waiting = [range(x, min(x + _CHUNK, count)) for x in starts][::-1]
  tallies, crashes, pool = [], 0, _pool()
  while waiting and crashes < _MAX_CRASHES:
    numbers = waiting.pop()
    arguments = (name, numbers, seed, directory, _PATIENCE)
    try:
      tallies.append(pool.submit(fuzz_campaign.feed, *arguments).result())
    except process.BrokenProcessPool:
      crashes, pool = crashes + 1, _pool()
      bad = fuzz_campaign.last_number(directory)
      reason = f'crashed, or took over {_PATIENCE:g} s'
      tallies.append(fuzz_campaign.failure(bad, reason, directory))
      # Without the input that crashed, from its chunk's beginning: the tally of
      # the inputs before it died with the process.
      waiting += [range(bad + 1, numbers.stop), range(numbers.start, bad)]
  pool.shutdown()
  return fuzz_campaign.merge(tallies)


def _pool() -> futures.ProcessPoolExecutor:
  # Not forked: a fork would inherit the threads' locks of this process.
  return futures.ProcessPoolExecutor(
    1, multiprocessing.get_context('spawn'), _limit_memory
  )


def _limit_memory() -> None:
  resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/fuzz')
