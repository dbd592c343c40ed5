"""Ends a process at once on SIGTERM and SIGINT, with the status of incomplete.

No cleanup is needed: files are complete at every moment, and the next run
repeats unwritten work. Waiting for a device program or a compilation could take
longer than a preempted machine has.
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


def exit_on_signals(finish: Callable[[], None] = lambda: None) -> None:
  """Makes the two signals end this process; call it in the main thread.

  A thread waits for them, because Python's handlers only run between two
  bytecodes of the main thread, which may be inside a long call.

  Args:
    finish: called before the exit, while the main thread goes on; a second
      signal does not wait for it.
  """
  read_end, write_end = os.pipe()
  # The interpreter writes each signal's number to the pipe, and requires that
  # this never blocks.
  os.set_blocking(write_end, False)
  signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
  # Without a Python handler the default action would end the process first.
  for number in _SIGNALS:
    signal.signal(number, lambda number, frame: None)
  threading.Thread(
    target=_exit_after_signal, args=(read_end, finish), daemon=True
  ).start()


def _next_signal(read_end: int) -> int:
  """Waits for the next of the two signals."""
  while (number := os.read(read_end, 1)[0]) not in _SIGNALS:
    pass
  return number


def _exit_after_signal(read_end: int, finish: Callable[[], None]) -> None:
  number = _next_signal(read_end)
  name = pathlib.Path(sys.argv[0]).stem

  def end():
    try:
      finish()
    except Exception as error:  # The process must end even if this fails.
      print(f'\n{name}: {error}', file=sys.stderr)
    os.write(finish_write, b'0')

  finish_read, finish_write = os.pipe()
  threading.Thread(target=end, daemon=True).start()
  select.select([finish_read, read_end], [], [])
  print(
    f'\n{name}: incomplete, stopped by {signal.Signals(number).name}; the same '
    'command goes on',
    file=sys.stderr,
    flush=True,
  )
  os._exit(STATUS)
