"""Processes of their own, forked from one that has imported JAX.

Each has a pid and a JAX backend of its own and can be killed like any process;
only its imports, several seconds, were done before. The one it is forked from
never starts a backend, whose threads a fork would lose.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types

ROOT = pathlib.Path(__file__).parent.parent


class Process:
  """A process, with the methods of `subprocess.Popen` that tests use.

  `program` is the name of a binary, such as 'train', or the text of a program;
  `variables` are added to its environment. If `merged`, what it writes to
  stderr is in stdout, in order.
  """

  def __init__(self, program, *arguments, merged=False, **variables):
    server = multiprocessing.get_context('forkserver')
    server.set_forkserver_preload(['tests.imported'])
    output = pathlib.Path(tempfile.mkdtemp())
    self._outputs = [output / '1', output / ('1' if merged else '2')]
    for path in self._outputs:
      path.touch()
    self._process = server.Process(
      target=_main, args=(program, arguments, variables, self._outputs)
    )
    self._process.start()
    self.pid = self._process.pid

  @property
  def returncode(self):
    return self._process.exitcode

  def poll(self):
    return self._process.exitcode

  def send_signal(self, number):
    if self.poll() is None:  # As of Popen: one that has ended gets none.
      os.kill(self.pid, number)

  def terminate(self):
    self.send_signal(signal.SIGTERM)

  def kill(self):
    self.send_signal(signal.SIGKILL)

  def communicate(self, timeout=None):
    """(stdout, stderr) once it has ended."""
    self._process.join(timeout)
    if self._process.exitcode is None:
      raise subprocess.TimeoutExpired(str(self._process), timeout)
    return tuple(path.read_text() for path in self._outputs)

  def wait_for_lines(self, number):
    """Waits until it has printed so many lines, or has ended."""
    count = lambda: self._outputs[0].read_bytes().count(b'\n')
    while self.poll() is None and count() < number:
      time.sleep(0.005)


def run(program, *arguments, **variables):
  """A process that has ended: `returncode`, `stdout` and `stderr`."""
  process = Process(program, *arguments, **variables)
  stdout, stderr = process.communicate(timeout=600)
  return subprocess.CompletedProcess(
    [program, *arguments], process.returncode, stdout, stderr
  )


def _main(program, arguments, variables, outputs):
  for number, path in enumerate(outputs, 1):
    os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
  os.chdir(ROOT)
  os.environ.update(variables)
  import jax

  jax.config.update('jax_num_cpu_devices', 2)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  name = program if program.isidentifier() else '-c'
  sys.argv = [name, *map(str, arguments)]
  status = 0
  try:
    if program.isidentifier():
      name = f'experiments.{program}'
      sys.modules.pop(name, None)  # Or runpy warns that it runs it again.
      runpy.run_module(name, run_name='__main__', alter_sys=True)
    else:
      main = sys.modules['__main__'] = types.ModuleType('__main__')
      exec(textwrap.dedent(program), main.__dict__)
  except SystemExit as ended:
    status = ended.code
  finally:
    atexit._run_exitfuncs()  # multiprocessing leaves them out.
    sys.stdout.flush()
    sys.stderr.flush()
  sys.exit(status)
