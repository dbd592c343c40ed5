"""Section on trust: verdicts, diagnostics, chains, gains, limits."""

from collections.abc import Mapping
import json
from typing import Any

import xarray as xr

from rllc_jax.estimators import faults
from rllc_jax.estimators import health
from rllc_jax.report import blocks
from rllc_jax.report import diagnostics
from rllc_jax.report import figures
from rllc_jax.report import gains
from rllc_jax.report import inputs
from rllc_jax.report import tables

RULE = (
  'An estimate is healthy if no chain failed; R-hat of the paired differences '
  f'of losses is under {faults.rhat_limit(1000):g}, or under 1 + 16 / n at n '
  'draws if that is more; their effective sample size (ESS) is at '
  f'least {faults.ESS_LIMIT} a chain; the equilibrium ratio is within '
  f'{faults.RATIO_ERRORS} errors of {1 - faults.RATIO_TOLERANCE:g} to '
  f'{1 + faults.RATIO_TOLERANCE:g}; halves of the run agree within '
  f'{faults.HALVES_LIMIT:g} standard errors; the step size is predicted to '
  f'add at most {faults.percent(faults.STEP_BIAS_LIMIT)}; and the last place '
  'of the loss is worth less than the standard error.'
)
_HABIT = (
  'These are habits, not theorems: of many sound estimates some miss a limit '
  'by chance, and a healthy chain may not know of a valley that none has found.'
)
_NOT_COVERED = (
  'Cold start: chains begin at the checkpoint itself. A burn-in is left out; '
  'an equilibrium ratio below 1 says that they were still spreading after it.',
  'Step size: Langevin dynamics in steps samples a slightly different '
  'posterior; that bias does not shrink with more draws.',
  'The corpus is finite, and training was run once: other text or another '
  'training seed would give other numbers.',
  'Failed chains are left out of everything else, which biases what is left.',
)


def trust(results: inputs.Inputs, images: figures.Images) -> list[blocks.Block]:
  """Builds the section's blocks."""
  estimates, traces = results.estimates, results.traces
  return [
    blocks.Words(
      'Every number here is an estimate at the following settings, not '
      'the asymptotic learning coefficient; other settings give other numbers.'
    ),
    blocks.facts(_sampling_settings(estimates, traces, results.burn_in)),
    blocks.Heading('Verdicts'),
    *_verdicts(estimates),
    blocks.Heading('Diagnostics over all cells'),
    *_diagnostics(estimates, images),
    blocks.Heading('Chains'),
    *images.at('chains'),
    *_gains(results.variances),
    blocks.Heading('What the errors do not cover'),
    blocks.Words(
      'Intervals cover the noise of sampling: the autocorrelation of chains '
      'and their shared minibatches. They do not cover:'
    ),
    blocks.Bullets(_NOT_COVERED),
  ]


def counted(estimates: xr.Dataset) -> str:
  """The share of healthy estimates, and the commonest fault, in a sentence.

  Args:
    estimates: from `llc_from_traces`.
  """
  # Cells without an estimate are listed as missing, not as unhealthy.
  present = estimates.llc.notnull()
  total = int(present.sum())
  healthy = int(health.check(estimates).healthy.sum())
  if not total:
    return 'There is no estimate.'
  if healthy == total:
    return f'All {total} estimates are healthy.'
  missed = {
    name: int((marked & present).sum())
    for name, marked in diagnostics.marks(estimates).items()
  }
  worst = max(missed, key=missed.__getitem__)
  what = f'miss most often is {diagnostics.called(worst)} ({missed[worst]}).'
  if not healthy:
    return f'None of {total} estimates is healthy; what they {what}'
  return f'{healthy} of {total} estimates are healthy; what the others {what}'


def _verdicts(estimates: xr.Dataset) -> list[blocks.Block]:
  lines = health.summary(estimates)
  rows = [
    (tables.Cell(name, not line.startswith('healthy')), tables.Cell(line))
    for name, line in lines.items()
  ]
  content = tables.Table(('refinement', 'verdict'), rows, num_words=2)
  return [
    blocks.Words(f'{counted(estimates)} {RULE}'),
    (content),
    blocks.Words(_HABIT, 'note'),
    *_failures(estimates),
  ]


def _failures(estimates: xr.Dataset) -> list[blocks.Block]:
  """Blocks that name the failed chains."""
  failed, total = (
    int(estimates[name].sum()) for name in ('num_failed', 'num_chains')
  )
  words = f'Chains that failed: {failed:,} of {total:,}.'
  if not failed:
    return [blocks.Words(words)]
  lines = health.failures(estimates)
  return [blocks.Words(words), blocks.listed(lines)]


def _diagnostics(
  estimates: xr.Dataset, images: figures.Images
) -> list[blocks.Block]:
  note = (
    'A cell is one refinement at one checkpoint on one data set. Marked: cells '
    'are out of the bounds above, or a number cannot be told.'
  )
  return [
    diagnostics.diagnostics_table(estimates),
    blocks.Words(note, 'note'),
    *images.at('diagnostics'),
  ]


def _gains(variances: xr.Dataset | None) -> list[blocks.Block]:
  if variances is None:
    return []
  return [
    blocks.Heading('What pairing gains'),
    blocks.Words(gains.sentence(variances)),
    (gains.table(variances)),
  ]


def _sampling_settings(
  estimates: xr.Dataset, traces: xr.Dataset, burn_in: int
) -> dict[str, Any]:
  names = {
    'nbeta': 'nβ, in samples',
    'localization': 'localization γ',
    'step_size': 'step size ε',
    'num_steps_between_draws': 'steps between draws',
  }
  recorded = {
    words: traces.attrs[name]
    for name, words in names.items()
    if name in traces.attrs
  }
  identity: Mapping[str, Any] = json.loads(traces.attrs.get('identity', '{}'))
  moving = sorted(set(traces.num_coordinates.values.tolist()))
  return {
    'sampler': identity.get('sampler', tables.MISSING),
    **recorded,
    'chains a refinement': traces.sizes['chain'],
    'draws of a chain, burn-in included': traces.sizes['draw'],
    'burn-in left out, in steps': burn_in,
    'baseline': estimates.attrs.get('baseline', tables.MISSING),
    'weights that move at once': moving,
    'chains and heads share minibatches': identity.get(
      'share_batches', tables.MISSING
    ),
  }
