"""How the report opens: what was found, the main figure, what is missing."""

from collections.abc import Sequence

import xarray as xr

from rllc_jax.report import losses
from rllc_jax.report import markup
from rllc_jax.report import separation
from rllc_jax.report import tables
from rllc_jax.report import trust

_FEW = 8  # Lines that need not be folded.


def headline(
  verdicts: Sequence[separation.Verdict], loss: losses.LossVerdict
) -> str:
  """The findings in a sentence or two.

  Args:
    verdicts: those of the first data set are told; it is named if there are
      others.
    loss: about the held-out loss.
  """
  words = {
    True: 'separate over training',
    False: 'did not separate',
    None: 'cannot be judged',
  }
  told = [v for v in verdicts if v.dataset == verdicts[0].dataset]
  parts = []
  for outcome, claim in words.items():
    layers = [str(v.layer) for v in told if v.separated is outcome]
    if layers:
      plural = 's' if len(layers) > 1 else ''
      parts.append(f'heads of layer{plural} {_listed(layers)} {claim}')
  sentence = '; '.join(parts) or 'no attention heads were estimated'
  if len(told) < len(verdicts):
    sentence = f'on {told[0].dataset}, {sentence}'
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


def opening(
  estimates: xr.Dataset,
  verdicts: Sequence[separation.Verdict],
  loss: losses.LossVerdict,
  figure: bytes,
  title: str,
) -> list[str]:
  """Title, finding, main figure, and what is missing."""
  sizes = estimates.sizes
  kicker = ', '.join(
    _counted(sizes[dim], word)
    for dim, word in (
      ('checkpoint', 'checkpoint'),
      ('refinement', 'refinement'),
      ('dataset', 'data set'),
    )
  )
  caption = (
    'Weight-refined local learning coefficient (wrLLC) of every head against '
    'training step: by how much the loss rises, times nβ, where sampling moves '
    "that head's weights alone. Negative: the loss falls, the checkpoint is no "
    'minimum for that head. Bands are 95 % intervals. These are estimates at '
    'the settings below, not the asymptotic learning coefficient.'
  )
  shown = markup.picture(figure, 'Refined LLC against training step', caption)
  return [
    markup.tag('p', kicker, 'kicker'),
    markup.tag('h1', title),
    markup.tag('p', headline(verdicts, loss), 'headline'),
    _caution(estimates),
    shown,
    *_missing(estimates),
  ]


def _caution(estimates: xr.Dataset) -> str:
  link = markup.link('trust', 'Can the numbers be trusted?')
  words = markup.text(trust.counted(estimates))
  return f'<p class="note">{words} {link}</p>'


def _counted(number: int, word: str) -> str:
  return f'{number} {word}{"s" if number != 1 else ""}'


def _missing(estimates: xr.Dataset) -> list[str]:
  lines = tables.missing_cells(estimates)
  if not lines:
    return []
  count = int(estimates.llc.isnull().sum())
  words = f'Incomplete: {count} of {estimates.llc.size} cells have no estimate'
  why = 'not sampled to the end, or all their chains failed.'
  listed = markup.bullets(lines)
  if len(lines) > _FEW:
    listed = markup.folded(f'All {len(lines)} places', listed)
  return [markup.tag('p', f'{words}: {why}', 'note'), listed]
