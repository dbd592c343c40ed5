"""Feeds inputs to a parser and judges its behaviour on each."""

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

_MAX_CHARACTERS = 1_000  # Of a message.
_FORBIDDEN = ('os.system', 'pickle.find_class', 'socket.connect')
_NUMBER = 'number'  # A file with the number of the current input.
_BAIT = pathlib.PurePath(fuzz_inputs.BAIT).name

_violations: list[str] = []  # Forbidden events of the current input.


class Tally(NamedTuple):
  """Outcomes of a number of inputs.

  Attributes:
    results: number of inputs that were parsed.
    errors: number of inputs that were refused properly.
    failures: of every other input, its number and what happened.
    slowest: seconds of the slowest input.
    growth: of the peak memory of the process, in MB.
  """

  results: int = 0
  errors: int = 0
  failures: tuple[str, ...] = ()
  slowest: float = 0.0
  growth: float = 0.0

  @property
  def inputs(self) -> int:
    """The number of inputs."""
    return self.results + self.errors + len(self.failures)


class Prepared(NamedTuple):
  """Valid inputs, which are damaged to make others.

  Attributes:
    examples: the inputs.
    memory: peak memory of the process after parsing all of them, in MB.
  """

  examples: Sequence[fuzz_parsers.Files]
  memory: float


def merge(tallies: Iterable[Tally]) -> Tally:
  """Adds up tallies.

  Examples:
    >>> merge([Tally(1, 2, ('3: x',), 0.5), Tally(4, 0, (), 0.1)]).results
    5
  """
  tallies = list(tallies)
  return Tally(
    sum(x.results for x in tallies),
    sum(x.errors for x in tallies),
    tuple(reason for x in tallies for reason in x.failures),
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
  """Feeds a parser the inputs of some numbers; a number gives a fixed input.

  Args:
    name: a key of `fuzz_parsers.PARSERS`.
    numbers: of the inputs.
    seed: of all inputs.
    directory: for the files; those of failed inputs are not removed.
    patience: seconds until an input ends the process; None for no limit.
  """
  parser, tallies = fuzz_parsers.PARSERS[name], []
  prepared = prepare(name, directory)
  for number in numbers:
    # Before the input is parsed: a crash leaves no other trace of its number.
    (directory / _NUMBER).write_text(str(number))
    if patience is not None:
      faulthandler.dump_traceback_later(patience, exit=True)
    rng = np.random.default_rng([seed, *name.encode(), number])
    files = fuzz_parsers.make_input(parser, prepared.examples, rng)
    tally = judge(parser, files, directory)
    if tally.failures:
      failed = failure(number, tally.failures[0], directory)
      tally = failed._replace(slowest=tally.slowest)
    tallies.append(tally)
  faulthandler.cancel_dump_traceback_later()
  return merge(tallies)._replace(growth=_peak_memory() - prepared.memory)


def last_number(directory: pathlib.Path) -> int:
  """The number of the input that was fed last."""
  return int((directory / _NUMBER).read_text())


def failure(number: int, reason: str, directory: pathlib.Path) -> Tally:
  """Tally of a failed input, whose files are copied to `failed`."""
  copy = directory / 'failed' / str(number)
  shutil.copytree(directory / 'input', copy, dirs_exist_ok=True)
  return Tally(failures=(f'{number}: {reason}',))


@functools.cache
def prepare(name: str, directory: pathlib.Path) -> Prepared:
  """Writes the bait and makes valid inputs, each of which must be parsed."""
  parser = fuzz_parsers.PARSERS[name]
  examples = parser.examples()
  directory.mkdir(parents=True, exist_ok=True)
  (directory / _BAIT).write_text('Nobody may read this.')
  (directory / _NUMBER).unlink(missing_ok=True)
  for example in examples:
    tally = judge(parser, example, directory)
    if not tally.results:
      raise AssertionError(f'a valid input of {name} is not read: {tally}')
  return Prepared(examples, _peak_memory())


def judge(
  parser: fuzz_parsers.Parser,
  files: fuzz_parsers.Files,
  directory: pathlib.Path,
) -> Tally:
  """Parses an input and judges the result or the error message."""
  path = directory / 'input'
  path.mkdir(exist_ok=True)
  for name, content in files.items():
    (path / name).write_bytes(content)
  start = time.perf_counter()
  tally = _attempt(parser, path)
  seconds = time.perf_counter() - start
  if _violations:
    tally = Tally(failures=(f'did {_violations[0]}',))
  return tally._replace(slowest=seconds)


def _attempt(parser: fuzz_parsers.Parser, path: pathlib.Path) -> Tally:
  _watch()
  _violations.clear()
  try:
    parser.read(path)
  except (KeyboardInterrupt, SystemExit):
    raise
  except (ValueError, OSError) as error:
    fault = _fault(str(error), path)
    return Tally(failures=(fault,)) if fault else Tally(errors=1)
  except BaseException as error:  # Rust panics don't derive from Exception.
    reason = f'raised {type(error).__name__}: {str(error)[:200]!r}'
    return Tally(failures=(reason,))
  return Tally(results=1)


def _fault(message: str, path: pathlib.Path) -> str:
  """Describes the fault of an error message; '' if there is none."""
  excerpt = repr(message[:300])
  if str(path) not in message:
    return f'does not name the file: {excerpt}'
  if not message.isprintable():
    return f'not one line of plain text: {excerpt}'
  return f'too long: {excerpt}' if len(message) > _MAX_CHARACTERS else ''


@functools.cache
def _watch() -> None:
  """Records forbidden events from now on; an audit hook cannot be removed."""
  sys.addaudithook(_record_violation)


def _record_violation(event: str, arguments: tuple) -> None:
  if event in _FORBIDDEN:
    _violations.append(event)
  elif event == 'open' and pathlib.PurePath(str(arguments[0])).name == _BAIT:
    _violations.append('open a file outside')


def _peak_memory() -> float:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
