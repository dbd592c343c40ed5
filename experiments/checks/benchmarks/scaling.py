"""Cost against work: does a run take the time that its size says?

One knob of a run is turned over an eight-fold range while the others stay. More
checkpoints, data sets, chains, draws and sequences a minibatch must cost in
proportion, after a fixed part: time is affine in them. Chains share what does
not move, so all chains cost less than so many runs of one. Longer sequences and
more heads a layer must cost what their multiply-adds do.

Every call is one of `estimate_trajectory` in memory, in float32 on one device,
of a program that is compiled already. Sizes are timed in turn, again and again,
and the least time of each is taken: what disturbs the machine for a while meets
all sizes alike.
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
  """How much is measured.

  Attributes:
    base: the run that sweeps start from.
    shortest: the context length that its own sweep starts from.
    factors: by which a knob is turned.
    layers: in which the multiply-adds are swept.
    num_rounds: how often every size is timed.
    most_rounds: how often at most, where some time is off its line.
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
  """One knob, turned.

  Attributes:
    knob: what is turned, in words.
    law: 'affine' in the value, or in the 'multiply-adds'.
    values: of the knob.
    sizes: of the runs.
  """

  knob: str
  law: str
  values: tuple[int, ...]
  sizes: tuple[runs.Size, ...]


def rows(workdir: pathlib.Path, *, quick: bool) -> list[targets.Row]:
  """Measures, and draws `WORKDIR/benchmark/scaling.png`.

  Args:
    workdir: the figure and the times, `scaling.json`, go below it.
    quick: three sizes of each knob, smaller ones, layer 0 alone.
  """
  records = measure(QUICK if quick else FULL)
  directory = workdir / 'benchmark'
  directory.mkdir(parents=True, exist_ok=True)
  (directory / 'scaling.json').write_text(json.dumps(records) + '\n')
  drawn = style.image(plots.scaling(records), 'png')
  (directory / 'scaling.png').write_bytes(drawn)
  return list(map(row, records))


def measure(plan: Plan) -> list[Record]:
  """Times every size in turn, round after round.

  A round only ever lowers a least time, towards that of a machine with nothing
  else to do; so rounds are added while a time is off its line, up to a limit.
  """
  swept = list(sweeps(plan))
  calls = {size: runs.call(size) for sweep in swept for size in sweep.sizes}
  for run in calls.values():
    run()  # Compiles.
  seconds: dict[runs.Size, list[float]] = {size: [] for size in calls}
  records: list[Record] = []
  for count in range(1, plan.most_rounds + 1):
    for size, run in calls.items():
      began = time.perf_counter()
      run()
      seconds[size].append(time.perf_counter() - began)
    records = [record(sweep, seconds) for sweep in swept]
    if count >= plan.num_rounds and all(row(found).holds for found in records):
      break
  return records


def sweeps(plan: Plan) -> Iterator[Sweep]:
  """Every knob; those that change the multiply-adds, in each layer."""

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


# The one beside the other.


class Fit(NamedTuple):
  """A line through times, by least squares of relative residuals.

  Attributes:
    fixed: seconds that hang on no work.
    per_work: seconds a unit of work.
    residuals: of each time, in percent of the line.
    share: what work makes of the time at most work, in percent.
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
    >>> found = fit([1, 2, 4, 8], [3, 5, 9, 17])
    >>> print(f'{found.fixed:.3f} {found.per_work:.3f} {found.share:.1f}')
    1.000 2.000 94.1
  """
  x, y = np.array(amounts, float), np.array(seconds, float)
  scale = x.max()
  columns = np.stack([np.ones_like(x), x / scale], axis=1)
  found, *_ = np.linalg.lstsq(columns / y[:, None], np.ones_like(y))
  line = columns @ found
  return Fit(
    float(found[0]),
    float(found[1] / scale),
    (100 * (y / line - 1)).tolist(),
    float(100 * found[1] / line[-1]),
  )


def record(
  sweep: Sweep, seconds: Mapping[runs.Size, Sequence[float]]
) -> Record:
  """What `scaling.json` has an entry of: a sweep, its times and its line."""
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


def row(found: Record) -> targets.Row:
  """The worst residual of a line, which work and not the fixed part makes."""
  worst = max(map(abs, found['residuals']))
  times = ', '.join(f'{value:.3g}' for value in found['seconds'])
  values = ', '.join(map(str, found['values']))
  return targets.Row(
    f'cost against {found["knob"]}, farthest from {found["law"]}',
    worst,
    '%',
    f'at most {found["tolerance"]:g}, and work half the time',
    worst <= found['tolerance'] and found['share'] >= 50,
    f'{times} s at {values}; work makes {found["share"]:.0f} % of the last',
  )
