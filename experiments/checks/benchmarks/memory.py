"""Peak memory of the main job at full size, by number of chains.

It is taken from XLA, which is exact for its allocations, and from the process.
The job is started, watched until its memory has stopped growing, and killed: it
would take hours on a CPU.
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
_MAX_GROWTH = 1.25  # A chain only adds 131 kB of weights.
_WATCHED_SECONDS = 40


def rows(
  workdir: pathlib.Path, problem: problems.Problem, *, quick: bool
) -> Iterator[targets.Row]:
  """Targets for peak memory at 4 and 64 chains of 16 heads, and its growth."""
  accounts = {n: accounted_bytes(problem, n) for n in NUM_CHAINS}
  yield from _rows_of('peak memory by XLA', accounts, 'of all devices together')
  if quick:
    return
  resident = {n: resident_bytes(workdir, n) for n in NUM_CHAINS}
  note = f'of the process, within {_WATCHED_SECONDS} s of its first step'
  yield from _rows_of('peak memory', resident, note)


def _rows_of(name, sizes, note) -> Iterator[targets.Row]:
  for num_chains, value in sizes.items():
    yield targets.Row(
      f'{name}, {num_chains} chains',
      1e-9 * value,
      'GB',
      'under 4',
      value < _LIMIT,
      f'16 heads, {compilations.FULL_BATCH} x 1,024 tokens, chunk 1; {note}',
    )
  smallest, largest = (sizes[n] for n in NUM_CHAINS)
  yield targets.Row(
    f'{name}, {NUM_CHAINS[1]} chains over {NUM_CHAINS[0]}',
    largest / smallest,
    '',
    f'at most {_MAX_GROWTH}',
    largest / smallest <= _MAX_GROWTH,
  )


def accounted_bytes(problem: problems.Problem, num_chains: int) -> int:
  """Bytes of arguments, results and temporaries of the larger program."""
  sizes = []
  for layer in range(problems.MODEL.num_layers):
    compiled = compilations.compiled_at_full_size(problem, layer, num_chains)
    memory = compiled.memory_analysis()
    sizes.append(
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes  # Donated arguments count as results, too.
    )
  return max(sizes) * len(jax.local_devices())


def resident_bytes(workdir: pathlib.Path, num_chains: int) -> int:
  """Peak memory of a process of this job, the larger of both layers."""
  sizes = []
  for layer in range(problems.MODEL.num_layers):
    command = [sys.executable, '-m', 'experiments.checks.benchmarks.memory']
    command += [str(workdir), str(layer), str(num_chains)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
      try:
        sizes.append(_watch_peak(child))
      finally:
        child.kill()
  return max(sizes)


def _watch_peak(child: subprocess.Popen) -> int:
  """Peak of the resident bytes after the child has printed 'start'."""
  if child.stdout is None or child.stdout.readline() != 'start\n':
    raise ValueError('The job that is watched must start; it ended before.')
  until = time.monotonic() + _WATCHED_SECONDS
  peak = 0
  while time.monotonic() < until and child.poll() is None:
    text = pathlib.Path(f'/proc/{child.pid}/status').read_text()
    # The peak so far, so that no moment between two polls is missed.
    (line,) = [line for line in text.splitlines() if line.startswith('VmHWM')]
    peak = max(peak, 1024 * int(line.split()[1]))
    time.sleep(0.2)
  return peak


def run_job(workdir: pathlib.Path, layer: int, num_chains: int) -> None:
  """Runs 200 steps of the main job of one layer at full size."""
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
