"""Opening of the report: headline, main figure, missing cells."""

from collections.abc import Sequence

import xarray as xr

from rllc_jax.estimators import health
from rllc_jax.report import blocks
from rllc_jax.report import figures
from rllc_jax.report import losses
from rllc_jax.report import separation
from rllc_jax.report import tables
from rllc_jax.report import trust


def headline(
  verdicts: Sequence[separation.Verdict], loss: losses.LossVerdict
) -> str:
  """The findings in a sentence or two.

  Args:
    verdicts: those of the first data set enter; it is named if there are
      others.
    loss: about the held-out loss.
  """
  words = {
    True: 'separate over training',
    False: 'did not separate',
    None: 'cannot be judged',
  }
  shown = [v for v in verdicts if v.dataset == verdicts[0].dataset]
  parts = []
  for outcome, claim in words.items():
    layers = [str(v.layer) for v in shown if v.separated is outcome]
    if layers:
      plural = 's' if len(layers) > 1 else ''
      parts.append(f'heads of layer{plural} {_listed(layers)} {claim}')
  sentence = '; '.join(parts) or 'no attention heads were estimated'
  if len(shown) < len(verdicts):
    sentence = f'on {shown[0].dataset}, {sentence}'
  sentence = sentence[0].upper() + sentence[1:] + '.'
  ends = {
    True: ' The held-out loss ends below the unigram entropy.',
    False: ' The held-out loss does not end below the unigram entropy.',
    None: '',
  }
  return sentence + ends[loss.below]


def _listed(items: Sequence[str]) -> str:
  """Joins words by commas and a last 'and'."""
  head, last = items[:-1], items[-1]
  return f'{", ".join(head)} and {last}' if head else last


def kicker(estimates: xr.Dataset) -> str:
  """The numbers of checkpoints, refinements and data sets, in one line."""
  return ', '.join(
    _counted(estimates.sizes[dim], word)
    for dim, word in (
      ('checkpoint', 'checkpoint'),
      ('refinement', 'refinement'),
      ('dataset', 'data set'),
    )
  )


def opening(
  estimates: xr.Dataset, images: figures.Images
) -> list[blocks.Block]:
  """The share of healthy estimates, the main figure, and missing cells."""
  link = 'Can the numbers be trusted?'
  return [
    blocks.Words(trust.counted(estimates), 'note', 'trust', link),
    *images.at('opening'),
    *_missing(estimates),
  ]


def _counted(number: int, word: str) -> str:
  return f'{number} {word}{"s" if number != 1 else ""}'


def _missing(estimates: xr.Dataset) -> list[blocks.Block]:
  lines = tables.missing_cells(estimates)
  if not lines:
    return []
  count = int(health.absences(estimates).sum())
  words = f'Incomplete: {count} of {estimates.llc.size} cells have no estimate'
  why = 'not sampled to the end, or all their chains failed.'
  return [blocks.Words(f'{words}: {why}', 'note'), blocks.listed(lines)]
