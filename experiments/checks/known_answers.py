"""Compares estimates with exact values for losses of several families.

  python -m experiments.known_answers [--quick] [--workdir=DIR] [--json=FILE]

Each problem is sampled by `estimate_rllc`. It must agree with its exact value
at its n beta, localization and step size within 4 standard errors. The standard
error must be at most 1 % for bowls and 3 % for the rest. With 7 degrees of
freedom a correct estimate of one problem in 190 misses by chance; seeds are
fixed. The learning coefficient is printed, too, and not judged: for degenerate
losses no n beta that can be sampled reaches it.

Writes, below the workdir, known_answers.json and .png: every problem; and
approach.json and .png: exact values as n beta grows.
"""

from collections.abc import Iterator
from collections.abc import Sequence
import logging as logging_of_python
import math
import pathlib
import time
from typing import NamedTuple
import warnings

from absl import flags
import jax
import jax.numpy as jnp

from experiments.checks import known_problems
from experiments.runtime import commands
from experiments.runtime import targets
from rllc_jax import checked_files
from rllc_jax import types
from rllc_jax.data import minibatches
from rllc_jax.estimators import grid
from rllc_jax.estimators import health
from rllc_jax.estimators import rllc
from rllc_jax.estimators import settings
from rllc_jax.plots import known_answers as plots
from rllc_jax.plots import style
from rllc_jax.refinement import weights
from rllc_jax.truth import finite_temperature
from rllc_jax.truth import learning_coefficients
from rllc_jax.truth import toy
from rllc_jax.truth import two_layer_linear

_SEED = 0
_MAX_DRAWS = 2000  # Draws of a chain; longer chains skip steps between draws.
_LINE = '{:<60} {:>5} {:>3}  {:>8}  {:>8}   {:<7}  {:>6}  {}'
_LOCALIZATION = 10.0  # For the curves towards lambda.


class Record(NamedTuple):
  """Exact value and estimate of a problem; a row of the JSON file.

  Attributes:
    problem: its name and settings.
    family: of the loss.
    restricted: True if some coordinates were frozen.
    learning_coefficient: lambda, of the free coordinates.
    multiplicity: m.
    exact: the value at these settings; None if there is no formula.
    llc: the estimate.
    standard_error: of the estimate.
    low: lower end of the 95 % interval.
    high: upper end.
    seconds: of sampling, compilation included.
    largest_error: limit of the standard error, as a share of `exact`.
    holds: True if they agree; None without an exact value.
    note: remark for the table.
  """

  problem: str
  family: str
  restricted: bool
  learning_coefficient: float
  multiplicity: int
  exact: float | None
  llc: float
  standard_error: float
  low: float
  high: float
  seconds: float
  largest_error: float
  holds: bool | None
  note: str


class Approach(NamedTuple):
  """Exact values of one loss as n beta grows.

  Attributes:
    problem: the loss.
    learning_coefficient: lambda.
    multiplicity: m.
    localization: gamma.
    nbeta: [n].
    exact: [n].
  """

  problem: str
  learning_coefficient: float
  multiplicity: int
  localization: float
  nbeta: list[float]
  exact: list[float]


def run(workdir: pathlib.Path, quick: bool = False) -> list[targets.Row]:
  """Samples every problem, writes records and figures, returns the targets."""
  workdir.mkdir(parents=True, exist_ok=True)
  print(_LINE.format(*_HEADER))
  records = []
  for problem in known_problems.problems(quick):
    records.append(estimate(problem))
    print(_line(records[-1]), flush=True)
  curves = list(approach())
  print()
  _write(workdir / 'known_answers', records, plots.ratios)
  _write(workdir / 'approach', curves, plots.approach)
  return [*map(_row, records), *map(_approach_row, curves)]


def estimate(problem: known_problems.Problem) -> Record:
  """Samples one problem and compares the estimate with its exact value."""
  start = time.perf_counter()
  result = _sample(problem)
  seconds = time.perf_counter() - start
  values = (result.llc, result.standard_error, result.low, result.high)
  llc, standard_error, low, high = (float(x[0]) for x in values)
  holds = None
  if problem.exact is not None:
    small = standard_error <= problem.largest_error * problem.exact
    close = abs(llc - problem.exact) <= 4 * standard_error
    holds = small and close and not result.failed.any()
  return Record(
    problem=label(problem),
    family=problem.family,
    restricted=problem.moves is not None,
    learning_coefficient=problem.coefficient.value,
    multiplicity=problem.coefficient.multiplicity,
    exact=problem.exact,
    llc=llc,
    standard_error=standard_error,
    low=low,
    high=high,
    seconds=seconds,
    largest_error=problem.largest_error,
    holds=holds,
    note=problem.note,
  )


def _sample(problem: known_problems.Problem) -> rllc.Estimate:
  """Estimates without health warnings: the truth includes the step's bias."""
  logging_of_python.getLogger('rllc_jax').setLevel('WARNING')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', health.NotHealthyWarning)
    return _estimate(problem)


def _estimate(problem: known_problems.Problem) -> rllc.Estimate:
  sampling = problem.sampling
  lens, index = problem.moves or (weights.all_weights(), jnp.int32(0))
  between = math.ceil(sampling.num_steps / _MAX_DRAWS)
  return rllc.estimate_rllc(
    jax.random.key(_SEED),  # Keys also depend on the name of the refinement.
    types.Refinements(
      names=(label(problem),),
      lens=lens,
      indices=jnp.asarray(index)[None],
      loss=weights.refine(problem.loss.loss, lens),
    ),
    problem.loss.params,
    minibatches.uniform(problem.loss.data, 1),
    settings.Sampling(
      **sampling.posterior._asdict(),
      # Exact values have the bias of its step size, which is known.
      sampler='sgld',
      step_size=sampling.step_size,
      num_chains=sampling.num_chains,
      num_draws=sampling.num_steps // between,
      burn_in=sampling.burn_in,
      num_steps_between_draws=between,
    ),
    layout=settings.Layout(
      # All chains as one vector: these losses are tiny.
      mesh=grid.make_mesh(1, 1),
      chunk_size=sampling.num_chains,
    ),
  )


def approach() -> Iterator[Approach]:
  """Yields curves of exact values over nine decades of n beta."""
  cross = learning_coefficients.normal_crossing
  for powers, name in (((1, 1), 'x² y²'), ((1, 1, 1), 'x² y² z²')):
    loss = toy.normal_crossing(powers)
    exact = lambda posterior, loss=loss: finite_temperature.polynomial(
      loss, posterior
    )
    yield _curve(name, cross(powers), exact)
  for widths in ((2, 2, 2), (5, 3, 5), (4, 4, 4)):
    exact = lambda posterior, widths=widths: two_layer_linear.at_zero(
      widths, posterior
    )
    name = '→'.join(map(str, widths)) + ' at 0'
    coefficient = learning_coefficients.reduced_rank_regression(*widths, rank=0)
    yield _curve(name, coefficient, exact)


def _curve(name, coefficient, exact) -> Approach:
  decades = [10.0**k for k in range(1, 10)]
  values = [exact(types.Posterior(nbeta, _LOCALIZATION)) for nbeta in decades]
  learning_coefficient, multiplicity = coefficient
  return Approach(
    name, learning_coefficient, multiplicity, _LOCALIZATION, decades, values
  )


def label(problem: known_problems.Problem) -> str:
  """Label of a problem: its name and its settings."""
  settings = style.settings_text(problem.sampling._asdict())
  return f'{problem.name} · {settings}'


_HEADER = ('problem', 'λ', 'm', 'exact', 'estimate', '± SE', 'seconds', '')


def _line(record: Record) -> str:
  exact = '' if record.exact is None else f'{record.exact:.4g}'
  verdict = {True: 'agrees', False: 'DISAGREES', None: 'reported'}
  return _LINE.format(
    record.problem,
    f'{record.learning_coefficient:.4g}',
    record.multiplicity,
    exact,
    f'{record.llc:.4g}',
    f'{record.standard_error:.2g}',
    f'{record.seconds:.1f}',
    verdict[record.holds],
  )


def _row(record: Record) -> targets.Row:
  coefficient = f'λ {record.learning_coefficient:.4g}, m {record.multiplicity}'
  error = f'SE {record.standard_error:.2g}'
  notes = [coefficient, error, f'{record.seconds:.1f} s', record.note]
  target = ''
  if record.exact is not None:
    share = f'{100 * record.largest_error:g} %'
    target = f'within 4 SE of {record.exact:.5g}, SE at most {share}'
  return targets.Row(
    record.problem,
    record.llc,
    target=target,
    holds=record.holds,
    note='; '.join(filter(None, notes)),
  )


def _approach_row(curve: Approach) -> targets.Row:
  points = zip(curve.nbeta[:-1:2], curve.exact[:-1:2], strict=True)
  steps = ', '.join(f'{value:.4g} at {nbeta:.0e}' for nbeta, value in points)
  return targets.Row(
    f'{curve.problem}: exact at nβ = {curve.nbeta[-1]:.0e}',
    curve.exact[-1],
    note=f'λ {curve.learning_coefficient:g}, m {curve.multiplicity}; {steps}',
  )


def _write(path: pathlib.Path, items: Sequence[NamedTuple], draw) -> None:
  """Writes records as JSON, and the figure that is drawn from them."""
  objects = [item._asdict() for item in items]
  checked_files.write_json(path.with_suffix('.json'), {'records': objects})
  image = style.image(draw(objects), 'png')
  checked_files.write_bytes(path.with_suffix('.png'), image)


def main() -> None:
  """Runs the command line."""
  quick = flags.DEFINE_bool(
    'quick', False, 'Only one or two problems of each family: in seconds.'
  )
  commands.start_targets(
    lambda workdir: run(workdir, quick.value), 'runs/known_answers'
  )
