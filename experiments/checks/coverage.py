"""Measures the coverage of error bars in hundreds of runs of each problem.

  python -m experiments.coverage

The problems are a bowl and a linear regression, whose values are known exactly,
biases included, and a head of a transformer that is trained here. The head is
compared with a reference at the same settings with a far smaller error. The
share of 95 % intervals that contain the true value is printed beside that of
the usual intervals, from the spread between chains.

Writes into WORKDIR, runs/coverage by default: `coverage.json`, all intervals;
`coverage.png`; in `coverage/` the transformer and its runs, from which a
stopped command resumes.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import pathlib
from typing import Any

import numpy as np
from scipy import stats
import xarray as xr

from experiments.checks import coverage_problems
from experiments.configs import coverage as head_config
from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax.estimators import errors
from rllc_jax.estimators import llc
from rllc_jax.estimators import stops
from rllc_jax.plots import coverage as plots
from rllc_jax.plots import style

NUM_RUNS = 400
NUM_DRAWS = (200, 1000)  # The 200 are the first ones of the same 1,000.
TARGET_ERRORS = (0.02, 0.05, 0.1)  # Shares of the estimate.
# Most draws of a target; a head's 2 % takes about 600.
NUM_TARGET_DRAWS, NUM_HEAD_DRAWS = 8000, 1500
BASELINES = ('paired', 'corpus')
# As many draws as 48 runs of 1,000, so the error is a seventh of a run's.
NUM_REFERENCE_RUNS, NUM_REFERENCE_DRAWS = 24, 2000

Record = dict[str, Any]


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Samples missing runs, and writes and draws the coverage of all.

  Args:
    workdir: for the results.
  """
  records, of_targets = [], []
  for problem in problems(workdir):
    records += [
      measure(problem, num_draws, baseline)
      for num_draws in NUM_DRAWS
      for baseline in BASELINES
    ]
    of_targets += [measure_target(problem, share) for share in TARGET_ERRORS]
  workdir.mkdir(parents=True, exist_ok=True)
  everything = {'records': records, 'targets': of_targets}
  checked_files.write_json(workdir / 'coverage.json', everything)
  image = style.image(plots.coverage(records), 'png')
  checked_files.write_bytes(workdir / 'coverage.png', image)
  return [*rows(records), *map(target_row, of_targets)]


def problems(workdir: pathlib.Path) -> Iterator[coverage_problems.Problem]:
  """Yields the problems one by one, to hold the traces of one at a time."""
  yield coverage_problems.bowl(NUM_RUNS, NUM_TARGET_DRAWS)
  for share_batches in (True, False):
    yield coverage_problems.linear_regression(
      NUM_RUNS, NUM_TARGET_DRAWS, share_batches=share_batches
    )
  yield coverage_problems.head(
    head_config.get_config(),
    workdir / 'coverage',  # The workdir may contain a corpus and a run already.
    NUM_RUNS,
    NUM_HEAD_DRAWS,
    num_reference_runs=NUM_REFERENCE_RUNS,
    num_reference_draws=NUM_REFERENCE_DRAWS,
  )


def measure(
  problem: coverage_problems.Problem, num_draws: int, baseline: str
) -> Record:
  """Coverage of the intervals of a problem, and of naive intervals.

  Args:
    problem: with at least `num_draws` draws.
    num_draws: draws of a chain after the burn-in; the first ones are used.
    baseline: of `llc_from_traces`.

  Returns:
    An entry of `coverage.json`: the arguments, the true value, and for 'ours'
    and 'naive' the intervals, their mean half-width and their `coverage` with
    its 95 % binomial interval.
  """
  settings = problem.traces.attrs
  burn_in = errors.default_burn_in(
    settings['step_size'], settings['localization']
  )
  traces = problem.traces.isel(draw=slice(burn_in + num_draws))
  estimates = llc.llc_from_traces(traces, baseline=baseline, burn_in=burn_in)
  flat = {name: value.values.ravel() for name, value in estimates.items()}
  ours = errors.Mean(
    flat['llc'], *(flat[name] for name in errors.Mean._fields[1:])
  )
  means = ('standard_error', 'rhat', 'ess', 'equilibrium_ratio')
  return {
    'problem': problem.name,
    'share_batches': problem.share_batches,
    'num_draws': num_draws,
    'baseline': baseline,
    'expected': problem.expected,
    'expected_error': problem.expected_error,
    'num_failed': int(flat['num_failed'].sum()),
    **{f'mean_{name}': float(flat[name].mean()) for name in means},
    'ours': _covered(ours, problem.expected),
    'naive': _covered(naive(traces, burn_in, baseline), problem.expected),
  }


def measure_target(problem: coverage_problems.Problem, share: float) -> Record:
  """Coverage of the intervals of runs to a target error.

  Args:
    problem: its traces are longer than the runs, which end where the rule says;
      draws of a run to a target are the first of a longer one.
    share: the target, of the estimate.

  Returns:
    An entry of `coverage.json`: the arguments, the true value, the intervals
    and their coverage, mean draws, and shares of runs whose error is over the
    target or that end at the most draws.
  """
  traces = problem.traces.isel(checkpoint=0, refinement=0)
  attributes = traces.attrs
  burn_in = errors.default_burn_in(
    attributes['step_size'], attributes['localization']
  )
  rule = stops.Rule(
    stops.relative(share),
    burn_in,
    traces.sizes['draw'] - burn_in,
    *(attributes[x] for x in ('nbeta', 'localization', 'step_size')),
  )
  wanted = [
    rule.stop(
      {name: traces[name].values[i] for name in stops.TRACES},
      int(traces.num_coordinates),
    )
    for i in range(traces.sizes['dataset'])
  ]
  recorded = problem.traces.recorded.copy()
  recorded[:] = np.array(wanted)[None, :, None, None]
  stopped = problem.traces.assign(recorded=recorded)
  estimates = llc.llc_from_traces(stopped, burn_in=burn_in)
  flat = {name: value.values.ravel() for name, value in estimates.items()}
  intervals = errors.Mean(
    flat['llc'], *(flat[name] for name in errors.Mean._fields[1:])
  )
  over = flat['standard_error'] > share * abs(flat['llc'])
  return {
    'problem': problem.name,
    'target': share,
    'expected': problem.expected,
    'expected_error': problem.expected_error,
    'mean_draws': float(np.mean(wanted) - burn_in),
    'over_target': float(over.mean()),
    'at_most': float(np.mean(np.array(wanted) == traces.sizes['draw'])),
    'ours': _covered(intervals, problem.expected),
  }


def naive(traces: xr.Dataset, burn_in: int, baseline: str) -> errors.Mean:
  """Intervals from the spread between chains, as other libraries report them.

  They assume independent chains, although chains may share minibatches, and an
  exact loss at the checkpoint.

  Args:
    traces: the data sets are the runs.
    burn_in: number of first draws to drop.
    baseline: 'paired' or 'corpus'.

  Returns:
    Leaves [runs].
  """
  # In float64: the difference of two losses loses digits.
  late = traces.isel(draw=slice(burn_in, None))
  if baseline == 'paired':
    center = late.center_loss.astype(np.float64).mean('draw')
  else:
    center = late.baseline_loss.astype(np.float64).mean('baseline_batch')
  losses = late.loss.astype(np.float64).mean('draw')
  chains = traces.attrs['nbeta'] * (losses - center).transpose(..., 'chain')
  chains = chains.values.reshape(-1, traces.sizes['chain'])
  means = [errors.mean_of_chains(values) for values in chains]
  return errors.Mean(*map(np.array, zip(*means, strict=True)))


def _covered(intervals: errors.Mean, expected: float) -> Record:
  hits = (intervals.low <= expected) & (expected <= intervals.high)
  # Wilson's interval is sound for shares near 1, too.
  share = stats.binomtest(int(hits.sum()), hits.size).proportion_ci(
    method='wilson'
  )
  return {
    'coverage': float(hits.mean()),
    'coverage_low': float(share.low),
    'coverage_high': float(share.high),
    'half_width': float(np.mean(intervals.high - intervals.low) / 2),
    'llc': _short(intervals.value),
    'low': _short(intervals.low),
    'high': _short(intervals.high),
  }


def _short(values: np.ndarray) -> list[float]:
  """Rounds numbers to eight digits, for JSON."""
  return [float(f'{value:.8g}') for value in values]


def rows(records: Sequence[Record]) -> list[targets.Row]:
  """Targets that the records must meet, and values that are only reported."""
  paired = [record for record in records if record['baseline'] == 'paired']
  failed = sum(record['num_failed'] for record in records)
  return [
    *map(coverage_row, records),
    # Without shared minibatches chains are independent, as it assumes.
    *map(naive_row, filter(lambda record: record['share_batches'], records)),
    *map(bias_row, paired),
    *map(reference_row, filter(lambda x: x['expected_error'], paired)),
    targets.Row('failed chains', failed, '', 'none', failed == 0),
  ]


def coverage_row(record: Record) -> targets.Row:
  """Target: coverage of 92 to 98 % with 1,000 draws, at least 90 % with fewer.

  Error bars from fewer draws are rougher. The coverage of 400 runs at 95 % has
  a standard deviation of 1.1 %.
  """
  share = 100 * record['ours']['coverage']
  if record['num_draws'] >= 1000:
    target, holds = '92 to 98', 92 <= share <= 98
  else:
    target, holds = 'at least 90', share >= 90
  note = (
    f'{_binomial(record["ours"])}; half-width '
    f'{record["ours"]["half_width"]:.3g} around {_truth(record)}'
  )
  if not record['share_batches']:
    note += f'; naive {100 * record["naive"]["coverage"]:.1f}'
  return targets.Row(_name(record), share, '%', target, holds, note)


def target_row(record: Record) -> targets.Row:
  """Target: coverage of 92 to 98 % of runs to a target error."""
  share = 100 * record['ours']['coverage']
  return targets.Row(
    f'{record["problem"]}, to {record["target"]:.0%}',
    share,
    '%',
    '92 to 98',
    92 <= share <= 98,
    f'{_binomial(record["ours"])}; {record["mean_draws"]:,.0f} draws; error '
    f'over the target in {record["over_target"]:.0%}, '
    f'{record["at_most"]:.0%} at the most draws',
  )


def naive_row(record: Record) -> targets.Row:
  """Target: naive coverage under 80 % on the corpus baseline.

  On the paired baseline it is only reported.
  """
  share = 100 * record['naive']['coverage']
  note = (
    f'{_binomial(record["naive"])}; half-width '
    f'{record["naive"]["half_width"]:.3g}'
  )
  name = f'naive: {_name(record)}'
  if record['baseline'] == 'paired':
    return targets.Row(name, share, '%', note=note)
  return targets.Row(name, share, '%', 'under 80', share < 80, note)


def bias_row(record: Record) -> targets.Row:
  """Target: a mean over runs within 4 joint standard errors of the truth."""
  values = np.array(record['ours']['llc'])
  error = values.std(ddof=1) / np.sqrt(values.size)
  bias = (values.mean() - record['expected']) / np.hypot(
    error, record['expected_error']
  )
  return targets.Row(
    f'bias: {record["problem"]}, {record["num_draws"]} draws',
    float(bias),
    'standard errors',
    'within 4',
    bool(abs(bias) <= 4),
    f'mean of runs {values.mean():.5g} ± {error:.2g}, {_truth(record)}',
  )


def reference_row(record: Record) -> targets.Row:
  """Target: an error of the reference of at most 0.2 of that of a run."""
  run_error = np.std(record['ours']['llc'], ddof=1)
  ratio = float(record['expected_error'] / run_error)
  return targets.Row(
    f'error of the reference: {record["problem"]}, {record["num_draws"]} draws',
    ratio,
    "of a run's",
    'at most 0.2',
    ratio <= 0.2,
    f'{record["expected_error"]:.2g} and {run_error:.2g}',
  )


def _name(record: Record) -> str:
  problem, baseline = record['problem'], record['baseline']
  return f'{problem}, {record["num_draws"]} draws, {baseline}'


def _binomial(method: Record) -> str:
  low, high = method['coverage_low'], method['coverage_high']
  return f'{100 * low:.1f} to {100 * high:.1f}'


def _truth(record: Record) -> str:
  if not record['expected_error']:
    return f'exact {record["expected"]:.5g}'
  return f'reference {record["expected"]:.5g} ± {record["expected_error"]:.1g}'


def main() -> None:
  """Runs the command line."""
  commands.start_targets(run, 'runs/coverage')
