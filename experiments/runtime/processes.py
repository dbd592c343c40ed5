"""Several processes that share the work of a command through its workdir.

Process 0 prepares data; the other processes wait for it. Of estimates each does
a share by its number, and none waits for another. Training is divided only if
the processes are connected, by --process=auto or --coordinator.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib

from absl import flags
from absl import logging
import jax

from rllc_jax import locks

_PROCESS = flags.DEFINE_string(
  'process',
  '0/1',
  'Which of the processes that share the work this one is, as INDEX/COUNT; or '
  '"auto", for what jax.distributed finds out on a TPU pod slice or in a SLURM '
  'job, which also lets training use all their devices.',
)
_ADDRESS = flags.DEFINE_string(
  'coordinator',
  None,
  'HOST:PORT of process 0, if INDEX/COUNT are to be connected, too; with '
  '"auto" it takes the place of the address that was found out.',
)
# Variables by which JAX detects a SLURM job; it needs all of them.
_SLURM = (
  'SLURM_JOB_ID',
  'SLURM_STEP_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_LOCALID',
)


def connect() -> locks.Process:
  """Connects the processes if a flag requests it, before JAX is first used.

  Returns:
    The index of this process and their number.

  Raises:
    ValueError: if a flag is malformed, or auto detects no processes.
  """
  _check_address(_ADDRESS.value)
  if _PROCESS.value == 'auto':
    try:
      jax.distributed.initialize(_ADDRESS.value)
    # JAX raises any of these where variables of the cluster are missing.
    except (IndexError, TypeError, ValueError) as error:
      raise ValueError(_nothing_found(error)) from None
  elif _ADDRESS.value:
    index, count = current()
    jax.distributed.initialize(_ADDRESS.value, count, index)
  return current()


def _check_address(address: str | None) -> None:
  host, _, port = (address or 'none:0').rpartition(':')
  if not host or not port.isdecimal():
    raise ValueError(
      '--coordinator must be HOST:PORT, such as node1:1234, because the other '
      f'processes connect to process 0 there; got {address!r}.'
    )


def _nothing_found(error: Exception) -> str:
  """The error of --process=auto, with the SLURM variables that are missing."""
  there = [name for name in _SLURM if name in os.environ]
  missing = [name for name in _SLURM if name not in os.environ]
  if not there:
    reason = 'no variable of SLURM, and no TPU pod slice'
  elif missing:
    reason = f'{", ".join(there)}, but no {", ".join(missing)}'
  else:
    values = ', '.join(f'{name}={os.environ[name]!r}' for name in _SLURM)
    reason = f'{values} ({error})'
  return (
    '--process=auto must find out the number of processes, which of them this '
    'one is, and where process 0 is, because it connects them; got '
    f'{reason}. Start it by srun; or give each process --process=INDEX/COUNT '
    'and, to connect them, --coordinator=HOST:PORT of process 0.'
  )


def disconnect() -> None:
  """Leaves jax.distributed, so that a crash of one process aborts no other.

  JAX ends all connected processes when one of them dies, or ends some minutes
  before the rest.
  """
  if jax.distributed.is_initialized():
    # Devices are detected on first use, which needs the connection.
    jax.local_devices()
    jax.distributed.shutdown()


def current() -> locks.Process:
  """The index of this process and the number of processes.

  Raises:
    ValueError: if the flag is malformed.
  """
  if not flags.FLAGS.is_parsed():  # Not a binary.
    return locks.Process()
  if _PROCESS.value == 'auto':
    return locks.Process(jax.process_index(), jax.process_count())
  index, _, count = _PROCESS.value.partition('/')
  if index.isdecimal() and count.isdecimal() and int(index) < int(count):
    return locks.Process(int(index), int(count))
  raise ValueError(
    '--process must be INDEX/COUNT, such as 0/4 to 3/4, or auto, because work '
    f'is dealt to processes by their number; got {_PROCESS.value!r}.'
  )


def is_first() -> bool:
  """True in process 0, which writes the files that all processes share."""
  return not current().index


def first_does(path: pathlib.Path, make: Callable[[], None]) -> None:
  """Makes a file in process 0, under a lock; other processes wait for it.

  Args:
    path: of the file, which is written last.
    make: makes it.

  Raises:
    LockedError: if another run is making it, or there is no process 0.
  """
  if not is_first():
    logging.info('waiting for %s of process 0', path)
    locks.wait_for(path.exists, path.parent)
    return
  with _at_work(path.parent):
    make()


def share(path: pathlib.Path, make: Callable[[], None]) -> None:
  """Makes a file in all connected processes, or in process 0 alone."""
  if jax.process_count() == 1:  # Not connected.
    first_does(path, make)
  elif is_first():
    with _at_work(path.parent):
      make()
  else:
    make()


@contextlib.contextmanager
def _at_work(directory: pathlib.Path) -> Iterator[None]:
  work = locks.Work(directory, locks.Process())
  try:
    yield
  finally:
    work.end()
