"""One process of several that share a workdir, and nothing else.

Process 0 prepares data; the others wait for it. Estimates are shared out by
the store (`rllc_jax.results.disk`), and so need no connection. Training is
shared out only if the processes are connected, by --process=auto.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib

from absl import flags
from absl import logging
import jax

from rllc_jax.results import owners

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
# Those by which JAX knows a SLURM job; without one of them it sees none.
_SLURM = (
  'SLURM_JOB_ID',
  'SLURM_STEP_NODELIST',
  'SLURM_NTASKS',
  'SLURM_PROCID',
  'SLURM_LOCALID',
)


def connect() -> owners.Process:
  """Connects the processes if that was asked for; before JAX is first used.

  Returns:
    Which of them this one is.

  Raises:
    ValueError: if a flag is not of its form, or nothing is found out by auto.
  """
  _check_address(_ADDRESS.value)
  if _PROCESS.value == 'auto':
    try:
      jax.distributed.initialize(_ADDRESS.value)
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
  """Why --process=auto failed: which variables are there, and which are not."""
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
  """Lets go of the others: from here on, none depends on whether they live.

  JAX ends all connected processes when one of them dies, or has ended some
  minutes before the others.
  """
  if jax.distributed.is_initialized():
    jax.local_devices()  # These must have been found before.
    jax.distributed.shutdown()


def current() -> owners.Process:
  """Which process this is.

  Raises:
    ValueError: if the flag is not of its form.
  """
  if not flags.FLAGS.is_parsed():  # Not a binary.
    return owners.Process()
  if _PROCESS.value == 'auto':
    return owners.Process(jax.process_index(), jax.process_count())
  index, _, count = _PROCESS.value.partition('/')
  if index.isdecimal() and count.isdecimal() and int(index) < int(count):
    return owners.Process(int(index), int(count))
  raise ValueError(
    '--process must be INDEX/COUNT, such as 0/4 to 3/4, or auto, because work '
    f'is dealt to processes by their number; got {_PROCESS.value!r}.'
  )


def is_first() -> bool:
  """Whether this is process 0, which writes what is written once."""
  return not current().index


def first_does(path: pathlib.Path, make: Callable[[], None]) -> None:
  """Process 0 makes a file, in one run at a time; the others wait for it.

  Args:
    path: of the file, which is written last.
    make: makes it.

  Raises:
    StoreError: if another run is at it, or there is no process 0.
  """
  directory = path.parent / 'owners'
  if not is_first():
    logging.info('waiting for %s of process 0', path)
    owners.wait_until(path.exists, directory, owners.Process())
    return
  with _owned(directory):
    make()


def share(path: pathlib.Path, make: Callable[[], None]) -> None:
  """Connected processes all make a file; else the first, see `first_does`."""
  if jax.process_count() == 1:
    first_does(path, make)
  elif is_first():
    with _owned(path.parent / 'owners'):
      make()
  else:
    make()


@contextlib.contextmanager
def _owned(directory: pathlib.Path) -> Iterator[None]:
  owner = owners.Owner(directory, owners.Process())
  try:
    yield
  finally:
    owner.end()
