"""Computes the cost of a run of any size on a pod, by arithmetic alone.

  python -m experiments.scale --devices=1,8,256,4096

prints, for each number of devices, steps, bytes, files, memory and hours, at
the rate --rate, which `estimate_rllc --dry_run` measures. The default is the
paper's model at 10,000 checkpoints, 400 refinements and 20 data sets.

Exit status: 0 if the store has fewer than 100,000 files and the plan took less
than a second.
"""

import pathlib
import time

from absl import flags

from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax.estimators import scale
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
_MAX_FILES, _MAX_SECONDS = 100_000, 1.0


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Prints the plan, and returns its targets."""
  del workdir  # Nothing is written.
  began = time.perf_counter()
  counts = [int(count) for count in _DEVICES.value]
  plans = [plan(count) for count in counts]
  seconds = time.perf_counter() - began
  print(text(counts, plans), flush=True)
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
  ]


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
