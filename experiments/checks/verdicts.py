"""Measures how often the verdict is wrong, both ways.

  python -m experiments.verdicts

Many runs of each problem are judged after 24, 48, 100 and 400 draws. Of those
in equilibrium with a bias under 2.5 % at most 5 % may be flagged; of those off
by over 10 %, because of the step, a cold start, divergence or a chain that went
to another well, at least 95 %. A well that no chain has left, or that all have
left, cannot be told from one run, and is not among them.

The last rows are of a head of a small transformer, which is trained into
WORKDIR, runs/verdicts by default. A row is all problems of a kind together.
"""

from collections.abc import Iterator
import pathlib

from absl import logging
import numpy as np
import xarray as xr

from experiments.checks import coverage_problems
from experiments.checks import verdict_problems as problems
from experiments.configs import coverage as head_config
from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax.estimators import llc

NUM_RUNS = 200
NUM_DRAWS = (24, 48, 100, problems.NUM_DRAWS)
MOST_FALSE, LEAST_TRUE = 5.0, 95.0  # Percent.


def run(workdir: pathlib.Path) -> list[targets.Row]:
  """Samples every problem and counts verdicts.

  Args:
    workdir: for the transformer.
  """
  rows = []
  for problem in _problems(workdir):
    traces = problem.sample(NUM_RUNS)
    for num_draws in NUM_DRAWS:
      row = _row(problem, _first_draws(traces, num_draws), num_draws)
      if row is not None:
        logging.info('%s', row)
        rows.append(row)
  return rows


def _problems(workdir: pathlib.Path) -> Iterator[problems.Problem]:
  yield from problems.problems()
  sample = lambda num_runs: coverage_problems.sample_trained_head(
    head_config.get_config(), workdir, num_runs, problems.NUM_DRAWS
  )
  yield problems.Problem('head, 4 chains', True, sample)


def _first_draws(traces: xr.Dataset, num_draws: int) -> xr.Dataset:
  """The burn-in and so many draws after it."""
  spacing = traces.attrs['num_steps_between_draws']
  stop = -(-traces.attrs['burn_in'] // spacing) + num_draws
  recorded = np.minimum(traces.recorded, stop)
  return traces.isel(draw=slice(stop)).assign(recorded=recorded)


def _row(
  problem: problems.Problem, traces: xr.Dataset, num_draws: int
) -> targets.Row | None:
  """The share of runs that are flagged; None if too few count."""
  flagged = ~llc.llc_from_traces(traces).healthy.values.ravel()
  if problem.is_off is not None:
    kept = traces.isel(draw=slice(-num_draws, None))
    flagged = flagged[problem.is_off(kept)]
  if len(flagged) < 10:
    return None
  share = 100 * flagged.mean()
  # Two standard errors of so many runs are no reason to fail.
  slack = 200 * np.sqrt(0.05 * 0.95 / len(flagged))
  name = f'{problem.name}: flagged at {num_draws} draws'
  note = f'of {len(flagged)} runs'
  if problem.sound:
    holds = bool(share <= MOST_FALSE + slack)
    target = f'at most {MOST_FALSE:g}'
  else:
    holds = bool(share >= LEAST_TRUE - slack)
    target = f'at least {LEAST_TRUE:g}'
  return targets.Row(name, share, '%', target, holds, note)


def main() -> None:
  """Runs the command."""
  commands.start_targets(run, 'runs/verdicts')
