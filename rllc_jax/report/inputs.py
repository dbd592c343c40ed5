"""The saved results of one run, which a report is made of."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any, NamedTuple

import xarray as xr

Record = Mapping[str, Any]


class Inputs(NamedTuple):
  """Results of one run; the report names what was not measured.

  Attributes:
    estimates: from `llc_from_traces`.
    traces: the traces behind the estimates.
    training: the record of training.
    corpus: the content of `corpus.json`.
    burn_in: steps that the estimates leave out.
    provenance: anything else to be kept: versions, device, command, times.
    variances: from `gains.measure`, if the run has a corpus baseline.
    known_answers: entries of `known_answers.json`, if there is one.
    coverage: entries of `coverage.json`, if there is one.
    readings: `analysis.zarr`, if there is one.
    findings: entries of `claims.json`, if there is one.
    runs: the files of `STORE/runs`.
  """

  estimates: xr.Dataset
  traces: xr.Dataset
  training: xr.Dataset
  corpus: Mapping[str, Any]
  burn_in: int
  provenance: Mapping[str, Any]
  variances: xr.Dataset | None = None
  known_answers: Sequence[Record] = ()
  coverage: Sequence[Record] = ()
  readings: xr.Dataset | None = None
  findings: Sequence[Record] = ()
  runs: Sequence[Record] = ()

  @property
  def measured(self) -> xr.Dataset:
    """The readings; only for figures that need them."""
    assert self.readings is not None
    return self.readings

  @property
  def first_dataset(self) -> str:
    """The data set of figures that show only one."""
    return str(self.traces.dataset.values[0])

  @property
  def has_several_datasets(self) -> bool:
    """True if figures must name the data set."""
    return self.estimates.sizes['dataset'] > 1
