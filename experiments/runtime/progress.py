"""The progress bar of all commands; without a terminal there is none."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
from typing import TypeVar

import tqdm

_Item = TypeVar('_Item')


class Bar:
  """A bar that is told how much is done of how much."""

  def __init__(self, bar: tqdm.tqdm):
    self._bar = bar
    self._begun = False

  def show(self, done: int, total: int, message: str = '') -> None:
    """Moves the bar; the rate is that of what came after the first call.

    A call with the same `done` as before says that something else was done,
    such as compiling: a clock for the time that is left starts anew.
    """
    bar = self._bar
    if not self._begun:
      self._begun = True
      bar.initial = bar.n = bar.last_print_n = done
    bar.total = total
    if message:
      bar.set_postfix_str(message, refresh=False)
    if done == bar.n:
      bar.unpause()
    bar.update(done - bar.n)

  def tick(self, message: str = '') -> None:
    """Moves the bar by one."""
    if message:
      self._bar.set_postfix_str(message)
    self._bar.update()

  def each(self, items: Iterable[_Item]) -> Iterator[_Item]:
    """The same items; each moves the bar by one."""
    for item in items:
      self.tick()
      yield item


@contextlib.contextmanager
def bar(what: str, unit: str, total: int | None = None) -> Iterator[Bar]:
  """A bar for as long as the context lasts.

  Args:
    what: is done, such as 'training'.
    unit: of what is counted.
    total: how many, if that is known.
  """
  with tqdm.tqdm(
    desc=what, unit=unit, total=total, unit_scale=True, disable=None
  ) as shown:
    yield Bar(shown)
