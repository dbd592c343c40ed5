"""Peak memory of the whole main job at full size, by number of chains.

From the accounts of XLA, which are exact for what it allocates, and from the
process: the job is started for real, watched until its memory has long stopped
growing, and killed, since to finish it would take hours on a CPU.
"""

from collections.abc import Iterator
import pathlib
import subprocess
import sys
import time

import jax

from experiments.checks.benchmarks import compilations
from experiments.checks.benchmarks import problem as problems
from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax.estimators import grid

NUM_CHAINS = (4, 64)
_LIMIT = 4e9
_MOST_GROWTH = 1.25  # Chains keep 131 kB of weights each; that is all.
_WATCHED_SECONDS = 40


def rows(
  workdir: pathlib.Path, problem: problems.Problem, *, quick: bool
) -> Iterator[targets.Row]:
  """Peak memory at 4 and at 64 chains of 16 heads, and that it is flat."""
  accounts = {n: accounted_bytes(problem, n) for n in NUM_CHAINS}
  yield from _judged('peak memory by XLA', accounts, 'of all devices together')
  if quick:
    return
  resident = {n: resident_bytes(workdir, n) for n in NUM_CHAINS}
  note = f'of the process, within {_WATCHED_SECONDS} s of its first step'
  yield from _judged('peak memory', resident, note)


def _judged(name, found, note) -> Iterator[targets.Row]:
  for num_chains, value in found.items():
    yield targets.Row(
      f'{name}, {num_chains} chains',
      1e-9 * value,
      'GB',
      'under 4',
      value < _LIMIT,
      f'16 heads, {compilations.FULL_BATCH} x 1,024 tokens, chunk 1; {note}',
    )
  least, most = (found[n] for n in NUM_CHAINS)
  yield targets.Row(
    f'{name}, {NUM_CHAINS[1]} chains over {NUM_CHAINS[0]}',
    most / least,
    '',
    f'at most {_MOST_GROWTH}',
    most / least <= _MOST_GROWTH,
  )


def accounted_bytes(problem: problems.Problem, num_chains: int) -> int:
  """Arguments, results and temporary arrays of the larger layer's program."""
  found = []
  for layer in range(problems.MODEL.num_layers):
    compiled = compilations.compiled_at_full_size(problem, layer, num_chains)
    memory = compiled.memory_analysis()
    found.append(
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )
  return max(found) * len(jax.local_devices())


def resident_bytes(workdir: pathlib.Path, num_chains: int) -> int:
  """The most memory that a process of this job holds, over both layers."""
  found = []
  for layer in range(problems.MODEL.num_layers):
    command = [sys.executable, '-m', 'experiments.checks.benchmarks.memory']
    command += [str(workdir), str(layer), str(num_chains)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
      try:
        found.append(_watched(child))
      finally:
        child.kill()
  return max(found)


def _watched(child: subprocess.Popen) -> int:
  """The most bytes resident, from when the child says that it starts."""
  if child.stdout is None or child.stdout.readline() != 'start\n':
    raise ValueError('The job that is watched must start; it ended before.')
  until = time.monotonic() + _WATCHED_SECONDS
  most = 0
  while time.monotonic() < until and child.poll() is None:
    text = pathlib.Path(f'/proc/{child.pid}/status').read_text()
    (line,) = [line for line in text.splitlines() if line.startswith('VmHWM')]
    most = max(most, 1024 * int(line.split()[1]))
    time.sleep(0.2)
  return most


def run_job(workdir: pathlib.Path, layer: int, num_chains: int) -> None:
  """The main job of one layer at full size, one checkpoint, 200 steps."""
  commands.set_up_jax(workdir)
  problem = problems.prepare(workdir)
  context_length = problems.MODEL.context_length
  data = problems.batches(problem, compilations.FULL_BATCH, context_length)
  heads = range(problems.MODEL.num_heads)
  run = problems.runner(
    problem,
    tuple(f'{layer}:{head}' for head in heads),
    data,
    num_chains=num_chains,
    num_steps=200,
    mesh=grid.default_mesh(1),
  )
  print('start', flush=True)
  run()


if __name__ == '__main__':
  run_job(pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
