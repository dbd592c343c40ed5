"""Formats the plan of `experiments.estimate_rllc` that --dry_run prints."""

from rllc_jax.estimators import plan as plans


def text(plan: plans.Plan) -> str:
  """Text table of missing work, memory and time, a column a family.

  Times are measured on this machine; memory is computed by XLA.
  """
  if not plan.families:
    return 'already complete: nothing is left to do'
  heads = [_name(family) for family in plan.families] + ['all']
  counts = [family.counts for family in plan.families] + [plan.counts]
  costs = [family.costs for family in plan.families]
  running = [family.run_seconds for family in plan.families]
  compiling = [family.compile_seconds for family in plan.families]
  sizes = [cost.bytes_per_device for cost in costs]
  lines = {
    'refinements': heads,
    'cells that lack draws': [f'{x.cells:,}' for x in counts],
    'steps of chains': [f'{x.chain_steps:,}' for x in counts],
    'tokens of their minibatches': [f'{x.entries:.3g}' for x in counts],
    # A multiply-add is two FLOPs.
    'FLOPs of matrix products': [f'{2 * x.multiply_adds:.3g}' for x in counts],
    'columns in parallel': [str(cost.chunk_size) for cost in costs] + [''],
    # Families run one after the other, so the peak of all is the largest.
    'peak MB of a device': [_megabytes(x) for x in [*sizes, max(sizes)]],
    'seconds a draw of a block': [f'{c.draw_seconds:.3g}' for c in costs]
    + [''],
    'to compile': [*map(_duration, [*compiling, sum(compiling)])],
    'to run': [*map(_duration, [*running, sum(running)])],
  }
  width = max(13, *map(len, heads)) + 2
  rows = [
    f'{name:<28}' + ''.join(f'{value:>{width}}' for value in values)
    for name, values in lines.items()
  ]
  devices = f'{plan.num_devices} device{"s" if plan.num_devices > 1 else ""}'
  total = plan.bytes_per_device * plan.num_devices
  rows += [
    f'{devices}, {_megabytes(total)} MB on all of them; on a CPU, they share '
    'its memory, and the process takes some 0.5 GB more',
    f'in all {_duration(plan.seconds)}, {_duration(plan.check_seconds)} of it '
    'for checks; programs that are in the compilation cache take less',
  ]
  return '\n'.join(rows)


def _name(family: plans.FamilyPlan) -> str:
  first, *further = family.names
  return f'{first} and {len(further)} more' if further else first


def _megabytes(size: int) -> str:
  """Bytes in units of 10^6.

  Examples:
    >>> _megabytes(31_415), _megabytes(31_415_926_535)
    ('0.0314', '31,416')
  """
  return f'{size / 1e6:,.0f}' if size > 1e8 else f'{size / 1e6:.3g}'


def _duration(seconds: float) -> str:
  """Seconds in words.

  Examples:
    >>> _duration(3.21), _duration(75), _duration(7322)
    ('3.2 s', '1 min 15 s', '2 h 2 min')
  """
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, remainder = divmod(round(seconds), 60)
  if minutes < 60:
    return f'{minutes} min {remainder} s'
  return f'{minutes // 60} h {minutes % 60} min'
