"""Errors of one line about one checkpoint: expected, actual, remedy."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import pathlib

from rllc_jax import visible

# The advice at the end of a message. A function is called only after a failure,
# because it may read files.
Remedy = str | Callable[[], str]

_MOST_CHARACTERS = 300  # Orbax's own messages are paragraphs.


class CheckpointError(ValueError):
  """A checkpoint cannot be written, or differs from what was expected."""


class Refused(Exception):
  """A refusal by code that has neither the step nor the path at hand.

  Attributes:
    expected: the requirement.
    got: the violation.
    remedy: advice, as a sentence.
  """

  def __init__(self, expected: str, got: str, remedy: str = ''):
    super().__init__(f'expected {expected}; got {got}')
    self.expected, self.got, self.remedy = expected, got, remedy


def error(
  step: int, path: pathlib.Path, expected: str, got: str, remedy: Remedy = ''
) -> CheckpointError:
  """Builds the error of one checkpoint."""
  got = visible.short(got.strip().rstrip('.'), _MOST_CHARACTERS)
  expected = visible.text(expected)
  text = f'Checkpoint of step {step} at {path}: expected {expected}; got {got}'
  remedy = remedy() if callable(remedy) else remedy
  return CheckpointError(f'{text}. {remedy}'.rstrip())


@contextlib.contextmanager
def naming(
  step: int, path: pathlib.Path, expected: str, remedy: Remedy = ''
) -> Iterator[None]:
  """Turns exceptions inside into the error of this checkpoint."""
  try:
    yield
  except CheckpointError:  # Names a step and a path already.
    raise
  except Refused as reason:
    advice = reason.remedy or remedy
    raise error(step, path, reason.expected, reason.got, advice) from None
  except OSError as reason:
    raise error(step, path, expected, str(reason), remedy) from None
  except (TypeError, ValueError) as reason:
    got = f'{type(reason).__name__}: {reason}'
    raise error(step, path, expected, got, remedy) from None


def quoted(names: list[str], most: int = 8) -> str:
  """Quotes the first names of a list, for a message.

  Examples:
    >>> quoted(['a', 'b', 'c'], 2)
    "'a', 'b' and 1 more"
  """
  shown = ', '.join(repr(visible.short(name, 60)) for name in names[:most])
  more = len(names) - most
  return f'{shown} and {more} more' if more > 0 else shown
