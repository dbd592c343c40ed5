"""Compares the time of runs with their size.

One size of a run is varied over an eight-fold range while the rest is fixed.
Time must be affine in the number of checkpoints, data sets, chains, draws and
sequences a minibatch. Chains share the frozen part, so several chains cost less
than as many runs of one. For longer sequences and more heads a layer, time must
be affine in the multiply-adds.

Every call is one of `estimate_trajectory` in memory, in float32 on one device,
after compilation. All sizes are timed in turn, several times, and the least
time of each counts: a disturbance of the machine then affects all sizes alike.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import json
import pathlib
import time
from typing import Any, NamedTuple

import numpy as np

from experiments.checks.benchmarks import runs
from experiments.runtime import targets
from rllc_jax.plots import scaling as plots
from rllc_jax.plots import style

AFFINE, MULTIPLY_ADDS = 'affine', 'multiply-adds'
TOLERANCES = {AFFINE: 10.0, MULTIPLY_ADDS: 15.0}  # Percent.
_FEWEST_HEADS = 2

Record = dict[str, Any]


class Plan(NamedTuple):
  """Sizes and rounds of the measurement.

  Attributes:
    base: the run from which sweeps start.
    shortest: the context length from which the sweep over it starts.
    factors: of the size that is varied.
    layers: whose multiply-adds are swept.
    num_rounds: number of times that every size is timed.
    most_rounds: the same at most, if some time is off its line.
  """

  base: runs.Size
  shortest: int
  factors: tuple[int, ...]
  layers: tuple[int, ...]
  num_rounds: int
  most_rounds: int


FULL = Plan(runs.Size(), 128, (1, 2, 4, 8), (0, 1), 4, 8)
QUICK = Plan(runs.Size(context_length=32), 64, (1, 4, 8), (0,), 2, 4)


class Sweep(NamedTuple):
  """Runs in which one size is varied.

  Attributes:
    knob: name of the varied size.
    law: 'affine' in the value, or in the 'multiply-adds'.
    values: of the size.
    sizes: of the runs.
  """

  knob: str
  law: str
  values: tuple[int, ...]
  sizes: tuple[runs.Size, ...]


def rows(workdir: pathlib.Path, *, quick: bool) -> list[targets.Row]:
  """Measures, draws `WORKDIR/benchmark/scaling.png` and returns the targets.

  Args:
    workdir: for the figure and the times, `scaling.json`.
    quick: three smaller sizes in each sweep, and layer 0 alone.
  """
  records = measure(QUICK if quick else FULL)
  directory = workdir / 'benchmark'
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'scaling.json').write_text(json.dumps(records) + '\n')
  image = style.image(plots.scaling(records), 'png')
  (directory / 'scaling.png').write_bytes(image)
  return list(map(row, records))


def measure(plan: Plan) -> list[Record]:
  """Times every size in turn, round after round.

  Another round can only lower a least time, towards that of an idle machine. So
  rounds are added while a time is off its line, up to a limit.
  """
  all_sweeps = list(sweeps(plan))
  calls = {
    size: runs.call(size) for sweep in all_sweeps for size in sweep.sizes
  }
  for run in calls.values():
    run()  # Compiles.
  seconds: dict[runs.Size, list[float]] = {size: [] for size in calls}
  records: list[Record] = []
  for count in range(1, plan.most_rounds + 1):
    for size, run in calls.items():
      began = time.perf_counter()
      run()
      seconds[size].append(time.perf_counter() - began)
    records = [record(sweep, seconds) for sweep in all_sweeps]
    if count >= plan.num_rounds and all(row(entry).holds for entry in records):
      break
  return records


def sweeps(plan: Plan) -> Iterator[Sweep]:
  """Yields all sweeps; those over multiply-adds are made in each layer."""

  def affine(knob, field):
    start = getattr(plan.base, field)
    values = tuple(factor * start for factor in plan.factors)
    sizes = (plan.base._replace(**{field: value}) for value in values)
    return Sweep(knob, AFFINE, values, tuple(sizes))

  yield affine('checkpoints', 'num_checkpoints')
  yield affine('data sets', 'num_datasets')
  yield affine('chains', 'num_chains')
  yield affine('draws', 'num_draws')
  yield affine('batch', 'batch_size')
  for layer in plan.layers:
    base = plan.base._replace(layer=layer)
    values = tuple(factor * plan.shortest for factor in plan.factors)
    sizes = (base._replace(context_length=value) for value in values)
    knob = f'context length, layer {layer}'
    yield Sweep(knob, MULTIPLY_ADDS, values, tuple(sizes))
    # All heads of a layer, in models of two to sixteen.
    values = tuple(factor * _FEWEST_HEADS for factor in plan.factors)
    sizes = (base._replace(num_heads=n, num_moving=n) for n in values)
    yield Sweep(f'heads, layer {layer}', MULTIPLY_ADDS, values, tuple(sizes))


class Fit(NamedTuple):
  """A line through times, by least squares of relative residuals.

  Attributes:
    fixed: seconds that do not depend on the work.
    per_work: seconds a unit of work.
    residuals: of each time, in percent of the line.
    share: of the work in the time of the largest run, in percent.
  """

  fixed: float
  per_work: float
  residuals: list[float]
  share: float


def fit(amounts: Sequence[float], seconds: Sequence[float]) -> Fit:
  """Fits seconds = fixed + per_work x amount.

  Args:
    amounts: of work, ascending.
    seconds: of each.

  Examples:
    >>> line = fit([1, 2, 4, 8], [3, 5, 9, 17])
    >>> print(f'{line.fixed:.3f} {line.per_work:.3f} {line.share:.1f}')
    1.000 2.000 94.1
  """
  x, y = np.array(amounts, float), np.array(seconds, float)
  scale = x.max()
  # Scaled to 1, because multiply-adds of 1e12 beside 1 are ill-conditioned.
  columns = np.stack([np.ones_like(x), x / scale], axis=1)
  # Divided by the times, so that residuals are relative.
  coefficients, *_ = np.linalg.lstsq(columns / y[:, None], np.ones_like(y))
  line = columns @ coefficients
  return Fit(
    float(coefficients[0]),
    float(coefficients[1] / scale),
    (100 * (y / line - 1)).tolist(),
    float(100 * coefficients[1] / line[-1]),
  )


def record(
  sweep: Sweep, seconds: Mapping[runs.Size, Sequence[float]]
) -> Record:
  """An entry of `scaling.json`: a sweep, its times and its line."""
  amounts = list(sweep.values)
  if sweep.law == MULTIPLY_ADDS:
    amounts = [runs.multiply_adds(size) for size in sweep.sizes]
  least = [min(seconds[size]) for size in sweep.sizes]
  return {
    'knob': sweep.knob,
    'law': sweep.law,
    'tolerance': TOLERANCES[sweep.law],
    'values': list(sweep.values),
    'work': amounts,
    'seconds': least,
    'rounds': [list(seconds[size]) for size in sweep.sizes],
    **fit(amounts, least)._asdict(),
  }


def row(entry: Record) -> targets.Row:
  """Targets: a small worst residual, and half of the time due to work."""
  worst = max(map(abs, entry['residuals']))
  times = ', '.join(f'{value:.3g}' for value in entry['seconds'])
  values = ', '.join(map(str, entry['values']))
  return targets.Row(
    f'cost against {entry["knob"]}, farthest from {entry["law"]}',
    worst,
    '%',
    f'at most {entry["tolerance"]:g}, and work half the time',
    worst <= entry['tolerance'] and entry['share'] >= 50,
    f'{times} s at {values}; work makes {entry["share"]:.0f} % of the last',
  )
