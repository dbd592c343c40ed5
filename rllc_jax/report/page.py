"""The report: one HTML file, from saved results alone, readable offline."""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
from typing import Any, NamedTuple

import xarray as xr

from rllc_jax import checked_files
from rllc_jax.report import behaviour
from rllc_jax.report import claims
from rllc_jax.report import losses
from rllc_jax.report import markup
from rllc_jax.report import opening
from rllc_jax.report import sections
from rllc_jax.report import separation
from rllc_jax.report import trust
from rllc_jax.report import truth

_TITLE = 'Refined learning coefficients of attention heads'
_SECTIONS = {
  'trained': 'What was trained',
  'heads': 'The heads',
  'behaviour': 'What the heads do',
  'claims': "The paper's claims",
  'trust': 'Can the numbers be trusted?',
  'truth': 'Known answers and coverage',
  'provenance': 'Provenance',
}


class Figures(NamedTuple):
  """SVG files of the figures.

  Attributes:
    llc: refined LLCs over training.
    loss: losses over training.
    spread: spread between heads over training.
    health: diagnostics over training.
    traces: chains of some cells.
    known_answers: estimates beside exact values, if they were sampled.
    coverage: of intervals, if it was measured.
    heads: scores and ablations over training, if they were measured.
    kinds: losses by kind of symbol, of a planted language.
  """

  llc: bytes
  loss: bytes
  spread: bytes
  health: bytes
  traces: bytes
  known_answers: bytes | None = None
  coverage: bytes | None = None
  heads: bytes | None = None
  kinds: bytes | None = None


def write_report(
  path: str | os.PathLike,
  *,
  estimates: xr.Dataset,
  traces: xr.Dataset,
  training: xr.Dataset,
  corpus: Mapping[str, Any],
  figures: Figures,
  burn_in: int,
  provenance: Mapping[str, Any],
  variances: xr.Dataset | None = None,
  known_answers: Sequence[truth.Record] = (),
  coverage: Sequence[truth.Record] = (),
  readings: xr.Dataset | None = None,
  findings: Sequence[truth.Record] = (),
  runs: Sequence[Mapping[str, Any]] = (),
) -> pathlib.Path:
  """Writes the report; one that is there is replaced, whole or not at all.

  Every statement about the run is computed from the arguments; what they lack
  is named as missing.

  Args:
    path: of the HTML file.
    estimates: from `llc_from_traces`.
    traces: those that the estimates are of.
    training: the record of training.
    corpus: the content of `corpus.json`.
    figures: drawn from the same.
    burn_in: steps that the estimates leave out.
    provenance: anything else to be kept: versions, device, command, times.
    variances: from `gains.measure`, if the run has a corpus baseline.
    known_answers: entries of `known_answers.json`, if there is one.
    coverage: entries of `coverage.json`, if there is one.
    readings: `analysis.zarr`, if there is one.
    findings: entries of `claims.json`, if there is one.
    runs: the files of `STORE/runs`.

  Returns:
    The path.

  Raises:
    OSError: if the disk does not take it.
  """
  spreads = separation.spreads(estimates)
  verdicts = separation.verdicts(spreads)
  loss = losses.against_unigram(training)
  bodies = {
    'trained': sections.trained(training, corpus, loss, figures.loss),
    'heads': sections.heads(estimates, verdicts, figures.spread),
    'behaviour': behaviour.behaviour(readings, figures.heads, figures.kinds),
    'claims': claims.claims(findings),
    'trust': trust.trust(
      estimates, traces, burn_in, variances, figures.health, figures.traces
    ),
    'truth': truth.truth(
      known_answers, coverage, figures.known_answers, figures.coverage
    ),
    'provenance': sections.provenance(provenance, traces, runs),
  }
  body = opening.opening(estimates, verdicts, loss, figures.llc, _TITLE)
  links = ''.join(markup.link(name, x) for name, x in _SECTIONS.items())
  body.append(f'<nav>{links}</nav>')
  for name, words in _SECTIONS.items():
    body.append(f'<h2 id="{name}">{markup.text(words)}</h2>')
    body += bodies[name]
  path = pathlib.Path(path)
  checked_files.write_bytes(path, markup.page(_TITLE, body).encode('utf-8'))
  return path
