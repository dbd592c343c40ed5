"""What every binary does the same way: two flags, and one line when it fails.

if __name__ == '__main__':
  commands.start(run)
"""

from collections.abc import Callable
import logging as logging_of_python
import os
import pathlib
import sys
from typing import Any

from absl import app
from absl import flags
from absl import logging
import jax
from ml_collections import config_flags

_MOST_CPU_DEVICES = 8
_HERE = pathlib.Path(__file__).parent

CONFIG = config_flags.DEFINE_config_file('config', lock_config=True)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Directory that the run writes to, and continues from.'
)


def fail_with_one_line(main: Callable[[list[str]], Any]) -> Callable[..., None]:
  """Turns the errors that a user can mend into a line and exit status 1.

  These are `ValueError` and `OSError`; every other one is a mistake of ours
  and keeps its traceback, and an interrupt stays an interrupt.
  """

  def guarded(argv):
    try:
      main(argv)
    except (ValueError, OSError) as error:
      name = pathlib.Path(sys.argv[0]).stem
      print(f'{name}: error: {" ".join(str(error).split())}', file=sys.stderr)
      sys.exit(1)

  return guarded


def _is_ours_or_serious(record: Any) -> bool:
  ours = pathlib.Path(record.pathname).is_relative_to(_HERE)
  return ours or record.levelname in ('WARNING', 'ERROR', 'CRITICAL')


def read_section(config: Any, section: str, kind: Any) -> Any:
  """A section of a config as a named tuple; missing fields have defaults.

  Raises:
    ValueError: if the section has a field that `kind` does not know.
  """
  given = dict(config.get(section, {}))
  unknown = sorted(set(given).difference(kind._fields))
  if unknown:
    raise ValueError(
      f'config.{section} must have fields among {", ".join(kind._fields)}, '
      f'because no other is read; got {", ".join(unknown)}.'
    )
  return kind(**given)


def start(
  run: Callable[[Any, pathlib.Path], Any],
  config: Callable[[], Any] | None = None,
) -> None:
  """Parses flags and calls `run(config, workdir)`.

  Args:
    run: what the binary does.
    config: makes the config; by default it is that of the flag --config.
  """

  def main(argv):
    if len(argv) > 1:
      raise app.UsageError(f'unexpected arguments: {" ".join(argv[1:])}')
    workdir = pathlib.Path(str(WORKDIR.value))
    # Compiled programs are found again by the next run of the same command.
    cache = workdir / 'compilation_cache'
    jax.config.update('jax_compilation_cache_dir', str(cache))
    # On a CPU two devices of one core each beat one of two cores.
    cores = min(os.cpu_count() or 1, _MOST_CPU_DEVICES)
    jax.config.update('jax_num_cpu_devices', cores)
    run(config() if config else CONFIG.value, workdir)

  # Data libraries log every file they touch; what matters is said here.
  logging.get_absl_logger().addFilter(_is_ours_or_serious)
  logging_of_python.getLogger('jax').setLevel('WARNING')
  flags.mark_flag_as_required('workdir')
  if not config:
    flags.mark_flag_as_required('config')
  app.run(fail_with_one_line(main))
