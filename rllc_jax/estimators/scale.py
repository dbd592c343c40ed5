"""Costs of a run of any size on any number of devices, by arithmetic alone.

Nothing is compiled or timed: the rate is given. `plan` measures what a run of
now takes here.
"""

import math
from typing import NamedTuple

from rllc_jax.results import merging
from rllc_jax.results import store as stores


class Machines(NamedTuple):
  """Where a run takes place.

  Attributes:
    num_devices: of all processes.
    devices_per_process: those that a process sees.
  """

  num_devices: int
  devices_per_process: int

  @property
  def num_processes(self) -> int:
    """Processes that share the work."""
    return math.ceil(self.num_devices / self.devices_per_process)


class Sizes(NamedTuple):
  """Bytes and numbers that a run is made of.

  Attributes:
    coordinates: numbers that move in a refinement, on average.
    parameters: numbers of a checkpoint.
    data_bytes: resident on every device.
    traces: arrays that are recorded.
    state_arrays: of a chain, like the weights that move: position, last noise
      and noise of minibatches by default.
    steps_between_draws: SGLD steps from one draw to the next.
  """

  coordinates: int
  parameters: int
  data_bytes: int
  traces: int = 7
  state_arrays: int = 3
  steps_between_draws: int = 1


class Scale(NamedTuple):
  """Costs of a run.

  Attributes:
    chain_steps: SGLD steps of all chains.
    trace_bytes: of the traces of the store.
    chain_bytes: of the chains, if they are kept.
    num_files: of traces, once they are merged (`experiments.compact`).
    chain_files: of kept chains, once they are merged.
    file_bytes: of the largest file of traces.
    host_bytes: memory of a process for checkpoints, data and a block's draws.
    hours: at the given rate, padding included.
    balance: mean work of a device over the most of any.
  """

  chain_steps: int
  trace_bytes: int
  chain_bytes: int
  num_files: int
  chain_files: int
  file_bytes: int
  host_bytes: int
  hours: float
  balance: float


def scale(
  extent: stores.Extent, sizes: Sizes, machines: Machines, rate: float
) -> Scale:
  """Computes the costs of a run.

  Args:
    extent: its coordinates.
    sizes: bytes and numbers.
    machines: where.
    rate: SGLD steps of a chain a device does in a second.
  """
  columns = len(extent.refinements) * extent.num_chains
  rows = len(extent.checkpoints) * len(extent.datasets)
  steps = rows * columns * extent.num_draws * sizes.steps_between_draws
  row_bytes = 4 * columns * extent.num_draws * sizes.traces
  chain_bytes = 4 * columns * sizes.coordinates * sizes.state_arrays
  of_process = math.ceil(rows / machines.num_processes)
  most = math.ceil(of_process / machines.devices_per_process)
  per_file = merging.rows_per_file(rows, row_bytes)
  devices = machines.devices_per_process
  return Scale(
    chain_steps=steps,
    trace_bytes=rows * row_bytes,
    chain_bytes=rows * chain_bytes,
    num_files=math.ceil(rows / per_file),
    chain_files=math.ceil(rows / merging.rows_per_file(rows, chain_bytes)),
    file_bytes=per_file * row_bytes,
    host_bytes=devices * (4 * sizes.parameters + sizes.data_bytes + row_bytes),
    hours=most * steps / rows / rate / 3600,
    balance=rows / machines.num_devices / most,
  )
