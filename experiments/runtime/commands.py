"""What every binary does the same way: two flags, and one line when it fails.

if __name__ == '__main__':
  commands.start(run)

Exit status: 0; 1 if there is an error that a user can mend, or a target that
does not hold; 3 if all was done, but chains failed and were left out; 4 if it
is incomplete, because it was told to stop or other processes did not do their
share: the same command goes on.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import logging as logging_of_python
import os
import pathlib
import sys
import traceback
from typing import Any, NoReturn

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

from experiments.runtime import json_config
from experiments.runtime import sections
from experiments.runtime import stopping
from experiments.runtime import targets
from experiments.runtime import workdirs
from rllc_jax.results import owners

STATUS_OF_ERROR = 1
STATUS_OF_FAILED_CHAINS = 3  # 2 is what a shell says of its own errors.
_MOST_CPU_DEVICES = 8
_REMOTE_LIBRARIES = ('aiobotocore', 'botocore', 's3fs', 'gcsfs', 'adlfs')
_OURS = pathlib.Path(__file__).parents[1]

CONFIG = config_flags.DEFINE_config_file(
  'config',
  lock_config=True,
  help_string='File of settings, such as experiments/configs/demo.py, which is '
  'a program and is run; FILE.json is data and runs nothing, for what others '
  'wrote. Any setting is changed by --config.SECTION.NAME=VALUE.',
)
flags.FLAGS['config'].parser = json_config.Parser('config')
WORKDIR = flags.DEFINE_string(
  'workdir',
  None,
  'Directory that the run writes to, and continues from; or an address of an '
  'object store, such as gs://BUCKET/RUN.',
)


class ChainsFailed(Exception):
  """Some chains failed. What was asked for is done and stored without them."""


class Incomplete(Exception):
  """Something is left to do, which the same command does."""


def fail_with_one_line(main: Callable[[list[str]], Any]) -> Callable[..., None]:
  """Turns the errors that a user can mend into a line and an exit status.

  These are `ValueError`, `OSError` and `MemoryError`, and `ChainsFailed` with a
  status of its own; every other one is a mistake of ours and keeps its
  traceback, and an interrupt stays an interrupt.
  """

  def guarded(argv):
    try:
      main(argv)
    except (ValueError, OSError) as error:
      _exit_with(f'error: {error}', STATUS_OF_ERROR)
    except MemoryError as error:
      message = f'error: not enough memory: {error}. Ask for less at a time.'
      _exit_with(message, STATUS_OF_ERROR)
    except Incomplete as reason:
      _exit_with(f'incomplete: {reason}', stopping.STATUS)
    except ChainsFailed as failure:
      _exit_with(f'done, but {failure}', STATUS_OF_FAILED_CHAINS)

  return guarded


def _is_ours_or_serious(record: Any) -> bool:
  ours = pathlib.Path(record.pathname).is_relative_to(_OURS)
  return ours or record.levelname in ('WARNING', 'ERROR', 'CRITICAL')


def start(
  run: Callable[[Any, pathlib.Path], Any],
  connect: Callable[[], owners.Process] = owners.Process,
) -> None:
  """Parses flags and calls `run(config, workdir)`.

  Args:
    run: what the binary does.
    connect: what must be done before JAX is first used; says which of the
      processes that share the work this one is.
  """

  def main(argv):
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    _work_in(lambda workdir: run(CONFIG.value, workdir), connect)

  _quiet_logs()
  flags.mark_flags_as_required(['config', 'workdir'])
  _describe(run, 'config', 'workdir')
  main_module: Any = sys.modules['__main__']
  main_module.__doc__ = f'{main_module.__doc__}\n{sections.description()}'
  app.run(fail_with_one_line(main), flags_parser=_parse_flags)


def _work_in(
  act: Callable[[pathlib.Path], None],
  connect: Callable[[], owners.Process] = owners.Process,
) -> None:
  """Acts in the workdir, or in the mirror of one that is elsewhere."""
  workdir = str(WORKDIR.value)
  place = workdirs.place(workdir)
  set_up_jax(place)
  process = connect()
  with workdirs.kept(workdir, place, process) as finish:
    stopping.exit_when_told(finish)
    act(place)


def set_up_jax(workdir: pathlib.Path) -> None:
  """Settings of JAX that every binary has; before JAX is first used."""
  # Compiled programs are found again by the next run of the same command.
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = workdir / 'compilation_cache'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  # On a CPU two devices of one core each beat one of two cores.
  cores = min(os.cpu_count() or 1, _MOST_CPU_DEVICES)
  jax.config.update('jax_num_cpu_devices', cores)
  # JAX's default on a GPU is TF32. Training and all that does not ask for a
  # precision of its own is in float32.
  jax.config.update('jax_default_matmul_precision', 'float32')


def _quiet_logs() -> None:
  # Data libraries log every file they touch; what matters is said here.
  logging.get_absl_logger().addFilter(_is_ours_or_serious)
  for name in ('jax', *_REMOTE_LIBRARIES):
    logging_of_python.getLogger(name).setLevel('WARNING')


def start_targets(
  run: Callable[[pathlib.Path], Sequence[targets.Row]], workdir: str
) -> None:
  """Parses flags and ends with the table of `run(workdir)`.

  For commands that need no config.

  Args:
    run: measures, and returns rows; what it keeps it writes below the
      directory.
    workdir: the directory if the command line names none.
  """

  def main(argv):
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    _work_in(lambda workdir: targets.finish(run(workdir)))

  flags.FLAGS.set_default('workdir', workdir)
  _describe(run, 'workdir', 'json')
  _quiet_logs()
  app.run(fail_with_one_line(main), flags_parser=_parse_flags)


def _describe(run: Callable[..., Any], *names: str) -> None:
  """Makes --help say what `run` does, by its module, and which flags it has."""
  module = sys.modules[run.__module__]
  for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  for name in names:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  sys.modules['__main__'].__doc__ = module.__doc__


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; a setting that does not exist is one line, too."""
  try:
    with _told_of_config():
      rest = flags.FLAGS(argv)
      getattr(CONFIG.value, 'lock', None)  # Raises what kept it from opening.
    return rest
  except (AttributeError, KeyError) as error:
    reason = str(error.args[0]).replace('\\n', ' ').replace('\\', '')
    reason = ' '.join(reason.replace("'", '').split()).strip('"')
    message = f'flag of a setting that does not exist: {reason}'
  except (flags.Error, TypeError, ValueError, OSError) as error:
    message = str(error)
  _exit_with(f'error: {message} (see --help)', STATUS_OF_ERROR)


@contextlib.contextmanager
def _told_of_config() -> Iterator[None]:
  """Makes one line of whatever a config raises: it may be a program.

  Its file may also be damaged, or another one.
  """
  try:
    yield
  except Exception as error:
    path = _config_that_raised(error)
    if path is None:
      raise
    # Some come with their traceback as text.
    came = f'{type(error).__name__}: {error}'.strip().splitlines()[-1]
    raise OSError(
      f'{path}: expected settings, as JSON or as what get_config() of a Python '
      f'file returns; got {came}. Mend it, or put back a copy'
    ) from None


def _config_that_raised(error: BaseException | None) -> str | None:
  """The file of --config, if an error was raised while it was read."""
  parsers = (json_config.Parser, *json_config.Parser.__bases__)
  reading = [parser.parse.__code__ for parser in parsers]
  while error is not None:
    for frame, _ in traceback.walk_tb(error.__traceback__):
      if frame.f_code in reading:
        return frame.f_locals['path']
    error = error.__cause__ or error.__context__
  return None


def _exit_with(message: str, status: int) -> NoReturn:
  name = pathlib.Path(sys.argv[0]).stem
  message = workdirs.shown(' '.join(message.split()))
  print(f'{name}: {message}', file=sys.stderr)
  sys.exit(status)
