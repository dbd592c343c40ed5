"""Results of one training run that the claims are tested on, and findings.

`experiments.paper.claim_statistics` turns evidence into findings.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from rllc_jax.analysis import head_types
from rllc_jax.analysis import readings
from rllc_jax.estimators import llc
from rllc_jax.refinement import names as naming


class Evidence(NamedTuple):
  """Results of one training run; its first data set is 'text'.

  Attributes:
    draws: of every head, from `llc.by_draw`.
    reference: the same against the one-layer model.
    swept: [S, R], final estimates of all heads at S other settings.
    readings: measurements of `experiments.analyze`.
    code: the data set that is used as code.
    known_answers: True for each that is met.
  """

  draws: xr.DataArray
  reference: xr.DataArray
  swept: np.ndarray
  readings: xr.Dataset
  code: str
  known_answers: Sequence[bool]


class Finding(NamedTuple):
  """A statistic in one run.

  Attributes:
    claim: a key of `claims.STATEMENTS`.
    effect: positive if the claim is true.
    error: its standard error; both NaN where it cannot be measured.
    unit: of both.
    note: the heads, steps or pairs that it is computed from.
  """

  claim: str
  effect: float
  error: float
  unit: str
  note: str


class Heads(NamedTuple):
  """Evidence with its heads sorted into classes.

  Attributes:
    evidence: of the run.
    names: of the heads.
    text: the data set that the model is trained on.
    classes: of the heads by name.
    layers: names by layer.
    steps: [K], of the checkpoints.
  """

  evidence: Evidence
  names: list[str]
  text: str
  classes: dict[str, str]
  layers: dict[int, list[str]]
  steps: np.ndarray

  @property
  def end(self) -> int:
    """The last checkpoint."""
    return int(self.steps[-1])

  def having(self, kind: str, layer: int | None = None) -> list[str]:
    """Heads of a class, in one layer (-1 for the last) or in all."""
    layers = list(self.layers)
    names = self.names if layer is None else self.layers[layers[layer]]
    return [name for name in names if self.classes[name] == kind]

  @property
  def last_multigrams(self) -> list[str]:
    """Multigram heads of the last layer."""
    return self.having(head_types.MULTIGRAM, -1)

  @property
  def first_multigrams(self) -> list[str]:
    """Multigram heads of the first layer."""
    return self.having(head_types.MULTIGRAM, 0)

  @property
  def induction(self) -> list[str]:
    """Induction heads of the last layer."""
    return self.having('induction', -1)

  @property
  def onset(self) -> int | None:
    """Last checkpoint before any induction head has half its final score."""
    if not self.induction:
      return None
    scores = self.reading('prefix_matching_text', self.induction)
    reached = (scores >= scores[-1] / 2).any(axis=1)
    before = np.flatnonzero(~reached)
    # None if induction is there from the first checkpoint on.
    return int(self.steps[before[-1]]) if len(before) else None

  @property
  def words(self) -> str:
    """The heads of each class, as 'multigram 0:0 1:1, induction 1:0'."""
    by_kind: dict[str, list[str]] = {}
    for name, kind in self.classes.items():
      by_kind.setdefault(kind, []).append(name)
    return ', '.join(
      f'{kind} {" ".join(names)}' for kind, names in by_kind.items()
    )

  def reading(self, name: str, heads: Sequence[str]) -> np.ndarray:
    """A measure of heads at every checkpoint, [K, n]."""
    return readings.of_heads(self.evidence.readings[name], heads)

  def mean(self, draws, heads, step, dataset=None) -> xr.DataArray:
    """Mean rLLC of heads at a checkpoint, by draw."""
    cell = draws.sel(checkpoint=step, dataset=dataset or self.text)
    return cell.sel(refinement=list(heads)).mean('refinement')


def sort_heads(evidence: Evidence) -> Heads:
  """Sorts the heads of a training run into classes and layers."""
  names = [str(name) for name in evidence.draws.refinement.values]
  return Heads(
    evidence,
    names,
    str(evidence.draws.dataset.values[0]),  # The first is the training text.
    head_types.of_readings(evidence.readings),
    naming.heads_by_layer(names),
    evidence.readings.checkpoint.values,
  )


def of_draws(claim: str, draws: xr.DataArray, note: str) -> Finding:
  """Makes a finding of a linear combination of draws from `llc.by_draw`."""
  estimate = llc.of_draws(draws)
  values = float(estimate.llc), float(estimate.standard_error)
  return Finding(claim, *values, 'rLLC', note)


def missing(claim: str, reason: str) -> Finding:
  """Makes a finding for a statistic that cannot be measured."""
  return Finding(claim, math.nan, math.nan, '', reason)
