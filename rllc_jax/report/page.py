"""The report: one HTML file, from saved results alone, readable offline."""

from collections.abc import Mapping
import os
import pathlib
from typing import NamedTuple

from rllc_jax import checked_files
from rllc_jax.report import behaviour
from rllc_jax.report import blocks
from rllc_jax.report import claims
from rllc_jax.report import figures
from rllc_jax.report import inputs
from rllc_jax.report import losses
from rllc_jax.report import opening
from rllc_jax.report import rendering
from rllc_jax.report import sections
from rllc_jax.report import separation
from rllc_jax.report import trust
from rllc_jax.report import truth

_TITLE = 'Refined learning coefficients of attention heads'


class Section(NamedTuple):
  """A part of the page with a link of its own."""

  name: str
  title: str
  blocks: list[blocks.Block]


def write_report(
  path: str | os.PathLike, results: inputs.Inputs, svgs: Mapping[str, bytes]
) -> pathlib.Path:
  """Writes the report, replacing an old one whole or not at all.

  Every statement about the run is computed from its results; the page names
  what they lack.

  Args:
    path: of the HTML file.
    results: those of the run.
    svgs: files of `figures.draw(results)`, by name.

  Returns:
    The path.

  Raises:
    OSError: if the disk does not take it.
  """
  path = pathlib.Path(path)
  checked_files.write_bytes(path, html(results, svgs).encode('utf-8'))
  return path


def html(results: inputs.Inputs, svgs: Mapping[str, bytes]) -> str:
  """The text of the page."""
  images = figures.Images(results, svgs)
  # Computed once: the headline and a section say the same.
  verdicts = separation.verdicts(separation.spreads(results.estimates))
  loss = losses.against_unigram(results.training)
  return rendering.page(
    title=_TITLE,
    kicker=opening.kicker(results.estimates),
    headline=opening.headline(verdicts, loss),
    opening=opening.opening(results.estimates, images),
    sections=[
      Section(
        'trained',
        'What was trained',
        sections.trained(results.training, results.corpus, loss, images),
      ),
      Section(
        'heads',
        'The heads',
        sections.heads(results.estimates, verdicts, images),
      ),
      Section(
        'behaviour',
        'What the heads do',
        behaviour.behaviour(results.readings, images),
      ),
      Section('claims', "The paper's claims", claims.claims(results.findings)),
      Section(
        'trust', 'Can the numbers be trusted?', trust.trust(results, images)
      ),
      Section(
        'truth',
        'Known answers and coverage',
        truth.truth(results.known_answers, results.coverage, images),
      ),
      Section(
        'provenance',
        'Provenance',
        sections.provenance(results.provenance, results.traces, results.runs),
      ),
    ],
  )
