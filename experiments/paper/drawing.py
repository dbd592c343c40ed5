"""Draws a figure of the paper from a saved study.

  python -m experiments.figures --config=FILE --workdir=DIR

reads the results of experiments.study in DIR and writes `DIR/figures/NAME.png`.
FILE is one of `experiments/configs/paper`: one a figure.
"""

from collections.abc import Callable
from collections.abc import Mapping
import pathlib

from absl import logging
from matplotlib import figure
import ml_collections

from experiments.paper import comparisons
from experiments.paper import curves_of_heads
from experiments.paper import over_seeds
from experiments.paper import saved
from experiments.runtime import choices
from experiments.runtime import commands
from experiments.runtime import sections
from rllc_jax import checked_files
from rllc_jax.plots import style

DRAWN: Mapping[str, Callable[[saved.Saved], figure.Figure]] = {
  'head_types': curves_of_heads.classes,
  'heads': curves_of_heads.heads,
  'datasets': curves_of_heads.datasets,
  'multigram_circuit': curves_of_heads.multigram_circuit,
  'whole_model': curves_of_heads.whole_model,
  'ablation_clusters': comparisons.ablation_clusters,
  'cluster_methods': comparisons.cluster_methods,
  'baselines': comparisons.baselines,
  'stages': comparisons.stages,
  'memorisation': comparisons.memorisation,
  'affected_tokens': comparisons.tokens,
  'early_tokens': comparisons.early_tokens,
  'sensitivity': comparisons.settings,
  'claims': over_seeds.effects,
  'seeds': over_seeds.curves,
  'classes': over_seeds.classes,
}


def run(
  config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> pathlib.Path:
  """Draws the figure of a config.

  Args:
    config: `figure` has fields of `sections.Figure`.
    workdir: of a study.

  Returns:
    The path of the image.

  Raises:
    OSError: the disk is full.
    ValueError: there is no such figure, or a result that it needs is missing.
  """
  settings = sections.read(config).figure
  if settings.draws not in DRAWN:
    raise ValueError(
      f'config.figure.draws must be one of {", ".join(DRAWN)}; got '
      f'{settings.draws!r}.'
    )
  workdir = pathlib.Path(workdir)
  name = choices.directory_name('figure.name', settings.name)
  image = DRAWN[settings.draws](saved.Saved(workdir, settings))
  path = workdir / 'figures' / f'{name}.png'
  checked_files.write_bytes(path, style.image(image, 'png'))
  logging.info('%s', path)
  return path


def main() -> None:
  """Runs the command line."""
  commands.start(run)
