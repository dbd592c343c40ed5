"""Common start of all commands: --config, --workdir, one-line errors.

if __name__ == '__main__':
  commands.start(run)

Exit status: 0; 1 if there is an error that a user can mend, or a target that
does not hold; 3 if everything was done, but chains failed and were left out; 4
if it was stopped by a signal: the same command goes on.
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
from rllc_jax import locks

STATUS_OF_ERROR = 1
STATUS_OF_FAILED_CHAINS = 3  # Shells use 2 for their own errors.
_MAX_CPU_DEVICES = 8
_REMOTE_LIBRARIES = ('aiobotocore', 'botocore', 's3fs', 'gcsfs', 'adlfs')
_PACKAGE_DIRECTORY = pathlib.Path(__file__).parents[1]

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
  """Some chains failed. The results are complete and stored without them."""


def fail_with_one_line(main: Callable[[list[str]], Any]) -> Callable[..., None]:
  """Turns the errors that a user can mend into a line and an exit status.

  These are `ValueError`, `OSError` and `MemoryError`, and `ChainsFailed` with a
  separate status. Any other error is a bug and keeps its traceback, and an
  interrupt stays an interrupt.
  """

  def guarded(argv):
    try:
      main(argv)
    except (ValueError, OSError) as error:
      _exit_with(f'error: {error}', STATUS_OF_ERROR)
    except MemoryError as error:
      message = f'error: not enough memory: {error}. Ask for less at a time.'
      _exit_with(message, STATUS_OF_ERROR)
    except ChainsFailed as failure:
      _exit_with(f'done, but {failure}', STATUS_OF_FAILED_CHAINS)

  return guarded


def _is_ours_or_serious(record: Any) -> bool:
  ours = pathlib.Path(record.pathname).is_relative_to(_PACKAGE_DIRECTORY)
  return ours or record.levelname in ('WARNING', 'ERROR', 'CRITICAL')


def start(
  run: Callable[[Any, pathlib.Path], Any],
  connect: Callable[[], locks.Process] = locks.Process,
) -> None:
  """Parses flags and calls `run(config, workdir)`.

  Args:
    run: the command.
    connect: called before JAX is first used; returns the index of this process
      among those that share the work, and their number.
  """

  def main(argv):
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    _work_in(lambda workdir: run(CONFIG.value, workdir), connect)

  _quiet_logs()
  flags.mark_flags_as_required(['config', 'workdir'])
  _describe(run, 'config', 'workdir')
  # absl prints the docstring of __main__ for --help.
  main_module: Any = sys.modules['__main__']
  main_module.__doc__ = f'{main_module.__doc__}\n{sections.description()}'
  app.run(fail_with_one_line(main), flags_parser=_parse_flags)


def _work_in(
  act: Callable[[pathlib.Path], None],
  connect: Callable[[], locks.Process] = locks.Process,
) -> None:
  """Acts in the workdir, or in a local directory for one at an address."""
  workdir = str(WORKDIR.value)
  place = workdirs.place(workdir)
  set_up_jax(place)
  connect()
  with workdirs.fetched(place) as finish:
    stopping.exit_on_signals(finish)
    act(place)


def set_up_jax(workdir: pathlib.Path) -> None:
  """Sets the JAX options of all commands; call it before JAX is first used."""
  # The next run of the same command reuses compiled programs.
  if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
    cache = workdir / 'compilation_cache'
    jax.config.update('jax_compilation_cache_dir', str(cache))
  # On a CPU two devices of one core each beat one of two cores.
  cores = min(os.cpu_count() or 1, _MAX_CPU_DEVICES)
  jax.config.update('jax_num_cpu_devices', cores)
  # JAX's default on a GPU is TF32. Training, and everything without a setting
  # of its precision, is in float32.
  jax.config.update('jax_default_matmul_precision', 'float32')


def _quiet_logs() -> None:
  # Data libraries log every file that they open.
  logging.get_absl_logger().addFilter(_is_ours_or_serious)
  for name in ('jax', *_REMOTE_LIBRARIES):
    logging_of_python.getLogger(name).setLevel('WARNING')


def start_targets(
  run: Callable[[pathlib.Path], Sequence[targets.Row]], workdir: str
) -> None:
  """Parses flags and ends with the table of `run(workdir)`.

  For commands that need no config.

  Args:
    run: measures, returns rows and writes its files below the directory.
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
  """Makes --help print the docstring and the flags of the module of `run`."""
  module = sys.modules[run.__module__]
  for flag in flags.FLAGS.get_key_flags_for_module(module.__name__):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
  for name in names:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
  sys.modules['__main__'].__doc__ = module.__doc__


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses flags; exits with one line if a flag or a setting is wrong."""
  try:
    with _config_errors_as_one_line():
      arguments = flags.FLAGS(argv)
      # A config that could not be opened raises only when it is used.
      getattr(CONFIG.value, 'lock', None)
    return arguments
  except (AttributeError, KeyError) as error:
    reason = str(error.args[0]).replace('\\n', ' ').replace('\\', '')
    reason = ' '.join(reason.replace("'", '').split()).strip('"')
    message = f'flag of a setting that does not exist: {reason}'
  except (flags.Error, TypeError, ValueError, OSError) as error:
    message = str(error)
  _exit_with(f'error: {message} (see --help)', STATUS_OF_ERROR)


@contextlib.contextmanager
def _config_errors_as_one_line() -> Iterator[None]:
  """Turns any error of the config file into one line.

  A config may be a program, so it can raise anything.
  """
  try:
    yield
  except Exception as error:
    path = _config_that_raised(error)
    if path is None:
      raise
    # Some messages contain a traceback; its last line is the message.
    reason = f'{type(error).__name__}: {error}'.strip().splitlines()[-1]
    raise OSError(
      f'{path}: expected settings, as JSON or as what get_config() of a Python '
      f'file returns; got {reason}. Mend it, or put back a copy'
    ) from None


def _config_that_raised(error: BaseException | None) -> str | None:
  """The path of --config, if an error was raised while parsing it."""
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
