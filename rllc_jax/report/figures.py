"""All figures of the report; a new one is a function and an entry here."""

import base64
from collections.abc import Callable
from collections.abc import Mapping
from typing import Literal, NamedTuple

from matplotlib import figure
import numpy as np
import xarray as xr

from rllc_jax.analysis import head_types
from rllc_jax.plots import coverage
from rllc_jax.plots import heads
from rllc_jax.plots import health
from rllc_jax.plots import known_answers
from rllc_jax.plots import readings
from rllc_jax.plots import said_twice
from rllc_jax.plots import spread
from rllc_jax.plots import traces
from rllc_jax.plots import training
from rllc_jax.refinement import names
from rllc_jax.report import blocks
from rllc_jax.report import inputs
from rllc_jax.report import separation

# Parts of the report that show figures, in its order; see `Images.at`.
Place = Literal[
  'opening',
  'trained',
  'heads',
  'behaviour',
  'diagnostics',
  'chains',
  'known answers',
  'coverage',
]


class Entry(NamedTuple):
  """A figure, its place in the report, and its texts.

  Attributes:
    name: of its file, below `figures`.
    place: the part of the report that shows it.
    draw: draws it; only called if `needs` holds.
    words: a description for readers who cannot see it.
    caption: below it.
    needs: True if the results that it shows exist.
    narrow: True if it has one panel.
  """

  name: str
  place: Place
  draw: Callable[[inputs.Inputs], figure.Figure]
  words: str
  caption: str
  needs: Callable[[inputs.Inputs], bool] = lambda results: True
  narrow: Callable[[inputs.Inputs], bool] = lambda results: False


def _chains(results: inputs.Inputs) -> figure.Figure:
  """The heads of extreme estimates at the first, a middle and the last step."""
  steps = sorted(results.traces.checkpoint.values.tolist())
  middle = [steps[len(steps) // 2]] if len(steps) > 2 else []
  dataset = results.first_dataset
  return traces.chain_traces(
    results.traces,
    results.estimates,
    burn_in=results.burn_in,
    dataset=dataset,
    refinements=_lowest_and_highest(results.estimates.sel(dataset=dataset)),
    # Once each: a run may have only one or two checkpoints.
    checkpoints=list(dict.fromkeys([steps[0], *middle, steps[-1]])),
  )


def _lowest_and_highest(estimates: xr.Dataset) -> list[str]:
  """The heads with the lowest and highest last estimate.

  Without heads, those of all refinements.
  """
  all_names = [str(name) for name in estimates.refinement.values]
  by_layer = names.heads_by_layer(all_names)
  parts = [name for layer in by_layer.values() for name in layer] or all_names
  last = estimates.llc.sortby('checkpoint').isel(checkpoint=-1)
  values = last.sel(refinement=parts).values
  if np.isnan(values).all():
    return parts[:1]
  # One head alone is both, and is drawn once.
  extremes = (parts[np.nanargmin(values)], parts[np.nanargmax(values)])
  return list(dict.fromkeys(extremes))


def _has_kinds(results: inputs.Inputs) -> bool:
  return results.readings is not None and 'kind_loss' in results.readings


def _pair(results: inputs.Inputs) -> tuple[str, list[str]]:
  """The data set whose rows are said twice elsewhere, and where."""
  names_of_pair = said_twice.pair(results.estimates.dataset.values.tolist())
  assert names_of_pair is not None
  return names_of_pair[0], [names_of_pair[1]]


def _tells_induction(results: inputs.Inputs) -> bool:
  """True if heads have classes, and rows that are said twice were measured."""
  datasets = results.estimates.dataset.values.tolist()
  has_pair = said_twice.pair(datasets) is not None
  return has_pair and 'head_class' in (results.readings or {})


FIGURES = (
  Entry(
    'said_twice',
    'opening',
    lambda results: said_twice.parting(
      results.estimates,
      head_types.of_readings(results.measured),
      *_pair(results),
    ),
    'Estimates of the last layer over training, and where text is said twice',
    'Left, the wrLLC of the heads of the last layer over training. Right, by '
    'how much it changes at the last checkpoint on rows that say their first '
    'half twice, with 95 % intervals. Red: heads that do induction, told from '
    'what they attend to. What they do matters more where text repeats, so '
    'data refinement parts them from the rest.',
    needs=_tells_induction,
  ),
  Entry(
    'llc',
    'opening',
    lambda results: heads.llc_curves(results.estimates),
    'Refined LLC against training step',
    'Weight-refined local learning coefficient (wrLLC) of every head against '
    'training step: by how much the loss rises, times nβ, where sampling moves '
    "that head's weights alone. Negative: the loss falls, the checkpoint is no "
    'minimum for that head. Bands are 95 % intervals. These are estimates at '
    'the settings below, not the asymptotic learning coefficient.',
  ),
  Entry(
    'loss',
    'trained',
    lambda results: training.loss_curves(results.training),
    'Loss against training step',
    'Loss against training step, in nats per token. Horizontal lines are the '
    'entropies of single tokens and of a token given the one before it, in the '
    'training text: what counting alone would reach.',
    narrow=lambda results: True,
  ),
  Entry(
    'spread',
    'heads',
    lambda results: spread.head_spread(separation.spreads(results.estimates)),
    'Spread between heads',
    'Standard deviation between the heads of a layer, beside the root mean '
    'square of their standard errors. Where the first is well above the '
    'second, heads differ.',
    narrow=lambda results: not results.has_several_datasets,
  ),
  Entry(
    'heads',
    'behaviour',
    lambda results: readings.head_readings(results.measured),
    'Scores of heads over training',
    'Attention scores and the rise of the loss without the head, over '
    'training, a line a head. Dashed: attention to all positions alike.',
    needs=lambda results: results.readings is not None,
  ),
  Entry(
    'kinds',
    'behaviour',
    lambda results: readings.kind_losses(results.measured),
    'Losses by kind of symbol',
    'The loss on each kind of symbol of the planted language. Dashed: the '
    'least that is possible, which is known in closed form.',
    needs=_has_kinds,
  ),
  Entry(
    'health',
    'diagnostics',
    lambda results: health.diagnostics_curves(
      results.estimates, dataset=results.first_dataset
    ),
    'Diagnostics over training',
    'Each diagnostic against training step, on the first data set, a line a '
    'refinement. Green is healthy, a ring is a value outside; panels without '
    'green are not judged. Dashed: 1, 0, or for negative differences one half, '
    'where nothing but noise is left.',
  ),
  Entry(
    'traces',
    'chains',
    _chains,
    'Chains',
    'Paired loss differences along the chains of the heads with the lowest and '
    'the highest last wrLLC: loss at the draw less loss at the checkpoint on '
    'the same minibatch, times nβ. Chains that reach their level before the '
    'shaded burn-in ends, and stay, are what the estimates assume.',
  ),
  Entry(
    'known_answers',
    'known answers',
    lambda results: known_answers.ratios(results.known_answers),
    'Known answers',
    'Left, estimates over the exact values of their settings, with 95 % '
    'intervals. Right, λ over the same values: how far a right answer is from '
    'λ, at settings that can be sampled.',
    needs=lambda results: bool(results.known_answers),
  ),
  Entry(
    'coverage',
    'coverage',
    lambda results: coverage.coverage(results.coverage),
    'Coverage of intervals',
    'Share of runs whose 95 % interval holds the true value, and intervals of '
    'single runs.',
    needs=lambda results: bool(results.coverage),
  ),
)


def draw(results: inputs.Inputs) -> dict[str, figure.Figure]:
  """Draws all figures of the results, by name."""
  return {x.name: x.draw(results) for x in FIGURES if x.needs(results)}


class Images:
  """The SVG files of a report's figures, by place."""

  def __init__(self, results: inputs.Inputs, svgs: Mapping[str, bytes]):
    self._results, self._svgs = results, svgs

  def at(self, place: Place) -> list[blocks.Picture]:
    """The figures of a place, in the order of `FIGURES`."""
    return [
      blocks.Picture(
        base64.b64encode(self._svgs[entry.name]).decode('ascii'),
        entry.words,
        entry.caption,
        entry.narrow(self._results),
      )
      for entry in FIGURES
      if entry.place == place and entry.name in self._svgs
    ]
