"""Comparison of the held-out loss with the entropy of single tokens."""

from typing import NamedTuple

import xarray as xr


class LossVerdict(NamedTuple):
  """The last held-out loss beside the entropy of single tokens.

  Attributes:
    below: None where one of the two is missing.
    sentence: both numbers in words.
  """

  below: bool | None
  sentence: str


def against_unigram(training: xr.Dataset) -> LossVerdict:
  """Compares the last held-out loss with the unigram entropy.

  Args:
    training: `held_out_loss` (checkpoint), attributes `unigram_entropy` and
      perhaps `bigram_entropy`, in nats per token.

  Examples:
    >>> record = xr.Dataset(
    ...   {'held_out_loss': ('checkpoint', [5.0, 2.0])}, {'checkpoint': [0, 8]},
    ...   {'unigram_entropy': 3.0})
    >>> print(against_unigram(record).sentence[:55])
    At step 8 the held-out loss is 2.000 nats per token, be
  """
  entropy = training.attrs.get('unigram_entropy')
  # A record may lack held-out losses, or have none at some checkpoints.
  losses = xr.DataArray([])
  if 'held_out_loss' in training:
    losses = training.held_out_loss.dropna('checkpoint').sortby('checkpoint')
  if entropy is None or not losses.size:
    return LossVerdict(
      None,
      'Whether the held-out loss is below the unigram entropy cannot be said: '
      'the record of training lacks one of the two.',
    )
  last, step = float(losses[-1]), int(losses.checkpoint[-1])
  below = last < entropy
  word = 'below' if below else 'not below'
  sentence = (
    f'At step {step:,} the held-out loss is {last:.3f} nats per token, {word} '
    f'the unigram entropy of the training text, {entropy:.3f}'
  )
  if (pairs := training.attrs.get('bigram_entropy')) is not None:
    sentence += f' (the bigram entropy is {pairs:.3f})'
  return LossVerdict(below, f'{sentence}.')
