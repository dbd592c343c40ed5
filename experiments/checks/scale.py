"""Computes the cost of a run of any size on a pod, by arithmetic alone.

  python -m experiments.scale --devices=1,8,256,4096

prints, for each number of devices, steps, bytes, files, memory and hours, at
the rate --rate, which `estimate_rllc --dry_run` measures. The default is the
paper's model at 10,000 checkpoints, 400 refinements and 20 data sets.

With --segments=N it also writes a store of so many files of made-up draws,
opens it and reads a cell of it.

Exit status: 0 if the store has fewer than 100,000 files, the plan took less
than a second, and the made-up store opens within 10 s and gives a cell within
0.2 s, in less than 2 GB of memory.
"""

import pathlib
import resource
import shutil
import time

from absl import flags
import numpy as np

from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax.estimators import scale
from rllc_jax.results import blocks
from rllc_jax.results import exports
from rllc_jax.results import run_file
from rllc_jax.results import store as stores

_DEVICES = flags.DEFINE_list('devices', '1,8,256,4096', 'Numbers of devices.')
_PER_PROCESS = flags.DEFINE_integer(
  'devices_per_process', 8, 'Devices that a process sees, at most.'
)
_CHECKPOINTS = flags.DEFINE_integer('checkpoints', 10_000, 'Checkpoints.')
_REFINEMENTS = flags.DEFINE_integer('refinements', 400, 'Refinements.')
_DATASETS = flags.DEFINE_integer('datasets', 20, 'Data sets.')
_CHAINS = flags.DEFINE_integer('chains', 4, 'Chains a refinement.')
_DRAWS = flags.DEFINE_integer('draws', 250, 'Draws a chain, with burn-in.')
_COORDINATES = flags.DEFINE_integer(
  'coordinates', 32_768, 'Numbers that move in a refinement.'
)
_PARAMETERS = flags.DEFINE_integer(
  'parameters', 3_350_000, 'Numbers of a checkpoint.'
)
_DATA_MB = flags.DEFINE_float('data_mb', 50.0, 'Data on a device, 10^6 bytes.')
_RATE = flags.DEFINE_float(
  'rate', 100.0, 'SGLD steps of a chain that a device does in a second.'
)
_SEGMENTS = flags.DEFINE_integer('segments', 0, 'Files of a made-up store.')
_PER_BLOCK = flags.DEFINE_integer(
  'segments_per_block', 20, 'Files of a block of the made-up store.'
)
_MAX_FILES, _MAX_SECONDS = 100_000, 1.0
_MAX_OPEN, _MAX_READ, _MAX_GB = 10.0, 0.2, 2.0
_PARTS, _SEGMENT_CHAINS, _SEGMENT_DRAWS = 16, 4, 5


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Prints the plan, and returns its targets."""
  began = time.perf_counter()
  counts = [int(count) for count in _DEVICES.value]
  plans = [plan(count) for count in counts]
  seconds = time.perf_counter() - began
  print(text(counts, plans), flush=True)
  opened = _open_store(workdir / 'made_up') if _SEGMENTS.value else []
  # The store is the same for all numbers of devices.
  files = plans[0].num_files + plans[0].chain_files
  return [
    targets.Row(
      'files of the store, merged',
      files,
      '',
      f'< {_MAX_FILES}',
      files < _MAX_FILES,
      f'the largest is {plans[0].file_bytes / 1e6:.0f} MB',
    ),
    targets.Row(
      'time to plan',
      seconds,
      's',
      f'< {_MAX_SECONDS:.0f}',
      seconds < _MAX_SECONDS,
      f'{len(counts)} plans',
    ),
    *opened,
  ]


def _open_store(path: pathlib.Path) -> list[targets.Row]:
  """Writes a store of made-up draws, and times how it is read."""
  shutil.rmtree(path, ignore_errors=True)
  steps = _write_store(path)
  began = time.perf_counter()
  results = exports.open_results(path)
  opening = time.perf_counter() - began
  began = time.perf_counter()
  cell = results.loss.sel(checkpoint=steps // 2, refinement='3')
  count = int(np.isfinite(cell.values).sum())
  reading = time.perf_counter() - began
  memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
  shutil.rmtree(path)
  row = lambda name, value, unit, most, note='': targets.Row(
    name, value, unit, f'<= {most:g}', value <= most, note
  )
  files = f'{_SEGMENTS.value:,} files, {_PER_BLOCK.value} a block'
  return [
    row('to open a made-up store', opening, 's', _MAX_OPEN, files),
    row('to read a cell of it', reading, 's', _MAX_READ, f'{count} draws'),
    row('memory of the process', memory, 'GB', _MAX_GB),
  ]


def _write_store(path: pathlib.Path) -> int:
  """Writes so many files as the flag says; returns the number of steps."""
  steps = -(-_SEGMENTS.value // _PER_BLOCK.value)
  names = tuple(map(str, range(_PARTS)))
  num_draws = _PER_BLOCK.value * _SEGMENT_DRAWS
  extent = stores.Extent(
    tuple(range(steps)), ('text',), names, _SEGMENT_CHAINS, num_draws
  )
  identity = {
    'num_steps_between_draws': 1,
    'num_coordinates': dict.fromkeys(names, 10),
    'params': {str(step): 'x' for step in range(steps)},
    **dict.fromkeys(('nbeta', 'localization', 'step_size'), 1.0),
  }
  run = run_file.Run(identity, extent)
  (path / 'traces').mkdir(parents=True)
  run.save(path)
  draws = np.zeros((1, _PARTS * _SEGMENT_CHAINS, _SEGMENT_DRAWS), np.float32)
  arrays = {f'trace_{i}': draws for i in range(6)} | {'loss': draws}
  columns = tuple((x, c) for x in names for c in range(_SEGMENT_CHAINS))
  for number in range(_SEGMENTS.value):
    step, segment = divmod(number, _PER_BLOCK.value)
    block = blocks.Block(((step, 'text'),), columns)
    first = segment * _SEGMENT_DRAWS
    part = blocks.Part(block, first, first + _SEGMENT_DRAWS, arrays, '')
    name, data = blocks.encoded(part, '000001abcdef01', run.identity_of)
    # Not as a run does, which waits for the disk each time.
    (path / 'traces' / str(name)).write_bytes(data)
  return steps


def plan(num_devices: int) -> scale.Scale:
  """The plan of the run that the flags describe.

  Raises:
    ValueError: if a number is not positive.
  """
  numbers = [num_devices, _PER_PROCESS.value, _CHECKPOINTS.value]
  numbers += [_REFINEMENTS.value, _DATASETS.value, _CHAINS.value, _DRAWS.value]
  if min(*numbers, _RATE.value) <= 0:
    raise ValueError(
      'Numbers of devices, of all that is estimated, and the rate must be '
      f'positive, because time is their quotient; got {numbers} and '
      f'{_RATE.value}.'
    )
  extent = stores.Extent(
    tuple(range(_CHECKPOINTS.value)),
    tuple(map(str, range(_DATASETS.value))),
    tuple(map(str, range(_REFINEMENTS.value))),
    _CHAINS.value,
    _DRAWS.value,
  )
  sizes = scale.Sizes(
    _COORDINATES.value, _PARAMETERS.value, int(_DATA_MB.value * 1e6)
  )
  machines = scale.Machines(num_devices, min(num_devices, _PER_PROCESS.value))
  return scale.scale(extent, sizes, machines, _RATE.value)


def text(counts: list[int], plans: list[scale.Scale]) -> str:
  """Text table of the plans, a column a number of devices."""
  terabytes = lambda size: f'{size / 1e12:.3g}'
  lines = {
    'devices': [f'{count:,}' for count in counts],
    'SGLD steps of chains': [f'{x.chain_steps:.3g}' for x in plans],
    'traces, TB': [terabytes(x.trace_bytes) for x in plans],
    'chains if they are kept, TB': [terabytes(x.chain_bytes) for x in plans],
    'files of traces': [f'{x.num_files:,}' for x in plans],
    'and if chains are kept': [f'{x.chain_files:,}' for x in plans],
    'MB of the largest': [f'{x.file_bytes / 1e6:.1f}' for x in plans],
    'GB of memory a process': [f'{x.host_bytes / 1e9:.3g}' for x in plans],
    'hours': [f'{x.hours:,.1f}' for x in plans],
    'balance of devices': [f'{x.balance:.1%}' for x in plans],
  }
  return '\n'.join(
    f'{name:<28}' + ''.join(f'{value:>14}' for value in values)
    for name, values in lines.items()
  )


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/scale')
