"""Feeds inputs to a parser and judges what it does with each."""

from collections.abc import Iterable
from collections.abc import Sequence
import faulthandler
import functools
import pathlib
import resource
import shutil
import sys
import time
from typing import NamedTuple

import numpy as np

from experiments.checks import fuzz_inputs
from experiments.checks import fuzz_parsers

_MOST_CHARACTERS = 1_000  # Of a message.
_FORBIDDEN = ('os.system', 'pickle.find_class', 'socket.connect')
_NUMBER = 'number'  # A file that says which input is fed.
_BAIT = pathlib.PurePath(fuzz_inputs.BAIT).name

_done: list[str] = []  # What no parser may do, since it was emptied.


class Tally(NamedTuple):
  """What came of a number of inputs.

  Attributes:
    results: inputs that were read.
    errors: inputs that were refused as they should be.
    failures: of every other input, its number and what happened.
    slowest: seconds, of one input.
    growth: of the most memory that the process ever held, in MB.
  """

  results: int = 0
  errors: int = 0
  failures: tuple[str, ...] = ()
  slowest: float = 0.0
  growth: float = 0.0

  @property
  def inputs(self) -> int:
    """All of them."""
    return self.results + self.errors + len(self.failures)


class Prepared(NamedTuple):
  """What inputs are made of.

  Attributes:
    examples: valid inputs.
    memory: the most that the process had held when all had been read, in MB.
  """

  examples: Sequence[fuzz_parsers.Files]
  memory: float


def merge(tallies: Iterable[Tally]) -> Tally:
  """The tally of all inputs.

  Examples:
    >>> merge([Tally(1, 2, ('3: x',), 0.5), Tally(4, 0, (), 0.1)]).results
    5
  """
  tallies = list(tallies)
  return Tally(
    sum(x.results for x in tallies),
    sum(x.errors for x in tallies),
    tuple(why for x in tallies for why in x.failures),
    max((x.slowest for x in tallies), default=0.0),
    max((x.growth for x in tallies), default=0.0),
  )


def feed(
  name: str,
  numbers: Sequence[int],
  seed: int,
  directory: pathlib.Path,
  patience: float | None = None,
) -> Tally:
  """Feeds a parser the inputs of some numbers, which are the same every time.

  Args:
    name: a key of `fuzz_parsers.PARSERS`.
    numbers: of the inputs.
    seed: of all inputs.
    directory: for the files; those of inputs that failed stay.
    patience: seconds until an input ends the process; None for no end.
  """
  parser, tallies = fuzz_parsers.PARSERS[name], []
  prepared = prepare(name, directory)
  for number in numbers:
    (directory / _NUMBER).write_text(str(number))
    if patience is not None:
      faulthandler.dump_traceback_later(patience, exit=True)
    rng = np.random.default_rng([seed, *name.encode(), number])
    given = fuzz_parsers.make_input(parser, prepared.examples, rng)
    tally = judge(parser, given, directory)
    if tally.failures:
      kept = failure(number, tally.failures[0], directory)
      tally = kept._replace(slowest=tally.slowest)
    tallies.append(tally)
  faulthandler.cancel_dump_traceback_later()
  return merge(tallies)._replace(growth=_most_memory() - prepared.memory)


def last_number(directory: pathlib.Path) -> int:
  """That of the input which was fed last."""
  return int((directory / _NUMBER).read_text())


def failure(number: int, why: str, directory: pathlib.Path) -> Tally:
  """The tally of an input that failed; its files are kept."""
  kept = directory / 'failed' / str(number)
  shutil.copytree(directory / 'input', kept, dirs_exist_ok=True)
  return Tally(failures=(f'{number}: {why}',))


@functools.cache
def prepare(name: str, directory: pathlib.Path) -> Prepared:
  """Lays out the bait, and makes valid inputs, each of which must be read."""
  parser = fuzz_parsers.PARSERS[name]
  examples = parser.examples()
  directory.mkdir(parents=True, exist_ok=True)
  (directory / _BAIT).write_text('Nobody may read this.')
  (directory / _NUMBER).unlink(missing_ok=True)
  for example in examples:
    tally = judge(parser, example, directory)
    if not tally.results:
      raise AssertionError(f'a valid input of {name} is not read: {tally}')
  return Prepared(examples, _most_memory())


def judge(
  parser: fuzz_parsers.Parser,
  given: fuzz_parsers.Files,
  directory: pathlib.Path,
) -> Tally:
  """Reads one input: it may give a result or an error that names the file."""
  path = directory / 'input'
  path.mkdir(exist_ok=True)
  for name, content in given.items():
    (path / name).write_bytes(content)
  start = time.perf_counter()
  tally = _attempt(parser, path)
  seconds = time.perf_counter() - start
  if _done:
    tally = Tally(failures=(f'did {_done[0]}',))
  return tally._replace(slowest=seconds)


def _attempt(parser: fuzz_parsers.Parser, path: pathlib.Path) -> Tally:
  _watch()
  _done.clear()
  try:
    parser.read(path)
  except (KeyboardInterrupt, SystemExit):
    raise
  except (ValueError, OSError) as error:
    fault = _fault(str(error), path)
    return Tally(failures=(fault,)) if fault else Tally(errors=1)
  except BaseException as error:  # Panics of Rust are no exceptions.
    why = f'raised {type(error).__name__}: {str(error)[:200]!r}'
    return Tally(failures=(why,))
  return Tally(results=1)


def _fault(message: str, path: pathlib.Path) -> str:
  """What is wrong with a message; '' if nothing is."""
  shown = repr(message[:300])
  if str(path) not in message:
    return f'does not name the file: {shown}'
  if not message.isprintable():
    return f'not one line of plain text: {shown}'
  return f'too long: {shown}' if len(message) > _MOST_CHARACTERS else ''


@functools.cache
def _watch() -> None:
  """Notes from now on what no parser may do. Python never stops watching."""
  sys.addaudithook(_note)


def _note(event: str, arguments: tuple) -> None:
  if event in _FORBIDDEN:
    _done.append(event)
  elif event == 'open' and pathlib.PurePath(str(arguments[0])).name == _BAIT:
    _done.append('open a file outside')


def _most_memory() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
