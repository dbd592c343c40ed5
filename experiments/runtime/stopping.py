"""SIGTERM and SIGINT end a process at once, and say that it is incomplete.

Nothing needs to be tidied up: what is written is whole at every moment, and
what is not written is done again. Waiting for a program on a device to end, or
for one to be compiled, could take longer than a preempted machine has.
"""

from collections.abc import Callable
import os
import pathlib
import select
import signal
import sys
import threading

STATUS = 4
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def exit_when_told(finish: Callable[[], None] = lambda: None) -> None:
  """From here on the two signals end this process; call it in the main thread.

  A thread waits for them, because handlers of Python only run between two steps
  of the main thread, which may be inside a long call.

  Args:
    finish: what is done before that, while the main thread goes on; a second
      signal does not wait for it.
  """
  heard, told = os.pipe()
  os.set_blocking(told, False)
  signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  for number in _SIGNALS:
    signal.signal(number, lambda number, frame: None)
  threading.Thread(target=_wait, args=(heard, finish), daemon=True).start()


def _next(heard: int) -> int:
  """The next of the signals."""
  while (number := os.read(heard, 1)[0]) not in _SIGNALS:
    pass
  return number


def _wait(heard: int, finish: Callable[[], None]) -> None:
  number = _next(heard)
  name = pathlib.Path(sys.argv[0]).stem

  def end():
    try:
      finish()
    except Exception as error:  # It ends all the same.
      print(f'\n{name}: {error}', file=sys.stderr)
    os.write(finished, b'0')

  done, finished = os.pipe()
  threading.Thread(target=end, daemon=True).start()
  select.select([done, heard], [], [])
  print(
    f'\n{name}: incomplete, stopped by {signal.Signals(number).name}; the same '
    'command goes on',
    file=sys.stderr,
    flush=True,
  )
  os._exit(STATUS)
