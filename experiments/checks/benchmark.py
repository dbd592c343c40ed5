"""Measures speed and memory, against the hardware's limits and devinterp.

  python -m experiments.benchmark [--quick] [--against=devinterp]

times the paper's transformer on this machine, in float32. With
--against=devinterp, which needs the extra `bench`, devinterp 2.0.1 takes steps
in turn with ours on the same weights and sequences. It takes about half an hour
on two cores. With --quick it takes some five minutes: runs are smaller, hence
noisier, and measurements that need minutes are left out. Run nothing else on
the machine meanwhile. Earlier figures are in docs/results.md.
"""

import pathlib

from absl import flags
from absl import logging

from experiments.checks import parity_devinterp
from experiments.checks.benchmarks import compilations
from experiments.checks.benchmarks import cost
from experiments.checks.benchmarks import foreign
from experiments.checks.benchmarks import generic
from experiments.checks.benchmarks import memory
from experiments.checks.benchmarks import precision
from experiments.checks.benchmarks import problem as problems
from experiments.checks.benchmarks import scaling
from experiments.checks.benchmarks import speed
from experiments.checks.benchmarks import yardstick
from experiments.runtime import commands
from experiments.runtime import targets

QUICK = flags.DEFINE_bool(
  'quick', False, 'Some five minutes instead of thirty.'
)
AGAINST = flags.DEFINE_enum(
  'against', None, ['devinterp'], 'The program to compare with; none if unset.'
)


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Measures everything, and returns the targets."""
  peer = parity_devinterp.import_peer() if AGAINST.value else None
  quick = QUICK.value
  problem = problems.prepare(workdir)
  # First, because the yardstick is compared with these times.
  timing = speed.measure(problem, peer, quick=quick)
  parts = {
    'speed': lambda: speed.rows(timing),
    'yardstick': lambda: yardstick.rows(problem, speed.least(timing)),
    'precision': lambda: precision.rows(workdir, quick=quick) if peer else (),
    'generic path': lambda: generic.rows(problem, quick=quick),
    'compilations': lambda: compilations.rows(problem),
    'memory': lambda: memory.rows(workdir, problem, quick=quick),
    'models of Hugging Face': lambda: (
      foreign.rows(workdir, peer, quick=quick) if peer else ()
    ),
    'cost': lambda: () if quick else cost.rows(workdir, peer),
    'scaling': lambda: scaling.rows(workdir, quick=quick),
  }
  rows = []
  for name, part in parts.items():
    logging.info('%s ...', name)
    rows += part()
  return rows


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/benchmark')
