"""The progress bar of all commands, shown only in a terminal."""

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
from typing import TypeVar

import tqdm

_Item = TypeVar('_Item')


class Bar:
  """A progress bar with a total that may change."""

  def __init__(self, bar: tqdm.tqdm):
    self._bar = bar
    self._begun = False

  def show(self, done: int, total: int, message: str = '') -> None:
    """Moves the bar; the rate counts progress after the first call only.

    A call with the same `done` as before marks the end of other work, such as
    compiling: the clock for the remaining time restarts.
    """
    bar = self._bar
    if not self._begun:
      self._begun = True
      # Draws of an earlier run took no time in this one.
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
    """Yields the items, moving the bar by one for each."""
    for item in items:
      self.tick()
      yield item


@contextlib.contextmanager
def bar(label: str, unit: str, total: int | None = None) -> Iterator[Bar]:
  """Shows a progress bar within the context.

  Args:
    label: the activity, such as 'training'.
    unit: name of a counted item.
    total: number of items, if it is known in advance.
  """
  # `disable=None` hides the bar without a terminal.
  with tqdm.tqdm(
    desc=label, unit=unit, total=total, unit_scale=True, disable=None
  ) as shown:
    yield Bar(shown)
