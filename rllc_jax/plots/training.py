"""Figure of the loss during training, with entropies of the text."""

import matplotlib
from matplotlib import axes
from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.plots import style

_BINS = 300  # Bins of steps; more are too narrow to see.
_BATCH, _TRAIN, _HELD_OUT = '#9db9d3', '#1f5fa8', '#c2410c'


@matplotlib.rc_context(style.SETTINGS)
def loss_curves(training: xr.Dataset) -> figure.Figure:
  """Draws training and held-out loss against training step.

  The loss of each step's batch is averaged within log-spaced bins of steps; a
  band holds the middle 90 % of a bin. Points are losses on fixed sequences at
  the checkpoints. Entropies of the training text are drawn if they are
  recorded, with their values.

  Args:
    training: from `training.zarr`: `loss` (step), `train_loss` and
      `held_out_loss` (checkpoint), attributes `unigram_entropy` and
      `bigram_entropy`; nats per token. All but one may be absent.
  """
  drawn, panels = style.new_figure(1, 1, (7.4, 3.6))
  ax = panels[0, 0]
  labels = [
    *_batches(ax, training),
    *_checkpoints(ax, training, 'train_loss', 'training', _TRAIN),
    *_checkpoints(ax, training, 'held_out_loss', 'held out', _HELD_OUT),
  ]
  steps = [
    training[name].values
    for name in ('step', 'checkpoint')
    if name in training.coords
  ]
  steps = np.concatenate(steps)
  style.step_axis(ax, steps, 'training step')
  labels += _entropies(ax, training, float(steps.max()))
  ax.set_ylabel('loss (nats per token)')
  style.label_ends(ax, labels)
  style.footnote(drawn, *_notes(training))
  return drawn


def bin_means(
  steps: np.ndarray, values: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Means and the middle 90 % of a series within log-spaced bins.

  Args:
    steps: [n], ascending.
    values: [n].
    num_bins: at most so many; early bins hold one step each.

  Returns:
    Of each bin that is not empty: mean step, mean, 5th and 95th percentile.

  Examples:
    >>> step, mean, _, _ = bin_means(np.arange(4), np.arange(4.0), 2)
    >>> print(step, mean)
    [0.  1.  2.5] [0.  1.  2.5]
  """
  last = max(steps[-1], 1)
  # Whole steps, or early bins would be empty.
  edges = np.unique(np.round(np.geomspace(1, last + 1, num_bins + 1)))
  starts = np.searchsorted(steps, [0, *edges])
  parts = [
    (steps[a:b], values[a:b])
    for a, b in zip(starts[:-1], starts[1:], strict=True)
    if b > a
  ]
  summary = [(s.mean(), v.mean(), *np.percentile(v, (5, 95))) for s, v in parts]
  return tuple(np.array(summary).T)


def _batches(ax: axes.Axes, training: xr.Dataset) -> list[style.Label]:
  if 'loss' not in training or not training.loss.size:
    return []
  values = training.loss.values.astype(float)
  step, mean, low, high = bin_means(training.step.values, values, _BINS)
  ax.fill_between(step, low, high, color=_BATCH, alpha=0.35, lw=0)
  ax.plot(step, mean, color=_BATCH, lw=1)
  return []


def _checkpoints(ax, training, name, word, color) -> list[style.Label]:
  if name not in training:
    return []
  losses = training[name].dropna('checkpoint').sortby('checkpoint')
  if not losses.size:
    return []
  size = 3.5 if losses.size <= 40 else 0
  ax.plot(
    losses.checkpoint, losses, color=color, lw=1.4, marker='o', ms=size, mew=0
  )
  end = float(losses[-1])
  return [
    style.Label(f'{word} {end:.2f}', int(losses.checkpoint[-1]), end, color)
  ]


def _entropies(ax, training, last) -> list[style.Label]:
  labels = []
  for name, line in (('unigram', (0, (5, 3))), ('bigram', (0, (1, 2)))):
    value = training.attrs.get(f'{name}_entropy')
    if value is not None:
      ax.axhline(value, color=style.GRAY, lw=1, ls=line, zorder=1)
      text = f'{name} entropy {value:.2f}'
      labels.append(style.Label(text, last, value, style.GRAY))
  return labels


def _notes(training: xr.Dataset) -> list[str]:
  notes = []
  if 'loss' in training:
    notes.append("pale: each step's batch, binned, and its middle 90 %")
  if {'train_loss', 'held_out_loss'} & set(training):
    notes.append('points: fixed sequences at the checkpoints')
  return notes
