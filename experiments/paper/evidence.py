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
from rllc_jax.refinement import names as naming


class Evidence(NamedTuple):
  """Results of one training run; its first data set is the one trained on.

  Attributes:
    estimates: of every head, from `llc_from_traces`.
    reference: the same against the one-layer model; None if not measured.
    swept: [S, R], final estimates of all heads at S other settings.
    readings: measurements of `experiments.analyze`.
    inductive: the data set where induction helps more.
    known_answers: True for each that is met.
  """

  estimates: xr.Dataset
  reference: xr.Dataset | None
  swept: np.ndarray
  readings: xr.Dataset
  inductive: str
  known_answers: Sequence[bool]


class Finding(NamedTuple):
  """A statistic in one run.

  Attributes:
    claim: a key of `claims.CLAIMS`.
    effect: positive if the claim is true; NaN where it cannot be measured.
    error: its standard error within the run; NaN where there is none.
    note: the heads, steps or pairs that it is computed from.
  """

  claim: str
  effect: float
  error: float
  note: str


class Cells(NamedTuple):
  """Estimates of some heads in one place, to take means of.

  Attributes:
    values: [n].
    errors: [n], standard errors.
  """

  values: np.ndarray
  errors: np.ndarray

  @property
  def mean(self) -> float:
    return float(self.values.mean())

  @property
  def variance(self) -> float:
    """Variance of the mean, as of independent chains."""
    return float(np.sum(self.errors**2)) / len(self.errors) ** 2


class Heads(NamedTuple):
  """Evidence with its heads sorted into classes.

  Attributes:
    evidence: of the run.
    names: of the heads.
    text: the data set that the model is trained on.
    classes: of the heads by name.
    layers: names by layer.
    steps: [K], of the checkpoints with readings.
    measured: [M], of those with estimates.
  """

  evidence: Evidence
  names: list[str]
  text: str
  classes: dict[str, str]
  layers: dict[int, list[str]]
  steps: np.ndarray
  measured: np.ndarray

  @property
  def end(self) -> int:
    """The last checkpoint."""
    return int(self.measured[-1])

  @property
  def last_layer(self) -> list[str]:
    """Heads of the last layer."""
    return self.layers[max(self.layers)]

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

  def measured_by(self, step: int) -> int:
    """The last checkpoint with estimates that is not after a step."""
    return int(self.measured[self.measured <= step][-1])

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
    """A measure of heads at every checkpoint with readings, [K, n]."""
    return readings.of_heads(self.evidence.readings[name], heads)

  def cells(
    self,
    heads: Sequence[str],
    step: int,
    dataset: str | None = None,
    estimates: xr.Dataset | None = None,
  ) -> Cells:
    """Estimates of heads at a checkpoint, on the text by default."""
    estimates = self.evidence.estimates if estimates is None else estimates
    where = {
      'checkpoint': step,
      'dataset': dataset or self.text,
      'refinement': list(heads),
    }
    cell = estimates[['llc', 'standard_error']].sel(where)
    return Cells(cell.llc.values, cell.standard_error.values)


def sort_heads(evidence: Evidence) -> Heads:
  """Sorts the heads of a training run into classes and layers."""
  names = [str(name) for name in evidence.estimates.refinement.values]
  return Heads(
    evidence,
    names,
    str(evidence.estimates.dataset.values[0]),
    head_types.of_readings(evidence.readings),
    naming.heads_by_layer(names),
    evidence.readings.checkpoint.values,
    np.sort(evidence.estimates.checkpoint.values),
  )


def contrast(claim: str, plus: Cells, minus: Cells, note: str) -> Finding:
  """Makes a finding of the difference of two means."""
  error = math.sqrt(plus.variance + minus.variance)
  return Finding(claim, plus.mean - minus.mean, error, note)


def missing(claim: str, reason: str) -> Finding:
  """Makes a finding for a statistic that cannot be measured."""
  return Finding(claim, math.nan, math.nan, reason)
